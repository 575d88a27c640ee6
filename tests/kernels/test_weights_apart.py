"""Convolutions whose weights' gradient takes the other layout: the gradients of a plain network in float64."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from layerwise.kernels import convolution
from layerwise.kernels.convolution import WeightsApart, weights_apart


def network() -> nn.Sequential:
    """Strides, dilation, groups, no bias, a 1×1 and padding by name: some take the detour, some must not."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, dilation=2, padding=(2, 1)), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 4, 1),
        nn.Conv2d(4, 4, 3, padding="same"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def gradients(net: nn.Module, x: torch.Tensor, context: AbstractContextManager[object]) -> list[torch.Tensor]:
    """Return the gradients of one loss by all parameters and by the input."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with context:
        loss = nn.functional.cross_entropy(net(x), torch.tensor([0, 2, 1]))
    loss.backward()
    assert x.grad is not None
    return [*(p.grad for p in net.parameters() if p.grad is not None), x.grad]


@pytest.mark.parametrize("frozen", [(), ("0.weight",), ("0.bias", "2.weight", "5.weight")])
def test_gradients_are_those_of_a_plain_network(frozen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)
    x = torch.randn(3, 3, 24, 20)
    exact = gradients(copy.deepcopy(net).double(), x.double(), WeightsApart(0))  # float64 goes the plain way
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    seen = []
    apply = convolution._Apart.apply
    monkeypatch.setattr(convolution._Apart, "apply", lambda *args: seen.append(args[1].shape) or apply(*args))
    found = gradients(net, x.contiguous(memory_format=torch.channels_last), WeightsApart(0))
    assert len(seen) == 3 - sum(name in ("0.weight", "2.weight", "5.weight") for name in frozen)
    assert len(found) == len(exact)
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


def test_only_large_pictures_take_it() -> None:
    assert isinstance(weights_apart(torch.zeros(1, 3, 224, 224)), WeightsApart)
    assert not isinstance(weights_apart(torch.zeros(1, 3, 224, 32)), WeightsApart)
    assert not isinstance(weights_apart(torch.zeros(4, 784)), WeightsApart)


def test_small_layers_go_the_plain_way() -> None:
    conv = nn.Conv2d(3, 64, 3).to(memory_format=torch.channels_last)
    with WeightsApart():
        assert "Apart" not in type(conv(torch.zeros(1, 3, 20, 20)).grad_fn).__name__
        wide = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
        assert "Apart" in type(wide(torch.zeros(1, 64, 160, 160)).grad_fn).__name__
        x = torch.zeros(1, 64, 160, 160)
        numbers = nn.functional.conv2d(x, wide.weight, wide.bias, 1, 1, 1, 1)  # as nobody's module writes it
        alone = wide(x[0])
        assert all("Apart" not in type(y.grad_fn).__name__ for y in (numbers, alone))
        with torch.no_grad():
            assert wide(torch.zeros(1, 64, 160, 160)).grad_fn is None
