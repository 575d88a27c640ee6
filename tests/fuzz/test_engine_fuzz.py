"""Engines of a run that came from elsewhere: its graphs are never run, its seals, choices and measurements are data."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from fuzzing import fuzz, get_soak_seconds, mutate, run_seed
from spoiling import compute_folder_digest, seal_file, spoil_value

from layerwise import api
from layerwise.errors import DamagedError, LayerwiseError
from layerwise.inference.engines import engine_choice, exported_graphs
from layerwise.inference.engines.engine_choice import EngineChoice
from layerwise.inference.engines.exported_graphs import find_graph_problems
from layerwise.inference.engines.runtimes import OnnxRuntimeEngine, OpenVinoEngine, check_no_external_data
from layerwise.inference.predict import load_run
from layerwise.runtime import machine
from layerwise.runtime.checksums import digest, dump_checksummed

IMAGE = np.zeros((8, 8), np.uint8)
CHOICE = EngineChoice(1, "torch", {"torch": 10.0, "onnxruntime": 9.0}, {"openvino": "not here"}, 2)


def train_run(root: Path) -> Path:
    """Train a small run and export its graph into its folder."""
    root.mkdir(exist_ok=True)
    options = {"train.threads": 1, "model.widths": [4], "model.dense": [8], "model.dropout": 0, "examples": 100}
    api.train("cnn", data="digits", out=root / "run", epochs=1, seed=1, options=options)
    api.open(root / "run").predictor(engine="onnxruntime")(IMAGE)
    engine_choice.save_choice(root / "deep" / "choice.json", CHOICE)
    return root


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        yield train_run(tmp_path_factory.mktemp("engines"))


def find_graph(run: Path) -> Path:
    return next((run / "engines").glob("*.onnx"))


def case(draw: random.Random, engines: Path) -> None:
    """Spoil a graph and seal it again, its seal, a choice or the measurements of this machine."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(shutil.copytree(engines, Path(name) / "made"))
        graph, choice_path = find_graph(root / "run"), root / "deep" / "choice.json"
        if draw.random() < 0.5:
            graph.write_bytes(mutate(graph.read_bytes(), draw))
        seal = graph.with_name(graph.name + ".json")
        if draw.random() < 0.5:
            seal_file(seal, sha256=digest(graph.read_bytes()))
        else:
            seal.write_text(json.dumps(spoil_value(json.loads(seal.read_bytes()), draw)))
            seal_file(seal)
        choice_path.write_text(json.dumps(spoil_value(json.loads(choice_path.read_bytes()), draw)))
        seal_file(choice_path)
        outside = compute_folder_digest(root, without="run")
        for read in (lambda: find_graph_problems(root / "run"), lambda: engine_choice.read_choice(choice_path)):
            with contextlib.suppress(LayerwiseError):
                read()
        stored = engine_choice.read_choice(choice_path)
        assert stored is None or stored.chosen in stored.speeds
        if draw.random() < 0.2:
            predictions = api.open(root / "run").predictor(engine="onnxruntime")(IMAGE)
            assert predictions[0].probabilities if hasattr(predictions[0], "probabilities") else predictions
        assert compute_folder_digest(root, without="run") == outside


def test_a_spoiled_engine_is_never_run(engines: Path) -> None:
    for seed in range(20):
        run_seed(seed, lambda draw: case(draw, engines))
    fuzz(2, lambda draw: case(draw, engines))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak_of_engines(engines: Path) -> None:
    assert fuzz(get_soak_seconds(), lambda draw: case(draw, engines))


def make_bad_graphs(good: bytes) -> dict[str, bytes]:
    """Return graphs that no runtime should be led astray by."""
    outside, huge, other, custom = (onnx.load_from_string(good) for _ in range(4))
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    huge.graph.initializer[0].dims[:] = [2**40, 2**20]
    other.graph.input[0].name = "another"
    custom.graph.node[0].op_type, custom.graph.node[0].domain = "Sneaky", "evil"
    return {
        "garbage": b"\xff" * 1000,
        "empty": b"",
        "outside": outside.SerializeToString(),
        "huge": huge.SerializeToString(),
        "other": other.SerializeToString(),
        "custom": custom.SerializeToString(),
    }


KINDS = ("garbage", "empty", "outside", "huge", "other", "custom")


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_came_with_a_run_is_exported_anew(
    kind: str, engines: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Re-sealed in the run's folder, it reaches no runtime: the answers are the network's, and nothing is said on the
    terminal."""
    run = Path(shutil.copytree(engines / "run", Path("run")))
    graph = find_graph(run)
    good = graph.read_bytes()
    graph.write_bytes(make_bad_graphs(good)[kind])
    seal_file(graph.with_name(graph.name + ".json"), sha256=digest(graph.read_bytes()))
    assert exported_graphs.is_intact(graph)
    assert not exported_graphs.was_exported_here(graph)
    capfd.readouterr()
    expected, prediction = (api.open(run).predictor(engine=engine)(IMAGE)[0] for engine in ("torch", "onnxruntime"))
    assert prediction.label == expected.label  # type: ignore[attr-defined]
    assert graph.read_bytes() != make_bad_graphs(good)[kind]
    assert "passwd" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("engine", [OnnxRuntimeEngine, OpenVinoEngine])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_graph_is_one_error_that_names_it(
    kind: str, engine: type[OnnxRuntimeEngine] | type[OpenVinoEngine], engines: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Should one be there all the same: the second line of defense."""
    path = Path("bad.onnx").resolve()
    path.write_bytes(make_bad_graphs(find_graph(engines / "run").read_bytes())[kind])
    loaded = load_run(engines / "run")
    capfd.readouterr()
    with pytest.raises(
        DamagedError, match=r"bad\.onnx (cannot be run by|is damaged).*rm |bad\.onnx(?s:.*)--engine torch"
    ):
        engine(path).run(loaded.task.inputs.tensor(IMAGE[None, :, :, None]))
    output = capfd.readouterr()
    assert output.out + output.err == ""


def test_numbers_in_other_files_are_refused_before_a_runtime_opens_them(engines: Path) -> None:
    Path("bad.onnx").write_bytes(make_bad_graphs(find_graph(engines / "run").read_bytes())["outside"])
    with pytest.raises(DamagedError, match=r"(?s)lie in another file, which was not opened.*/etc/passwd"):
        check_no_external_data(Path("bad.onnx"))


def test_a_choice_for_auto_itself_is_measured_anew() -> None:
    """``auto`` that chose ``auto`` would never end."""
    path = Path("deep/choice.json")
    path.parent.mkdir()
    for bad in ({"chosen": "auto", "speeds": {"auto": 1.0}}, {"speeds": {"torch": -1.0}}, {"threads": 10**9}):
        path.write_bytes(dump_checksummed({"choice": {**CHOICE.to_json(), **bad}}))
        assert engine_choice.read_choice(path) is None


SPOILED = {"deep": b"[" * 100_000, "bytes": b"\xff", "none": b"{}", "x": b'{"x": 5}', "large": b" " * (1 << 21)}


@pytest.mark.parametrize("content", list(SPOILED.values()), ids=list(SPOILED))
def test_spoiled_measurements_of_products_are_made_anew(
    content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "layerwise" / "matmul.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert machine._read_cache() == {}
