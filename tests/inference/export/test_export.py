"""Exports: what other programs read is what the network computes, and says what it needs."""

from __future__ import annotations

import json
from collections.abc import Collection
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.utils import fusion

from layerwise import api, recipe, registry
from layerwise.cli import main
from layerwise.errors import UsageError
from layerwise.functional.batch_norm import Affine, Moments, fold_batch_norm
from layerwise.inference.export import base, files, torch_files
from layerwise.inference.export.base import ExportError, ExportSource
from layerwise.inference.export.folding import find_foldable_pairs, fold_batch_norms
from layerwise.models.convolutional import cnn
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.column_encoders import NumberEncoder
from layerwise.tasks.cooccurrence import CoOccurrence, CoOccurrenceOptions
from layerwise.tasks.inputs import ImageInputs, Inputs
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression
from layerwise.tasks.row_inputs import RowInputs
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import Words, WordsOptions
from layerwise.weights.weight_files import read_weights

SPECS = sorted(name for name, spec in registry.load_specs().items() if spec.rule)
NO_GRAPH = {"hopfield"}  # recalls until it rests: how often, the values decide
GRAPHS = [name for name in SPECS if name not in NO_GRAPH]
FIRST = {
    registry.find(name).module: name for name in reversed(GRAPHS)
}.values()  # one a file of networks; tracing takes up to two seconds


def mark_unusual(ordinary: Collection[str]) -> list[object]:
    """Return every model that is a graph; those that are not ordinary wait for the soak test."""
    return [name if name in ordinary else pytest.param(name, marks=pytest.mark.soak) for name in GRAPHS]


def randomize_batch_norms(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that are not those of a fresh one."""
    draw = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            source = (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.5),
            )
            for tensor, low in source:
                tensor.copy_(torch.rand(tensor.shape, generator=draw, dtype=torch.float64) + low)
    return model.eval()


def make_source(name: str, **changes: object) -> ExportSource:
    """Return a model's small form with fresh weights, under a task that fits it."""
    spec = registry.find(name)
    arguments = recipe.resolve_arguments(registry.get_builder(spec), {**spec.small, **changes}, {}, name)
    torch.manual_seed(1)
    model: nn.Module = randomize_batch_norms(registry.get_builder(spec)(**arguments))
    return ExportSource(spec, arguments, model, make_task(spec, arguments), "0" * 64)


def make_task(spec: registry.ModelSpec, arguments: dict[str, object]) -> Task:
    """Return the first task of a model, over images where its builder asks for their size, over words where for their
    number."""
    inputs: Inputs
    if "words" in arguments:
        count = int(arguments["words"])  # type: ignore[call-overload]
        vocabulary = WordInputs(tuple(f"w{n}" for n in range(count)), tuple(range(count, 0, -1)))
        return (
            Words(vocabulary, WordsOptions())
            if spec.tasks[0] == "words"
            else CoOccurrence(vocabulary, CoOccurrenceOptions())
        )
    defaults = {name: p.default for name, p in signature(registry.get_builder(spec)).parameters.items()}
    if "channels" in defaults:
        side = tuple({**defaults, **arguments}.get("size", (32, 32)))
        channels = int({**defaults, **arguments}["channels"])
        inputs = ImageInputs(side, channels, (0.4,) * channels, (0.3,) * channels)
    else:
        count = int(arguments["features"])  # type: ignore[call-overload]
        inputs = RowInputs(tuple(NumberEncoder(f"x{i}", False, 0.0, 1.0, False) for i in range(count)))
    if spec.tasks[0] == "reconstruction":
        return Reconstruction(inputs)
    return Classification(
        inputs, tuple(f"class {i}" for i in range(int(arguments.get("outputs", arguments.get("classes", 2)))))
    )  # type: ignore[call-overload]


# -- folding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 6)], ids=["convolution", "dense"])
def test_folding_is_torchs(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draw, dtype=torch.float64)
    bias, mean, gamma, beta = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    variance = torch.rand(4, generator=draw, dtype=torch.float64) + 0.1
    mine = fold_batch_norm(Affine(weight, bias), Moments(mean, variance), weight=gamma, bias=beta, eps=1e-3)
    helper = fusion.fuse_conv_bn_weights if len(shape) == 4 else fusion.fuse_linear_bn_weights
    theirs = helper(weight, bias, mean, variance, 1e-3, gamma, beta)
    torch.testing.assert_close(mine.weight, theirs[0].data, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.bias, theirs[1].data, rtol=1e-12, atol=1e-12)


def test_folded_network_is_the_same_in_float64() -> None:
    model = randomize_batch_norms(
        cnn(outputs=3, channels=2, size=(8, 8), widths=(4, 6), dense=(5,), batch_norm=True).double()
    )
    dense = randomize_batch_norms(
        nn.Sequential(
            nn.Flatten(), nn.Linear(128, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), build_model_tail()
        ).double()
    )
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    for network, norms in ((model, 2), (dense, 1)):
        made = fold_batch_norms(network)
        assert made.norms == norms
        assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in made.model.modules())
        wanted = network(x)
        assert (made.model(x) - wanted).abs().max() < 1e-10 * wanted.abs().max()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 2  # the network itself stays


