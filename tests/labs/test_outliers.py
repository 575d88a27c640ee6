"""C09: the closed forms are optimal, and the verdict flips when the losses are exchanged or nothing is wild."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from layerwise.data.load import Options, load_splits
from layerwise.labs import base
from layerwise.labs import outliers as lab

SMALL = lab.Plan(2, 60, (), everywhere=False)


@pytest.mark.parametrize(
    "parts", [{"mse": "mse", "mae": "mse"}, {"mse": "mae", "mae": "mse"}], ids=["both MSE", "exchanged"]
)
def test_with_other_losses_the_claim_does_not_hold(parts: dict[lab.Error, lab.Error]) -> None:
    findings = lab.measure("quick", errors=parts, plan=SMALL)
    assert not base.is_held(findings)
    assert base.compute_interval(findings.margins).low <= findings.bound
    assert not findings.checks[0].passed


def test_without_outliers_the_claim_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = lab.add_outliers
    monkeypatch.setattr(lab, "add_outliers", lambda source, case, seed: plain(source, replace(case, far=1e-9), seed))
    findings = lab.measure("quick", plan=SMALL)
    assert not base.is_held(findings)
    assert max(findings.margins) < 0.01


def test_a_constant_is_fitted_by_mean_and_median() -> None:
    y = np.random.default_rng(0).normal(size=101)
    wild = y.copy()
    wild[np.argsort(y)[-40:]] += 1000  # the largest 40 of 101
    ones = np.ones((101, 1))
    assert lab.solve_least_squares(ones, wild)[0] == pytest.approx(y.mean() + 1000 * 40 / 101)
    for values in (y, wild):
        assert lab.solve_least_absolute(ones, values)[0] == pytest.approx(float(np.median(y)))


def test_closed_forms_meet_their_conditions() -> None:
    """The oracle: the normal equations; and for least absolute deviations no better point among lines through any three
    points."""
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.normal(size=(14, 2)), np.ones(14)])
    y = rng.standard_t(2, size=14)
    assert np.allclose(x.T @ (y - x @ lab.solve_least_squares(x, y)), 0)
    lines = [np.linalg.solve(x[[i, j, k]], y[[i, j, k]]) for i in range(14) for j in range(i) for k in range(j)]
    least = min(np.abs(y - x @ w).sum() for w in lines)  # an optimum goes through D points
    assert np.abs(y - x @ lab.solve_least_absolute(x, y)).sum() == pytest.approx(least)


def test_spoiling_does_what_it_says() -> None:
    source = load_splits(Options(lab.DATA), seed=0).train
    clean, some, more = (lab.add_outliers(source, lab.Case("both", share), 3) for share in (0.0, 0.1, 0.2))
    assert clean.targets is not None
    assert some.targets is not None
    assert more.targets is not None
    moved = some.targets - clean.targets
    at = np.flatnonzero(moved)
    assert len(at) == round(0.1 * len(clean))
    assert np.allclose(moved[at], 10 * clean.targets.std())
    assert set(at) < set(np.flatnonzero(more.targets - clean.targets))
    shift = np.asarray(some.inputs) - np.asarray(clean.inputs)
    assert np.array_equal(np.flatnonzero(shift.any(1)), at)
    assert np.array_equal(np.flatnonzero(shift.any(0)), [lab.COLUMN])


def test_the_best_network_is_the_closed_form() -> None:
    task = lab.Regression.prepare(load_splits(Options("diabetes"), seed=0).train, lab.Regression.Options(loss="mse"))
    data = lab.collate_source(load_splits(Options("diabetes"), seed=0).train, task.collate, 1)
    net = lab.build_best_network("mse", data)
    loss = task.objective(net, data).total
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-3
