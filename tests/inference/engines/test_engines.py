"""Engines: each gives the network's outputs, is refused where it does not, and `auto` keeps what it measured."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerwise import api
from layerwise.cli import main
from layerwise.errors import DamagedError, UsageError
from layerwise.inference.engines import engine_choice, exported_graphs
from layerwise.inference.engines.base import Engine, choose_device, compute_chunk_size, verify_engine
from layerwise.inference.engines.engine_choice import AutoEngine, EngineChoice, choose_engine, make_engine
from layerwise.inference.engines.native import TorchEngine
from layerwise.inference.evaluate import evaluate_run
from layerwise.inference.predict import LoadedRun, load_run
from layerwise.runtime.checksums import digest, dump_checksummed


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a small network with batch norms, and a cache of our own; the graph is exported once for all tests
    here."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        options = {"train.threads": 1, "model.batch_norm": True, "model.widths": [4, 8], "model.dense": [8]}
        api.train("cnn", data="digits", out=folder / "run", epochs=1, seed=1, options=options)
        yield folder


@pytest.fixture
def loaded(run_path: Path) -> LoadedRun:
    """The run, opened."""
    return load_run(run_path / "run")


def draw_inputs(loaded: LoadedRun, count: int) -> Tensor:
    return loaded.task.inputs.probe(count, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_every_engine_gives_the_networks_outputs(name: str, loaded: LoadedRun) -> None:
    engine = loaded.make_engine(name)
    for size in (1, 5, 300):  # 300: in two pieces
        x = draw_inputs(loaded, size)
        with torch.inference_mode():
            torch.testing.assert_close(engine(x), loaded.model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_answers_on_the_cpu_alone(name: str) -> None:
    assert choose_device(name, "auto") == choose_device(name, "cpu") == torch.device("cpu")
    with pytest.raises(UsageError) as caught:
        choose_device(name, "cuda")
    assert f"the engine {name} runs on the CPU" in str(caught.value)
    assert "received: --device cuda" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_refused(run_path: Path) -> None:
    assert choose_device("torch", "auto") == torch.device("cpu")
    for call in (
        lambda: api.Run(run_path / "run").predictor(device="cuda"),
        lambda: evaluate_run(run_path / "run", device="cuda"),
    ):
        with pytest.raises(UsageError, match="device 'cuda' is not here"):
            call()


@pytest.mark.soak
def test_the_translated_network_gives_the_networks_outputs(loaded: LoadedRun) -> None:
    engine = loaded.make_engine("compiled")
    for size in (1, 3, 256):
        x = draw_inputs(loaded, size)
        with torch.inference_mode():
            torch.testing.assert_close(engine(x), loaded.model(x), rtol=1e-4, atol=1e-4)
    assert set(engine.programs) == {1, 256}  # type: ignore[arg-type]


def test_without_a_compiler_nothing_is_translated(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"--engine compiled needs a C\+\+ compiler"):
        loaded.make_engine("compiled")


def test_an_unknown_engine_is_refused_with_the_nearest(loaded: LoadedRun) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        loaded.make_engine("onnxrutime")


def test_torchs_own_form_is_folded_and_leaves_the_network_alone(loaded: LoadedRun) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    engine = TorchEngine(loaded.model.double())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in engine.modules())
    x = draw_inputs(loaded, 6).double()
    with torch.inference_mode():
        assert (engine(x) - loaded.model(x)).abs().max() < 1e-10
    assert all(torch.equal(tensor, before[name].to(tensor.dtype)) for name, tensor in loaded.model.state_dict().items())


def test_pieces_hold_as_many_as_memory_likes() -> None:
    assert compute_chunk_size((3, 224, 224)) == 16
    assert compute_chunk_size((1, 28, 28)) == 256
    assert compute_chunk_size((3, 4096, 4096)) == 1


class Wrong(Engine):
    """An engine that is a little off."""

    name = "wrong"

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def run(self, x: Tensor) -> Tensor:
        return self.model(x) * (1 + self.by)


def test_an_engine_that_differs_is_refused(loaded: LoadedRun) -> None:
    verify_engine(Wrong(loaded.model, 1e-6), loaded.export_source)
    with pytest.raises(
        DamagedError, match=r"wrong does not compute what cnn computes(?s:.*)within 0\.0001(?s:.*)use --engine torch"
    ):
        verify_engine(Wrong(loaded.model, 1e-3), loaded.export_source)


def test_a_damaged_graph_is_written_anew_and_a_foreign_one_refused(
    loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loaded.directory.path
    path = exported_graphs.find_or_export_graph(loaded.export_source, run)
    assert path.parent == run / "engines"
    good = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(exported_graphs, "export_graph", lambda _: pytest.fail("a whole graph is not written again"))
        assert exported_graphs.find_or_export_graph(loaded.export_source, run) == path
    path.write_bytes(good[:-9] + b"xxxxxxxxx")
    assert not exported_graphs.is_intact(path)
    with monkeypatch.context() as patch:
        patch.setattr(exported_graphs, "export_graph", lambda _: good)
        assert exported_graphs.find_or_export_graph(loaded.export_source, run).read_bytes() == good
    with torch.no_grad():
        next(loaded.model.parameters()).mul_(2)  # as if the graph were another network's
    with pytest.raises(DamagedError, match="onnxruntime does not compute"):
        make_engine(loaded.export_source, "onnxruntime", run)


def test_a_new_graph_takes_the_old_ones_place(tmp_path: Path) -> None:
    exported_graphs.save_graph(tmp_path / "a.onnx", b"old")
    exported_graphs.save_graph(tmp_path / "b.onnx", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.onnx", "b.onnx.json"]
    assert exported_graphs.is_intact(tmp_path / "b.onnx")


def test_auto_measures_once_and_takes_the_fastest(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = loaded.directory.path
    auto = AutoEngine(loaded.export_source, run)
    x = draw_inputs(loaded, 3)
    with torch.inference_mode():
        torch.testing.assert_close(auto(x), loaded.model(x), rtol=1e-4, atol=1e-4)
    made = auto.choices[256]
    assert set(made.speeds) == {"torch", "onnxruntime", "openvino"}
    assert made.chosen == choose_engine(made.speeds)
    assert made.format_line() in auto.notes()
    monkeypatch.setattr(
        engine_choice, "measure_engines", lambda *_: pytest.fail("a known choice is not measured again")
    )
    again = AutoEngine(loaded.export_source, run)
    again(x)
    assert again.choices == {256: made}


def test_torch_stays_unless_another_is_clearly_faster() -> None:
    assert choose_engine({"torch": 100.0, "onnxruntime": 102.0}) == "torch"
    assert choose_engine({"torch": 100.0, "onnxruntime": 110.0, "openvino": 120.0}) == "openvino"


CHOICE = EngineChoice(1, "torch", {"torch": 10.0}, {"openvino": "it is not here"}, 2)


def test_a_kept_choice_survives_damage_newer_formats_and_writers_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "choice.json"
    assert engine_choice.read_choice(path) is None
    threads = [threading.Thread(target=engine_choice.save_choice, args=(path, CHOICE)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine_choice.read_choice(path) == CHOICE
    assert [p.name for p in path.parent.iterdir()] == ["choice.json"]
    data = path.read_bytes()
    for bad in (
        data[:-20],
        data.replace(b"10.0", b"11.0"),
        b"\xff\x00",
        b"{}",
        dump_checksummed({"choice": {"batch": "x"}}),
    ):
        path.write_bytes(bad)
        assert engine_choice.read_choice(path) is None
    body = {"choice": msgspec.to_builtins(CHOICE), "format": 99}
    body["checksum"] = digest(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    path.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n")
    assert engine_choice.read_choice(path) is None


def test_the_choice_in_words() -> None:
    assert (
        CHOICE.format_line()
        == "engine torch for batches of 1 (measured on 2 threads: torch 10.0/s; openvino left out: it is not here)"
    )
    assert "批量 1 用引擎 torch" in CHOICE.format_line("zh")


def test_a_missing_runtime_says_what_to_install(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    there = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "openvino" else there(name))
    with pytest.raises(UsageError, match=r'openvino needs openvino(?s:.*)pip install "layerwise\[openvino\]"'):
        loaded.make_engine("openvino")


def test_commands_take_and_tell_the_engine(run_path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "eye.png")
    run = str(run_path / "run")
    said = {}
    for engine in ("torch", "onnxruntime", "auto"):
        assert main(["predict", run, str(tmp_path / "eye.png"), "--engine", engine, "--json"]) == 0
        said[engine] = json.loads(capsys.readouterr().out)
    assert list(said["torch"]) == ["format", "predictions", "failed"]
    assert said["onnxruntime"]["engine"] == {"name": "onnxruntime"}
    assert said["torch"]["predictions"][0]["label"] == said["onnxruntime"]["predictions"][0]["label"]
    assert said["auto"]["engine"]["choices"][0]["batch"] == 1
    assert main(["eval", run, "--engine", "onnxruntime", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["engine"] == {"name": "onnxruntime"}
    assert evaluated["metrics"]["accuracy"] == pytest.approx(api.open(run).metrics["test/accuracy"], abs=1e-9)
    assert main(["doctor", run, "--json"]) == 0
    assert 1 in [one["batch"] for one in json.loads(capsys.readouterr().out)["engines"]]
