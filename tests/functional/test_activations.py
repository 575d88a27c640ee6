"""E04, E05 against Python's math in float64, and f′ against central differences."""

from __future__ import annotations

import math

import pytest
import torch

from layerwise.errors import UsageError
from layerwise.functional.activations import ACTIVATIONS, DERIVATIVES, activation, derivative, prelu, softmax_pullback
from layerwise.nn import layers as modules

POINTS = [-30.0, -4.0, -1.5, -0.3, 0.2, 0.9, 3.0, 30.0]
BY_HAND = {
    "linear": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
    "relu": lambda z: max(0.0, z),
    "tanh": lambda z: (math.exp(z) - math.exp(-z)) / (math.exp(z) + math.exp(-z)),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "prelu": lambda z: z if z > 0 else 0.25 * z,
    "elu": lambda z: z if z > 0 else math.exp(z) - 1,
    "gelu": lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + math.exp(-z)),
    "softplus": lambda z: math.log1p(math.exp(z)),
}


def test_every_elementwise_activation_is_checked_here() -> None:
    assert set(BY_HAND) | {"softmax"} == set(ACTIVATIONS)
    assert set(BY_HAND) == set(DERIVATIVES)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_value_is_the_formula(name: str) -> None:
    z = torch.tensor(POINTS, dtype=torch.float64)
    want = torch.tensor([BY_HAND[name](p) for p in POINTS], dtype=torch.float64)
    torch.testing.assert_close(activation(name)(z), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_derivative_is_the_slope(name: str) -> None:
    z, h = [-4.0, -1.5, -0.3, 0.2, 0.9, 3.0], 1e-6
    slope = [(BY_HAND[name](p + h) - BY_HAND[name](p - h)) / (2 * h) for p in z]
    got = derivative(name, torch.tensor(z, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor(slope, dtype=torch.float64), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_derivative_is_what_autograd_takes_at_the_kink_and_far_out(name: str) -> None:
    z = torch.tensor([-500.0, -90.0, 0.0, 90.0, 500.0], dtype=torch.float32, requires_grad=True)
    (gradient,) = torch.autograd.grad(activation(name)(z).sum(), z)
    torch.testing.assert_close(derivative(name, z.detach()), gradient, rtol=1e-6, atol=1e-6)


def test_softmax_is_the_formula_over_the_last_dimension_and_stable() -> None:
    rows = [[0.5, -1.0, 2.0], [3.0, 3.0, -3.0]]
    want = [[math.exp(z) / sum(math.exp(other) for other in row) for z in row] for row in rows]
    got = activation("softmax")(torch.tensor(rows, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    far = activation("softmax")(torch.tensor([1000.0, 1000.0]))
    torch.testing.assert_close(far, torch.tensor([0.5, 0.5]))


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'sigmoid'"):
        activation("sigmod")


def test_softmax_has_no_elementwise_derivative() -> None:
    with pytest.raises(UsageError, match="no elementwise activation 'softmax'"):
        derivative("softmax", torch.zeros(3))


def test_every_module_is_the_function_of_its_name() -> None:
    assert {name.replace("-", "_") for name in modules.ACTIVATIONS} == set(ACTIVATIONS)
    z = torch.linspace(-20, 20, 44, dtype=torch.float64).view(4, 11)
    for name in modules.ACTIVATIONS:
        module = modules.make_activation(name).double()
        torch.testing.assert_close(module(z), activation(name.replace("-", "_"))(z), rtol=1e-13, atol=1e-15)


def test_modules_take_softmax_over_the_maps_of_a_image() -> None:
    z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = activation("softmax")(z.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(modules.make_activation("softmax")(z), want)


def test_prelu_learns_its_slope_by_the_formula() -> None:
    """The oracle: central differences of Σ g·f(z; a) in a and z, in plain Python."""
    points, weights, slope, h = [-2.0, -0.5, 0.3, 4.0], [1.0, -3.0, 2.0, 0.5], 0.1, 1e-6

    def total(a: float, zs: list[float]) -> float:
        return sum(g * (z if z > 0 else a * z) for g, z in zip(weights, zs, strict=True))

    z = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(slope, dtype=torch.float64, requires_grad=True)
    by_z, by_a = torch.autograd.grad((torch.tensor(weights) * prelu(z, a)).sum(), [z, a])
    assert float(by_a) == pytest.approx((total(slope + h, points) - total(slope - h, points)) / (2 * h), rel=1e-8)
    for i in range(len(points)):
        moved = [[p + step * (i == j) for j, p in enumerate(points)] for step in (h, -h)]
        assert float(by_z[i]) == pytest.approx((total(slope, moved[0]) - total(slope, moved[1])) / (2 * h), rel=1e-8)
    module = modules.make_activation("prelu").double()
    torch.nn.init.constant_(next(module.parameters()), slope)
    torch.testing.assert_close(module(z), prelu(z, a))


def test_softmax_is_pulled_back_through_its_jacobian() -> None:
    """The oracle: the Jacobian by central differences of the formula, in plain Python."""

    def value(row: list[float]) -> list[float]:
        return [math.exp(z) / sum(math.exp(other) for other in row) for z in row]

    row, gradient, h = [0.5, -1.0, 2.0], [1.0, -2.0, 0.7], 1e-6
    want = []
    for i in range(3):
        up, down = ([z + step * (i == j) for j, z in enumerate(row)] for step in (h, -h))
        want.append(sum(g * (a - b) / (2 * h) for g, a, b in zip(gradient, value(up), value(down), strict=True)))
    got = softmax_pullback(torch.tensor(value(row), dtype=torch.float64), torch.tensor(gradient, dtype=torch.float64))
    assert got.tolist() == pytest.approx(want, rel=1e-8)
