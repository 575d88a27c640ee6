"""E06, E07 by example, against plain float64 formulas, and at logits where naive formulas overflow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from layerwise.functional import losses


def test_cross_entropy_is_minus_log_softmax() -> None:
    rows, labels = [[0.5, -1.0, 2.0], [3.0, 3.0, -3.0]], [2, 0]
    want = [-math.log(math.exp(r[y]) / sum(map(math.exp, r))) for r, y in zip(rows, labels, strict=True)]
    got = losses.cross_entropy(torch.tensor(rows, dtype=torch.float64), torch.tensor(labels))
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    far = losses.cross_entropy(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]))
    assert far.tolist() == [1000.0]


def test_binary_cross_entropy_is_the_formula() -> None:
    z, y = [-2.0, 0.3, 4.0], [1.0, 0.25, 0.0]
    s = [1 / (1 + math.exp(-v)) for v in z]
    want = [-(t * math.log(p) + (1 - t) * math.log(1 - p)) for t, p in zip(y, s, strict=True)]
    got = losses.binary_cross_entropy(torch.tensor(z, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_errors_are_sums_over_each_examples_features() -> None:
    outputs, targets = torch.tensor([[[1.0, 2.0]], [[0.0, -3.0]]]), torch.tensor([[[0.0, 4.0]], [[0.5, 1.0]]])
    assert losses.squared_error(outputs, targets).tolist() == [1 + 4, 0.25 + 16]
    assert losses.absolute_error(outputs, targets).tolist() == [1 + 2, 0.5 + 4]


def probabilities(row: list[float]) -> list[float]:
    """Return softmax by its definition."""
    powers = [math.exp(v) for v in row]
    return [p / sum(powers) for p in powers]


ROWS = [[0.5, -1.0, 2.0], [3.0, 3.0, -3.0], [0.1, 0.2, 0.3]]
LABELS = [2, 0, 1]
Z, Y = torch.tensor(ROWS, dtype=torch.float64), torch.tensor(LABELS)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_gives_a_share_to_every_class(smoothing: float) -> None:
    want = []
    for row, y in zip(ROWS, LABELS, strict=True):
        q = [(1 - smoothing) * (k == y) + smoothing / 3 for k in range(3)]
        want.append(-sum(share * math.log(p) for share, p in zip(q, probabilities(row), strict=True)))
    torch.testing.assert_close(losses.cross_entropy(Z, Y, smoothing=smoothing), torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_formula_and_cross_entropy_at_zero(gamma: float) -> None:
    want = [
        -((1 - probabilities(r)[y]) ** gamma) * math.log(probabilities(r)[y]) for r, y in zip(ROWS, LABELS, strict=True)
    ]
    torch.testing.assert_close(losses.focal(Z, Y, gamma=gamma), torch.tensor(want, dtype=torch.float64))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_against_rest_asks_each_class(smoothing: float) -> None:
    want = []
    for row, y in zip(ROWS, LABELS, strict=True):
        s = [1 / (1 + math.exp(-v)) for v in row]
        q = [(1 - smoothing) * (k == y) + smoothing / 3 for k in range(3)]
        want.append(-sum(t * math.log(p) + (1 - t) * math.log(1 - p) for t, p in zip(q, s, strict=True)))
    torch.testing.assert_close(
        losses.one_against_rest(Z, Y, smoothing=smoothing), torch.tensor(want, dtype=torch.float64)
    )


def test_huber_is_a_parabola_and_then_straight() -> None:
    outputs, targets = torch.tensor([[0.0, 3.0], [-0.5, 0.25]]), torch.zeros(2, 2)
    want = [0.7 * (3 - 0.35), 0.5 * 0.25 + 0.5 * 0.0625]
    torch.testing.assert_close(losses.huber(outputs, targets, delta=0.7), torch.tensor(want))


def extreme(name: str, z: Tensor) -> Tensor:
    """Return a loss of two-class logits (N, 2) whose first class is true."""
    labels = torch.zeros(len(z), dtype=torch.long)
    if name == "binary":
        return losses.binary_cross_entropy(z[:, 0], torch.ones(len(z)))
    if name.startswith("focal"):
        return losses.focal(z, labels, gamma=float(name[5:]))
    call = {"cross": losses.cross_entropy, "rest": losses.one_against_rest}[name.split("-")[0]]
    return call(z, labels, smoothing=0.1 if "-" in name else 0.0)


@pytest.mark.parametrize("name", ["cross", "cross-smooth", "rest", "rest-smooth", "binary", "focal0.5", "focal2"])
def test_extreme_logits_give_finite_losses_and_gradients(name: str) -> None:
    """Where σ and softmax round to 0 and 1 the losses stay finite, those of a sure mistake grow with it, and slopes
    have no NaN."""
    z = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [80.0, -80.0], [-80.0, 80.0], [0.0, 0.0]], requires_grad=True)
    found = extreme(name, z)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert 0.9e4 < float(found[1].detach()) < 4.1e4
    found.sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert float(z.grad[1, 0]) < -0.8


@pytest.mark.parametrize("name", ["cross-smooth", "rest-smooth", "focal0.5", "focal2"])
def test_slopes_equal_finite_differences(name: str) -> None:
    z = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: extreme(name, v), (z,))
