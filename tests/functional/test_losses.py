"""E06, E07 by example, against plain float64 formulas."""

from __future__ import annotations

import math

import torch

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
    got = losses.binary_cross_entropy(
        torch.tensor(z, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    )
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_errors_are_sums_over_each_examples_features() -> None:
    outputs, targets = torch.tensor([[[1.0, 2.0]], [[0.0, -3.0]]]), torch.tensor([[[0.0, 4.0]], [[0.5, 1.0]]])
    assert losses.squared_error(outputs, targets).tolist() == [1 + 4, 0.25 + 16]
    assert losses.absolute_error(outputs, targets).tolist() == [1 + 2, 0.5 + 4]