def build_model_tail() -> nn.Module:
    """The rest of a dense network."""
    return nn.Linear(7, 3)


class Tied(nn.Module):
    """A convolution called twice, one whose output is read twice, and a norm before its convolution: none may be
    folded."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.shown, self.after = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.one, self.two, self.three = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(self.twice(self.twice(x)))
        y = self.shown(x)
        return self.after(self.three(self.two(y) + y))


def test_only_what_alone_reads_a_layer_is_folded() -> None:
    model = randomize_batch_norms(Tied().double())
    assert list(find_foldable_pairs(model)) == []
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(fold_batch_norms(model).model(x), model(x))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_weights_keep_their_names_and_values(name: str, tmp_path: Path) -> None:
    source = make_source(name)
    made = files.export(source, tmp_path / "w.safetensors")
    with safe_open(made.path, "pt") as file:
        told = json.loads(file.metadata()["layerwise"])
        assert {k: v for k, v in told.items() if k in ("model", "labels", "task")} == {
            "model": name,
            "labels": source.task.to_json().get("classes"),
            "task": json.loads(json.dumps(source.task.to_json())),
        }
        wanted = source.model.state_dict()
        assert set(file.keys()) == set(wanted)
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in wanted.items())


@pytest.mark.parametrize("name", mark_unusual(FIRST))
def test_the_graph_is_the_network(name: str) -> None:
    """The program that `.pt2` holds, over batch sizes it was not traced with."""
    source = make_source(name)
    module = source.task.export_module(source.model).module
    traced = torch_files.trace_program(module, source, torch.float32).module()
    draw = torch.Generator().manual_seed(9)
    for size in (1, 5):
        x = source.task.inputs.probe(size, draw)
        for mine, theirs in zip(traced(x), module(x), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_what_is_no_graph_says_why(tmp_path: Path) -> None:
    source = make_source("hopfield")
    with pytest.raises(UsageError, match=r"hopfield cannot be written as a graph(?s:.*)export \.safetensors"):
        files.export(source, tmp_path / "h.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folding", [False, True])
def test_pt2_comes_back_with_its_meaning(folding: bool, tmp_path: Path) -> None:
    source = make_source("cnn", batch_norm=True)
    made = files.export(source, tmp_path / "net.pt2", fold=folding)
    extra = {"layerwise.json": ""}
    loaded = torch.export.load(made.path, extra_files=extra)
    told = json.loads(extra["layerwise.json"])
    assert told["labels"] == ["class 0", "class 1", "class 2"]
    assert told["batch_norms_folded"] == (2 if folding else None)
    assert ("batch_norm" in str(loaded.graph)) != folding
    x = torch.randn(3, 1, 8, 8)
    logits, probabilities = loaded.module()(x)
    torch.testing.assert_close(logits, source.model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))


def run_onnx(path: Path, x: torch.Tensor) -> list[np.ndarray]:
    """Run a file by onnxruntime, as a program that knows nothing of Layerwise would."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


