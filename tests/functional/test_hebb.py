"""Hebb's formulas (E10) against example-by-example loops, NumPy's pseudo-inverse, trying every state, and the numbers
of the papers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from layerwise.functional.hebb import (
    extend_projection,
    hebb,
    hopfield_capacity,
    hopfield_energy,
    hopfield_recall,
    hopfield_weights,
    oja,
)

RNG = np.random.default_rng(0)


def signs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], shape))


def test_hebb_is_the_sum_over_pairs() -> None:
    x, y = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 3))
    by_hand = [[sum(y[n, k] * x[n, d] for n in range(5)) for d in range(4)] for k in range(3)]
    assert np.allclose(hebb(torch.from_numpy(x), torch.from_numpy(y)).numpy(), by_hand)


def test_oja_of_one_unit_is_its_formula_and_of_several_sangers() -> None:
    x, w = RNG.normal(size=(6, 4)), RNG.normal(size=(3, 4))
    y = x @ w.T
    by_hand = np.zeros((3, 4))
    for n, k in itertools.product(range(6), range(3)):
        explained = sum((y[n, j] * w[j] for j in range(k + 1)), np.zeros(4))
        by_hand[k] += y[n, k] * (x[n] - explained)
    found = oja(*map(torch.from_numpy, (x, y, w))).numpy()
    assert np.allclose(found, by_hand)
    alone = sum(y[n, 0] * (x[n] - y[n, 0] * w[0]) for n in range(6))
    assert np.allclose(oja(*map(torch.from_numpy, (x, y[:, :1], w[:1]))).numpy(), alone)


def test_outer_products_leave_the_diagonal_empty() -> None:
    x = signs(3, 5)
    by_hand = sum(np.outer(p, p) for p in x.numpy()) - 3 * np.eye(5)
    assert np.array_equal(hopfield_weights(x).numpy(), by_hand)


def test_pattern_after_pattern_gives_the_pseudo_inverse() -> None:
    """In either order, and a pattern that is a sum of others changes nothing."""
    x = signs(7, 20)
    x = torch.cat([x, (x[0] - x[1] + x[2])[None]])
    oracle = np.linalg.pinv(x.numpy()) @ x.numpy()
    for order in (range(8), (7, 3, 1, 6, 0, 2, 5, 4)):
        projection = torch.zeros(20, 20, dtype=torch.float64)
        for n in order:
            projection = extend_projection(projection, x[n])
        assert np.abs(projection.numpy() - oracle).max() < 1e-12


def net(units: int, seed: int) -> torch.Tensor:
    weights = np.random.default_rng(seed).normal(size=(units, units))
    weights = weights + weights.T
    np.fill_diagonal(weights, 0)
    return torch.from_numpy(weights)


def test_energy_is_the_double_sum() -> None:
    weights, s = net(5, 1), signs(4, 5)
    by_hand = [-0.5 * sum(weights[i, j] * p[i] * p[j] for i in range(5) for j in range(5)) for p in s]
    assert np.allclose(hopfield_energy(s, weights).numpy(), by_hand)


@pytest.mark.parametrize("seed", range(4))
def test_recall_ends_at_rest_and_never_climbs(seed: int) -> None:
    """From all 256 states of a net: no unit of an end state would turn, its energy is not above the start's, and rest
    stays."""
    weights = net(8, seed)
    starts = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8)), dtype=torch.float64)
    ends = hopfield_recall(starts, weights)
    assert bool(((ends @ weights) * ends > 0).all())
    assert bool((hopfield_energy(ends, weights) <= hopfield_energy(starts, weights)).all())
    assert torch.equal(hopfield_recall(ends, weights), ends)
    rest = {tuple(s.tolist()) for s in starts if bool(((s @ weights) * s > 0).all())}
    assert rest == {tuple(s.tolist()) for s in ends}


def test_a_unit_without_input_stays_and_nothing_is_recalled_of_nothing() -> None:
    s = signs(3, 6)
    assert torch.equal(hopfield_recall(s, torch.zeros(6, 6, dtype=torch.float64)), s)
    assert hopfield_recall(s[:0], net(6, 0)).shape == (0, 6)


def test_capacity_is_that_of_the_paper() -> None:
    """Amit, Gutfreund & Sompolinsky 1985: α_c = 0.138, m_c = 0.967; and the curve solves their equations for m, r and
    C."""
    found = hopfield_capacity()
    assert found.critical == pytest.approx(0.138, abs=5e-4)
    assert float(found.overlaps[-1]) == pytest.approx(0.967, abs=1e-3)
    assert bool((found.loads.diff() >= 0).all())
    assert bool((found.overlaps.diff() <= 0).all())
    for load, overlap in zip(found.loads[50::50].tolist(), found.overlaps[50::50].tolist(), strict=True):
        m, r = 1.0, 1.0
        for _ in range(4000):  # the mean-field equations at zero temperature, iterated
            c = np.sqrt(2 / (np.pi * load * r)) * np.exp(-(m**2) / (2 * load * r))
            r = 1 / (1 - c) ** 2
            m = float(torch.erf(torch.tensor(m / np.sqrt(2 * load * r), dtype=torch.float64)))
        assert m == pytest.approx(overlap, abs=1e-4), load
