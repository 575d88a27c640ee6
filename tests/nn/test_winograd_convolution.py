"""Networks whose 3×3 convolutions go by tiles: the same names and functions, and torch's own way wherever tiles cannot
or do not pay."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layerwise import api
from layerwise.inference.export.folding import fold_batch_norms
from layerwise.kernels.convolution import winograd
from layerwise.nn.convolution import use_fast_kernels
from layerwise.nn.winograd_convolution import PointwiseConv2d, WinogradConv2d
from processes import assert_same
from small_runs import write_digit_folders
from test_contract import cut_short


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were called."""
    seen: list[str] = []
    for name in ("convolve_transformed", "convolve", "input_gradient", "weight_gradient"):
        real = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *args, _name=name, _real=real: seen.append(_name) or _real(*args))
    return seen


def network() -> nn.Sequential:
    """Two convolutions of the kind, and others: of three maps, with a stride, dilated, in groups, 5×5, without zeros
    around."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 16, 5, padding=2),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def gradients(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of one loss by all trained parameters and by the input."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 3).backward()
    assert x.grad is not None
    return [*(p.grad for p in net.parameters() if p.grad is not None), x.grad]


@pytest.mark.parametrize(
    "frozen", [(), ("2.weight",), ("5.bias", "2.weight", "5.weight"), ("0.weight", "0.bias", "5.bias")]
)
def test_gradients_are_those_of_a_plain_network(frozen: tuple[str, ...], calls: list[str]) -> None:
    net = network()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    x = torch.randn(16, 3, 24, 24)
    exact = gradients(copy.deepcopy(net).double(), x.double())
    names = list(net.state_dict())
    assert use_fast_kernels(net) == 2
    assert [type(net[k]) is WinogradConv2d for k in (2, 5)] == [True, True]
    assert list(net.state_dict()) == names
    found = gradients(net, x)
    assert calls.count("weight_gradient") == sum(name not in frozen for name in ("2.weight", "5.weight"))
    assert len(found) == len(exact)
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-5)


def test_torchs_own_way_where_tiles_cannot_or_do_not_pay(calls: list[str]) -> None:
    net = network()
    plain = copy.deepcopy(net).eval()
    use_fast_kernels(net.eval())
    x = torch.randn(16, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(net(x[:1, :, :8, :8]), plain(x[:1, :, :8, :8]))  # a few tiles
        assert torch.equal(net.double()(x.double()), plain.double()(x.double()))
        net, plain = net.float(), plain.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(net(x), plain(x))
            maps = torch.randn(16, 16, 24, 24)  # float32 still, as a network's first layer gets them
            assert torch.equal(net[2](maps), plain[2](maps))
        exported = torch.export.export(net, (x,)).module()
        assert torch.equal(exported(x), plain(x))
    nn.functional.cross_entropy(net(x[:1]), torch.tensor([0])).backward()  # too little work to transform gradients for
    assert not calls
    assert fold_batch_norms(net).norms == fold_batch_norms(plain).norms == 1


def test_float64_networks_and_maps_that_are_no_multiples_are_left_alone() -> None:
    assert use_fast_kernels(network().double()) == 0
    assert use_fast_kernels(nn.Sequential(nn.Conv2d(20, 32, 3, padding=1), nn.Conv2d(32, 24, 3, padding=1))) == 0
    assert use_fast_kernels(nn.Sequential(nn.Linear(3, 3))) == 0


def test_an_engine_keeps_what_is_made_of_its_weights(calls: list[str]) -> None:
    net, x = network().eval(), torch.randn(16, 3, 24, 24)
    exact = copy.deepcopy(net).double()
    assert use_fast_kernels(net, frozen=True) == 2
    made = [net[k].points for k in (2, 5)]
    with torch.inference_mode():
        torch.testing.assert_close(net(x).double(), exact(x.double()), rtol=1e-4, atol=1e-5)
    assert all(net[k].points is points for k, points in zip((2, 5), made, strict=True))
    assert calls == ["convolve_transformed", "convolve_transformed"]


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",)])
def test_the_gradient_by_many_pointwise_filters_is_one_product(stride: Any, frozen: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(256, 256, 1, stride=stride)
    net = nn.Sequential(nn.Conv2d(3, 256, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())  # the first has few maps
    for name in frozen:
        layer.get_parameter(name).requires_grad_(requires_grad=False)
    x = torch.randn(28, 3, 9, 7)
    exact = gradients(copy.deepcopy(net).double(), x.double())
    assert use_fast_kernels(net, frozen=True) == 0
    assert use_fast_kernels(net) == 1
    assert type(net[1]) is PointwiseConv2d
    shown = net[1](torch.zeros(28, 256, 9, 7)).grad_fn
    assert ("ProductGradient" in type(shown).__name__) == ("weight" not in frozen)
    for got, wanted in zip(gradients(net, x), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-6)
    few = net[1](torch.zeros(1, 256, 2, 2)).grad_fn
    assert "ProductGradient" not in type(few).__name__


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of digits, 96 images of 32 × 32."""
    return write_digit_folders(tmp_path_factory.mktemp("images"), 96, classes=3, side=32)


def test_a_run_by_tiles_goes_on_bit_for_bit_and_learns_what_a_plain_one_learns(
    images: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with its own kernels, also on a machine that would choose others."""
    options: dict[str, Any] = {"model.blocks": 1, "train.threads": 2, "train.log_every": 1}
    keys: dict[str, Any] = {"data": str(images), "epochs": 2, "batch_size": 16}
    whole = api.train("resnet20", out=tmp_path / "whole", options=options, **keys)
    assert whole.info["flags"]["convolution"] == "winograd"
    assert {"convolve", "input_gradient", "weight_gradient"} <= set(calls)
    assert set(whole.info["flags"]["kernels"].values()) == {"winograd"}
    assert {name.split()[-2] for name in whole.info["flags"]["kernels"]} == {"train", "evaluate"}
    cut_short(whole, tmp_path / "cut", stage=0, after=7)
    monkeypatch.setenv("LAYERWISE_CONVOLUTION", "torch")
    api.train(str(tmp_path / "cut" / "recipe.toml"), out=tmp_path / "cut", resume=True)
    assert_same(whole.path, tmp_path / "cut")
    calls.clear()
    plain = api.train("resnet20", out=tmp_path / "plain", options={**options, "train.winograd": False}, **keys)
    assert plain.info["flags"]["convolution"] == "direct"
    assert not calls
    ours, theirs = (run.info["history"][0]["train/loss"] for run in (whole, plain))
    assert ours == pytest.approx(theirs, rel=1e-3)
