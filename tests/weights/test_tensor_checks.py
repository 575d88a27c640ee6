"""Tensors of strangers: not finite, of another kind, larger than their file, or inside a program: refused by name, with
the reason."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layerwise import api
from layerwise.cli import main
from layerwise.errors import DamagedError, DataError, LayerwiseError, UsageError
from layerwise.runtime.checksums import is_finite
from layerwise.weights.loading import load_weights
from layerwise.weights.weight_files import read_weights

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def saved(path: Path, content: Any) -> Path:
    """Write a safetensors file or torch's own."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(content, path)
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_numbers_that_are_not_finite_are_refused_by_name(ending: str, value: float, tmp_path: Path) -> None:
    state = network().state_dict()
    state["0.weight"][2, 1] = value
    path = saved(tmp_path / f"w.{ending}", state)
    message = (
        r"w\.\w+: the tensor '0.weight' has numbers that are not finite\n.*\n  received: 1 of 12 are NaN or infinite"
    )
    with pytest.raises(DamagedError, match=message):
        load_weights(network(), path)


def test_build_and_the_command_refuse_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = api.build("mlp", features=64, outputs=10)
    state = model.state_dict()
    name = next(iter(state))
    state[name].view(-1)[5] = math.nan
    path = saved(tmp_path / "w.safetensors", state)
    with pytest.raises(DamagedError, match=f"'{name}' has numbers that are not finite"):
        api.build("mlp", features=64, outputs=10, weights=path)
    assert main(["train", "mlp", "--data", "digits", "--epochs", "1", "--weights", str(path)]) == 2
    assert f"'{name}' has numbers that are not finite" in capsys.readouterr().err


@settings(max_examples=60)
@given(st.lists(st.floats(width=16, allow_nan=True, allow_infinity=True), max_size=6), st.sampled_from(DTYPES))
def test_finite_means_finite_in_every_kind_of_number(values: list[float], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=torch.float32).to(dtype)
    assert is_finite(tensor) == all(map(math.isfinite, tensor.double().tolist()))


UNUSABLE: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (lambda: torch.eye(4, 3).to_sparse(), "sparse .sparse_coo."),
    "csr": (lambda: torch.eye(4, 3).to_sparse_csr(), "sparse .sparse_csr."),
    "meta": (lambda: torch.empty(4, 3, device="meta"), "without data"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8), "quantized .qint8."),
    "complex": (lambda: torch.ones(4, 3, dtype=torch.complex64), "complex .complex64."),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    "packed": (lambda: torch.zeros(4, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "packed numbers .float4"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_of_another_kind_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, said = UNUSABLE[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = make()
    path = saved(tmp_path / "w.pt", {**network().state_dict(), "0.weight": odd})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            DataError, match=rf"w.pt: the tensor '0.weight' is .*{said}.*\n  expected: dense tensors of real numbers"
        ):
            load_weights(network(), path)


@pytest.mark.parametrize("stride", ["one number", "a row"])
def test_a_tensor_that_repeats_its_numbers_for_ever_is_refused(stride: str, tmp_path: Path) -> None:
    few = torch.ones(1) if stride == "one number" else torch.ones(1, 4)
    odd = few.expand(10**12) if stride == "one number" else few.expand(10**11, 4)
    path = saved(tmp_path / "w.pt", {**network().state_dict(), "0.weight": odd})
    with pytest.raises(DataError, match=r"'0.weight' repeats its numbers, and would take [\d,]+ bytes"):
        load_weights(network(), path)


def test_many_tensors_that_repeat_a_little_are_counted_together(tmp_path: Path) -> None:
    few = torch.ones(1).expand(2**17)  # 512 KiB each
    assert len(read_weights(saved(tmp_path / "a.pt", {"a": few})).tensors) == 1
    with pytest.raises(DataError, match="repeats its numbers"):
        read_weights(saved(tmp_path / "b.pt", {str(n): few for n in range(100)}))


def test_tied_weights_are_read(tmp_path: Path) -> None:
    shared = torch.randn(300, 300)
    found = read_weights(saved(tmp_path / "w.pt", {"a": shared, "b": shared, "c": shared.t()})).tensors
    assert torch.equal(found["c"], shared.t())


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_program_is_named_and_the_advice_works(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("w.pt" if kind == "TorchScript" else "w.pt2")
    model = network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "TorchScript":
            torch.jit.script(model).save(path)
        else:
            torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), path)
    with pytest.raises(DataError, match=f"is a {kind} file: it holds a program") as caught:
        load_weights(network(), path)
    text = str(caught.value)
    assert "weights_only" not in text
    advice = (
        text.partition("weights alone: ")[2]
        .replace(f"'{path.name}'", f"'{path}'")
        .replace("'weights.pt'", f"'{tmp_path}/weights.pt'")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eval(advice, {"torch": torch})
    found = load_weights(network(), tmp_path / "weights.pt").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"a": nn.ReLU}, {"a": torch.ones(1), "b": print}])
def test_torchs_advice_is_never_repeated(content: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", content)
    with pytest.raises(LayerwiseError) as caught:
        load_weights(network(), path)
    assert "weights_only" not in str(caught.value)
    assert "arbitrary" not in str(caught.value)


@pytest.mark.parametrize("where", ["", "state_dict", "model"])
def test_weights_beside_other_things_are_taken(where: str, tmp_path: Path) -> None:
    state = network().state_dict()
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "mean": torch.ones(1)}
    content: dict[str, Any] = {**state, "epoch": 3, "best": 0.5, "optimizer": optimizer}
    content = {where: content, "arch": "x"} if where else content
    found = load_weights(network(), saved(tmp_path / "w.pt", content))
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }
    assert set(found.assets["beside"]) == {"epoch", "best", "optimizer"} | ({"arch"} if where else set())
    assert "epoch" in found.note


def test_a_lone_tensor_beside_weights_does_not_hide_them(tmp_path: Path) -> None:
    state = network().state_dict()
    found = load_weights(
        network(), saved(tmp_path / "w.pt", {"mine": state, "rng": torch.zeros(9, dtype=torch.uint8), "epoch": 3})
    )
    assert found.assets["place"] == "mine"
    assert set(found.assets["beside"]) == {"rng", "epoch"}


@pytest.mark.parametrize("prefix", ["model.", "net.model.", "module.net.", "_orig_mod.module.model."])
@pytest.mark.parametrize("extra", ["epoch", "loss.weight", "a.b.c", "0.weights"])
def test_one_extra_name_beside_a_prefix_is_the_one_in_the_error(extra: str, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in network().state_dict().items()}
    path = saved(tmp_path / "w.pt", {**state, extra: torch.ones(2)})
    with pytest.raises(
        UsageError, match=rf"(?s)1 key\(s\) differ\n    {extra}: not in the model \(received \(2,\)\)\n  do this"
    ):
        load_weights(network(), path)
    assert load_weights(network(), saved(tmp_path / "w.pt", state)).assets["prefix"] == prefix


def test_names_of_another_network_are_listed_as_they_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {f"features.{n}": torch.ones(1) for n in range(5)})
    with pytest.raises(UsageError, match=r"features\.0: not in the model"):
        load_weights(network(), path)


def test_no_error_of_torchs_repeats_its_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kind of error it comes with."""

    def load_badly(*_: object, **__: object) -> None:
        raise RuntimeError("re-run torch.load with weights_only=False, which can run anything")

    monkeypatch.setattr(torch, "load", load_badly)
    (tmp_path / "w.pt").write_bytes(b"x")
    with pytest.raises(DamagedError, match=r"torch cannot read it \(RuntimeError\)") as caught:
        read_weights(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)
