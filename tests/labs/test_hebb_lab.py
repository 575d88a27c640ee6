"""C02: the verdict flips when the cells no longer fire together; the neuron's weight is the closed form's."""

from __future__ import annotations

import numpy as np
import pytest

from layerwise.labs import base
from layerwise.labs import hebb as lab


def test_cells_that_do_not_fire_together_are_not_found() -> None:
    findings = lab.measure("quick", together=0.0, seeds=3)
    assert not base.is_held(findings)
    assert not findings.checks[2].passed


def test_the_firing_is_as_described() -> None:
    """Rates are equal; the correlation of two cells of the group is the square of `TOGETHER`, of all others 0."""
    moments = [lab.draw_firing(seed, lab.TOGETHER) for seed in range(20)]
    inside, outside = [], []
    for cells, group in moments:
        assert set(np.unique(cells)) == {0, 1}
        assert group.sum() == lab.GROUP
        table = np.corrcoef(cells.T)
        off = ~np.eye(lab.CELLS, dtype=bool)
        both = np.outer(group, group) & off
        inside.append(table[both].mean())
        outside.append(table[~np.outer(group, group) & off].mean())
    assert np.mean(inside) == pytest.approx(lab.TOGETHER**2, abs=0.03)
    assert np.mean(outside) == pytest.approx(0, abs=0.01)
    assert np.mean([cells.mean() for cells, _ in moments]) == pytest.approx(lab.RATE, abs=0.01)


def test_shuffling_keeps_each_cells_count() -> None:
    cells, _ = lab.draw_firing(0, lab.TOGETHER)
    mixed = lab.shuffle_firing(cells, 0)
    assert np.array_equal(mixed.sum(0), cells.sum(0))
    assert not np.array_equal(mixed, cells)


def test_hebbs_weight_is_the_power_method() -> None:
    """Under Hebb's rule with the whole as one batch w grows by (I + η C): after t steps (I + η C)ᵗ w₀ in float64."""
    cells, group = lab.draw_firing(1, lab.TOGETHER)
    neuron = lab.train_neuron(cells, group, "hebb", 1)
    centered = cells - cells.mean(0)
    covariance = centered.T @ centered / len(cells)
    values, vectors = np.linalg.eigh(covariance)
    steps = lab.EPOCHS * lab.MOMENTS / lab.BATCH
    assert abs(neuron.weight @ vectors[:, -1]) / np.linalg.norm(neuron.weight) > 0.99
    assert np.log(neuron.lengths[-1]) == pytest.approx(
        steps * np.log1p(lab.STEP * values[-1]), rel=0.25
    )  # less what the start lacked
