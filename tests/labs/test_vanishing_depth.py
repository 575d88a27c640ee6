"""C07: what is measured is right, and the verdict flips when the activations are exchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise.labs import base
from layerwise.labs import vanishing_depth as lab

SMALL = lab.Plan(seeds=3, depths=(5, 15), examples=32)


def test_the_small_plan_holds_with_the_right_parts() -> None:
    assert base.is_held(lab.measure("quick", plan=SMALL))


@pytest.mark.parametrize(
    "parts",
    [
        {"sigmoid": "relu", "tanh": "relu", "relu": "relu"},
        {"sigmoid": "linear", "tanh": "linear", "relu": "relu"},
        {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "sigmoid"},
        {"sigmoid": "sigmoid", "tanh": "relu", "relu": "relu"},
    ],
    ids=["all relu", "all but relu linear", "relu replaced", "tanh replaced"],
)
def test_exchanged_activations_do_not_hold(parts: dict[str, str]) -> None:
    findings = lab.measure("quick", activations=parts, plan=SMALL)
    assert not base.is_held(findings)
    assert base.compute_interval(findings.margins).low <= findings.bound


def test_norms_are_the_gradients_by_hand() -> None:
    """The oracle: δ by the chain rule, written out, for two hidden layers of tanh."""
    net = lab.build_network("tanh", lab.SHIFTED, 2, 0)
    task, batch = lab.load_digits(16, 0)
    x, y = batch.inputs.flatten(1), batch.targets
    assert y is not None
    w1, w2, w3 = lab.get_linear_layers(net)
    with torch.no_grad():
        a1 = torch.tanh(x @ w1.weight.T + w1.bias)
        a2 = torch.tanh(a1 @ w2.weight.T + w2.bias)
        p = (a2 @ w3.weight.T + w3.bias).softmax(1)
        delta3 = (p - nn.functional.one_hot(y, 10)) / len(x)  # (N, K)
        delta2 = (delta3 @ w3.weight) * (1 - a2**2)
        delta1 = (delta2 @ w2.weight) * (1 - a1**2)
        by_hand = [float((delta1.T @ x).norm()), float((delta2.T @ a1).norm())]
    slopes = lab.compute_activation_derivatives(net, batch.inputs)
    assert torch.allclose(slopes[0], 1 - a1**2)
    assert torch.allclose(slopes[1], 1 - a2**2)
    profile = lab.measure_gradient_profile(net, task, batch)
    assert profile.norms == pytest.approx(by_hand, rel=1e-10)
    assert profile.saturated == pytest.approx(float((torch.stack([1 - a1**2, 1 - a2**2]) < 0.1).double().mean()))


@pytest.mark.parametrize(("module", "slope"), [(nn.Sigmoid(), 0.25), (nn.Tanh(), 1.0), (nn.ReLU(), 1.0)])
def test_the_steepest_slope(module: nn.Module, slope: float) -> None:
    assert lab.find_largest_derivative(module) == pytest.approx(slope, rel=1e-6)


def test_the_factor_of_a_layer_predicts_the_fall() -> None:
    """Mean-field theory and backpropagation agree: the fall over 20 further layers is 20 times the log of the
    factor."""
    task, batch = lab.load_digits(64, 1)
    for name, start in (("sigmoid", lab.CENTERED), ("tanh", lab.SHIFTED)):
        shallow, deep = (
            lab.measure_gradient_profile(lab.build_network(name, start, depth, 1), task, batch) for depth in (10, 30)
        )
        predicted = 20 * torch.tensor(deep.factor).log10()
        assert deep.log10_gradient_ratio - shallow.log10_gradient_ratio == pytest.approx(float(predicted), rel=0.2)


def test_starts_change_what_they_say() -> None:
    plain, shifted, large = (lab.get_linear_layers(lab.build_network("tanh", s, 3, 0)) for s in lab.STARTS)
    assert all(not layer.bias.any() for layer in plain)
    assert all(layer.bias.std() > 0.3 for layer in shifted)
    assert torch.allclose(large[1].weight, 3 * plain[1].weight)
