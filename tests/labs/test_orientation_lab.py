"""C03: without quadrature or without orientation the verdict flips; what is measured is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from layerwise.functional.gabor import grating
from layerwise.labs import base
from layerwise.labs import orientation as lab

SMALL = lab.Plan(seeds=2, cells=3, angles=45, phases=12, patches=40)


def test_two_cells_of_one_phase_do_not_forget_it() -> None:
    findings = lab.measure("quick", phases=(0, 0), plan=SMALL)
    assert not base.is_held(findings)
    assert [c.passed for c in findings.checks] == [True, False, True]
    right = lab.measure("quick", plan=SMALL)  # a square alone survives half a wave, not a quarter
    assert sum(findings.margins) < sum(right.margins)


def test_concentric_cells_have_no_orientation_to_keep() -> None:
    findings = lab.measure("quick", oriented=False, plan=SMALL)
    assert not base.is_held(findings)
    assert not any(c.passed for c in findings.checks)


def test_the_small_plan_holds() -> None:
    assert base.is_held(lab.measure("quick", plan=lab.Plan(3, 3, 45, 12, 60)))


def test_persistence_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    drift = np.maximum(0, generator.normal(size=(2, 30, 4)))  # ties at zero
    want = [np.mean([spearmanr(cell[:, 0], cell[:, t]).statistic for cell in drift]) for t in range(4)]
    assert lab.compute_persistence(torch.from_numpy(drift)).tolist() == pytest.approx(want)


def test_a_concentric_field_answers_its_grating_with_one_whatever_the_angle() -> None:
    at = torch.arange(-30, 30, 0.25, dtype=torch.float64)
    x, y = at[None, :], at[:, None]
    field = lab.compute_concentric_field(x, y, 5.0) / 16
    assert float(field.sum()) == pytest.approx(0, abs=1e-9)
    for angle in (0, 33):
        assert float((field * grating(x, y, orientation=angle, wavelength=5.0)).sum()) == pytest.approx(1, abs=1e-6)
    for other in (4.6, 5.4):
        assert float((field * grating(x, y, orientation=0, wavelength=other)).sum()) < 1


def test_a_drift_by_a_whole_wavelength_of_a_grating_changes_nothing() -> None:
    cells = lab.draw_cells(SMALL, (0.0, 90.0), 0)
    model = lab.build_population(cells, True)
    x, y = lab.compute_coordinates(model)
    stripes = grating(x, y, orientation=cells[0].orientation, wavelength=cells[0].wavelength)[None]
    responses = lab.compute_drift(cells, model, stripes, oriented=True)[0, 0]
    assert float(responses[0]) == pytest.approx(1, abs=0.02)
    assert float(responses[lab.MOMENTS // 2]) == pytest.approx(-1, abs=0.02)
    assert float(responses[-1]) == pytest.approx(1, abs=0.02)
