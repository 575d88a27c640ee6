"""The compiled Bernoulli draws: fair, independent from call to call, a pure function of (seed, call)."""

from __future__ import annotations

import pytest
import torch

from layerwise.kernels.bernoulli import bernoulli

COUNT = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_certain(dtype: torch.dtype) -> None:
    assert not bernoulli(torch.zeros(COUNT, dtype=dtype), seed=1, call=9).any()
    ones = bernoulli(torch.ones(COUNT, dtype=dtype), seed=1, call=9)
    assert ones.all()
    assert ones.dtype == dtype


@pytest.mark.parametrize("p", [0.5, 0.1, 1e-3])
def test_the_frequency_is_the_probability(p: float) -> None:
    found = torch.stack([bernoulli(torch.full((COUNT,), p), seed=5, call=call) for call in range(10)]).double().mean()
    deviation = (p * (1 - p) / (10 * COUNT)) ** 0.5
    assert abs(float(found) - p) < 5 * deviation


def test_calls_and_neighbors_are_independent() -> None:
    half = torch.full((COUNT,), 0.5)
    drawn = torch.stack([bernoulli(half, seed=3, call=call) for call in range(12)]) * 2 - 1
    between = (drawn @ drawn.T / COUNT).fill_diagonal_(0)
    assert float(between.abs().max()) * COUNT**0.5 < 5
    for lag in (1, 2, 8, 256, 784):
        assert abs(float((drawn[:, :-lag] * drawn[:, lag:]).mean())) * (12 * COUNT) ** 0.5 < 5


def test_equal_calls_draw_equally_and_seeds_differ() -> None:
    p = torch.rand(64, 33)
    assert torch.equal(bernoulli(p, seed=7, call=1), bernoulli(p.clone(), seed=7, call=1))
    assert not torch.equal(bernoulli(p, seed=7, call=1), bernoulli(p, seed=8, call=1))


def test_a_transposed_view_is_read_in_its_own_order() -> None:
    p = torch.rand(33, 64).T
    assert torch.equal(bernoulli(p, seed=7, call=1), bernoulli(p.contiguous(), seed=7, call=1))
