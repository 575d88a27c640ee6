"""E17: by hand, in expectation, and torch's kernel against it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise.functional.regularization import dropout, dropout_mask


def test_units_are_dropped_and_scaled_by_hand() -> None:
    h = torch.tensor([2.0, -4.0, 6.0, 8.0], dtype=torch.float64)
    r = dropout_mask(torch.tensor([0.1, 0.2, 0.25, 0.9], dtype=torch.float64), 0.2)
    assert r.tolist() == [0, 1, 1, 1]
    assert dropout(h, r, p=0.2).tolist() == pytest.approx([0, -5, 7.5, 10], abs=1e-12)
    assert dropout(h, torch.zeros(4), p=1).tolist() == [0, 0, 0, 0]
    assert torch.equal(dropout(h, dropout_mask(torch.zeros(4), 0.0), p=0), h)


def test_nothing_changes_in_expectation() -> None:
    """The oracle: every one of the 2⁴ outcomes, weighted by its probability."""
    h, p = torch.tensor([1.0, -2.0, 3.0, 5.0], dtype=torch.float64), 0.3
    total = torch.zeros(4, dtype=torch.float64)
    for outcome in range(16):
        r = torch.tensor([outcome >> i & 1 for i in range(4)], dtype=torch.float64)
        count = int(r.sum())
        total += (1 - p) ** count * p ** (4 - count) * dropout(h, r, p=p)
    torch.testing.assert_close(total, h)


def test_draws_are_kept_at_the_rate() -> None:
    draws = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(dropout_mask(draws, 0.3).mean()) == pytest.approx(
        0.7, abs=4 * (0.21 / 1e5) ** 0.5
    )  # four standard errors


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_torchs_module_is_the_formula_with_its_own_draws(p: float) -> None:
    torch.manual_seed(0)
    h = torch.randn(50, 40, dtype=torch.float64) + 3  # never 0: where the output is 0 the unit was dropped
    module = nn.Dropout(p)
    got = module(h)
    r = (got != 0).double()
    torch.testing.assert_close(got, dropout(h, r, p=p))
    assert float(r.mean()) == pytest.approx(1 - p, abs=4 * (p * (1 - p) / h.numel()) ** 0.5)
    assert torch.equal(module.eval()(h), h)
