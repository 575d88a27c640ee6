"""1×1 convolutions with a stride: equal to torch's own, and none of torch's own where its kernel writes beyond its
memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise import registry
from layerwise.nn.convolution import MIN_MAPS, StridedPointwise, make_pointwise


@pytest.mark.parametrize("stride", [2, 3])
def test_it_computes_what_torchs_own_does(stride: int) -> None:
    """In float64, which torch computes by another kernel than the one that is avoided."""
    ours, own = make_pointwise(5, 7, stride).double(), nn.Conv2d(5, 7, 1, stride=stride, bias=False).double()
    assert isinstance(ours, StridedPointwise)
    own.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 11, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for net in (ours, own):
        given = x.clone().requires_grad_()
        out = net(given)
        out.square().sum().backward()
        assert given.grad is not None
        assert net.weight.grad is not None
        found.append((out, given.grad, net.weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_where_torchs_own_is_safe_it_is_taken() -> None:
    assert type(make_pointwise(MIN_MAPS, 4, 2)) is nn.Conv2d
    assert type(make_pointwise(4, 4, 1)) is nn.Conv2d


@pytest.mark.parametrize(
    "name", [n for n, spec in registry.load_specs().items() if spec.family in ("convolutional", "residual")]
)
def test_no_card_of_the_catalog_meets_the_fault(name: str) -> None:
    """The small form, which has the fewest maps."""
    spec = registry.find(name)
    with torch.device("meta"):
        net = registry.get_builder(spec)(**spec.small)
    risky = [m for m in net.modules() if type(m) is nn.Conv2d and m.kernel_size == (1, 1) and m.stride != (1, 1)]
    assert [m.in_channels for m in risky if m.in_channels < MIN_MAPS] == []