@pytest.mark.parametrize("name", mark_unusual(["cnn", "oja"]))
def test_onnx_computes_what_the_network_computes(name: str, tmp_path: Path) -> None:
    import onnx

    source = make_source(name, **({"batch_norm": True} if name == "cnn" else {}))
    made = files.export(source, tmp_path / "net.onnx", fold=name == "cnn")
    model = onnx.load(made.path)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [out.name for out in model.graph.output] == [out["name"] for out in made.facts["outputs"]]
    assert not any(node.metadata_props for node in model.graph.node)
    told = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert told["labels"] == source.task.to_json().get("classes")
    for size in (1, 4):
        x = source.task.inputs.probe(size, torch.Generator().manual_seed(3))
        for mine, theirs in zip(run_onnx(made.path, x), source.task.export_module(source.model).module(x), strict=True):
            np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)
    beside = json.loads(made.metadata_path.read_text())
    assert [one["batch"] for one in beside["check"]["differences"]] == [1, 2, 7, 16]
    assert beside["versions"]["opset"] == model.opset_import[0].version


def test_a_number_is_answered_in_its_own_unit() -> None:
    inputs = RowInputs(tuple(NumberEncoder(f"x{i}", False, 0.0, 1.0, False) for i in range(8)))
    task = Regression(inputs, "price", 200.0, 50.0, "mse")
    model = registry.get_builder(registry.find("mlp"))(features=8, outputs=1).eval()
    x = torch.randn(4, 8)
    scaled, value = task.export_module(model).module(x)
    said = [answer.value for answer in task.decode(model(x), None)]  # type: ignore[arg-type, attr-defined]
    np.testing.assert_allclose(value[:, 0].detach().numpy(), said, rtol=1e-6)
    assert torch.equal(scaled, model(x))


def test_a_wrong_graph_is_found_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check sees a graph with one weight changed."""
    source, other = make_source("mlp"), make_source("mlp")
    other.model[-1].bias.data[0] += 0.01  # type: ignore[index]
    serialize = torch_files.serialize_safetensors
    monkeypatch.setattr(torch_files, "serialize_safetensors", lambda _model, metadata: serialize(other.model, metadata))
    with pytest.raises(ExportError, match="does not compute what the network computes"):
        files.export(source, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_that_is_no_number_does_not_pass() -> None:
    nan = torch.full((2, 3), float("nan"))
    assert not base.Check("", base.TOLERANCE, [base._compute_difference(2, [torch.ones(2, 3)], [nan])]).passed
    assert not base.Check(
        "", base.TOLERANCE, [base._compute_difference(2, [torch.ones(2, 3)], [torch.ones(3, 2)])]
    ).passed


def test_places_and_endings_that_will_not_do(tmp_path: Path) -> None:
    source = make_source("mlp")
    with pytest.raises(
        UsageError, match=r"no ending that says what to write(?s:.*)\.onnx(?s:.*)\.pt2(?s:.*)\.safetensors"
    ):
        files.export(source, tmp_path / "net.tflite")
    with pytest.raises(UsageError, match="there is no folder"):
        files.export(source, tmp_path / "nowhere" / "net.pt2")
    with pytest.raises(UsageError, match="--fold takes batch norms out of a graph"):
        files.export(source, tmp_path / "net.safetensors", fold=True)
    files.export(source, tmp_path / "net.safetensors")
    before = (tmp_path / "net.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"exists already(?s:.*)--overwrite"):
        files.export(source, tmp_path / "net.safetensors")
    files.export(make_source("perceptron"), tmp_path / "net.safetensors", overwrite=True)
    assert (tmp_path / "net.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.safetensors", "net.safetensors.json"]


def test_a_missing_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(UsageError, match=r'\.onnx needs onnxscript(?s:.*)pip install "layerwise\[onnx\]"'):
        files.export(make_source("mlp"), tmp_path / "net.onnx")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = api.train(
        "mlp", data="iris", out=tmp_path / "run", epochs=1, options={"train.threads": 1, "model.hidden": [4]}
    )
    assert main(["export", str(run.path), str(tmp_path / "iris.safetensors"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["format"] == 1
    assert said["check"]["differences"][0] == {"batch": 1, "absolute": 0.0, "relative": 0.0}
    assert Path(said["beside"]).is_file()
    assert read_weights(tmp_path / "iris.safetensors").tensors.keys() == run.model().state_dict().keys()
    assert main(["export", "mcp", str(tmp_path / "m.onnx")]) == 2
    assert "mcp (1943) has no weights to export: its weights and threshold are fixed by hand" in capsys.readouterr().err
