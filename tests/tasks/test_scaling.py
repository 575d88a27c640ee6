"""Scales are relative: the unit of a column decides nothing. Oracle: scikit-learn's StandardScaler, and exact
arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from layerwise import api
from layerwise.data.source import ArraySource, Column, Schema
from layerwise.tasks.column_encoders import DateEncoder, NumberEncoder
from layerwise.tasks.regression import Regression, RegressionMeter, RegressionOptions
from layerwise.tasks.scaling import is_out_of_range, range_scale, standard_scale

VALUES = st.lists(st.floats(-1000, 1000).map(lambda v: round(v, 6)), min_size=2, max_size=40)
MAGNITUDES = st.integers(-30, 30)


@given(VALUES, MAGNITUDES, st.floats(-1, 1), st.integers(-3, 14))
@settings(max_examples=400, deadline=None)
def test_mean_and_deviation_are_standard_scalers(values: list[float], power: int, offset: float, far: int) -> None:
    """Over magnitudes of 1e-30 to 1e30, near zero and far from it: the same mean, the same deviation, the same columns
    are constant."""
    column = (np.array(values) + offset * 10.0**far) * 10.0**power
    theirs = StandardScaler().fit(column[:, None])
    shift, spread = standard_scale(column)
    assert shift == pytest.approx(theirs.mean_[0], rel=1e-12, abs=1e-14 * np.abs(column).max())
    bound, deviation = len(column) * 2.2e-16 * abs(shift), float(column.std())
    if deviation < bound / 4 or deviation > 4 * bound:  # between these either answer is rounding
        assert spread == pytest.approx(
            theirs.scale_[0], rel=1e-9 + (10 * bound / deviation if deviation > bound else 0)
        )


@given(VALUES, st.integers(-900, 900))
@settings(max_examples=200, deadline=None)
def test_a_unit_changes_nothing(values: list[float], power: int) -> None:
    """A column times a power of two has the same numbers after scaling, bit for bit, far beyond what squares can
    hold."""
    column = np.array(values)
    other = np.ldexp(column, power)
    for scale in (standard_scale, range_scale):
        (shift, spread), (shift2, spread2) = scale(column), scale(other)
        assert shift2 == np.ldexp(shift, power)
        constant = spread == 1.0 and spread2 == 1.0
        assert constant or spread2 == np.ldexp(spread, power)


@given(st.floats(-1e30, 1e30), st.integers(1, 300))
@settings(max_examples=300, deadline=None)
def test_a_constant_has_scale_one(value: float, count: int) -> None:
    column = np.full(count, value)
    assert standard_scale(column)[1] == 1.0
    assert range_scale(column)[1] == 1.0


@pytest.mark.parametrize("value", [16777217.1, 0.1, 1e-13, 1e25, -1 / 3])
def test_a_column_constant_within_rounding_has_scale_one(value: float) -> None:
    """The last bit differs, as it does for values that were computed."""
    column = np.array([value, np.nextafter(value, np.inf)] * 60)
    assert standard_scale(column)[1] == 1.0
    assert range_scale(column)[1] == 1.0


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_the_deviation_is_the_exact_one(values: list[float]) -> None:
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    variance = sum((v - mean) ** 2 for v in exact) / len(exact)
    _, spread = standard_scale(np.array(values))
    if variance > 1e-20 * max(1, mean**2):
        assert spread == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("scale", ["standard", "unit"])
@pytest.mark.parametrize("power", [-30, -13, 0, 13, 30])
def test_coders_scale_relatively(scale: Any, power: int) -> None:
    cells = np.array([1.0, 2.0, 4.0, 3.0]) * 10.0**power
    coded = NumberEncoder.fit(Column("x"), cells, scale).encode(cells).ravel()
    plain = np.array([1.0, 2.0, 4.0, 3.0])
    wanted = (plain - 1) / 3 if scale == "unit" else (plain - plain.mean()) / plain.std()
    np.testing.assert_allclose(coded, wanted, rtol=1e-9, atol=1e-12)
    hours = np.array([0.0, 1.0, 3.0]) / 24 / 3600 + 19_000  # seconds apart
    standing = DateEncoder.fit(Column("d", "date"), hours, scale).encode(hours)[:, 0]
    assert np.ptp(standing) == pytest.approx(1.0 if scale == "unit" else 3 / np.std([0.0, 1.0, 3.0]), rel=1e-3)


@pytest.mark.parametrize("power", [-30, -13, 0, 13, 30])
def test_targets_are_scaled_relatively(power: int) -> None:
    values = np.array([1.0, 2.0, 4.0, 3.0]) * 10.0**power
    task = Regression.prepare(
        ArraySource(Schema("row", (1,), "number", (), ("x",)), np.zeros((4, 1)), values, "t"), RegressionOptions()
    )
    assert task.spread == pytest.approx(values.std(), rel=1e-12)
    constant = np.full(4, 16777217.1)
    source = ArraySource(Schema("row", (1,), "number", (), ("x",)), np.zeros((4, 1)), constant, "t")
    assert Regression.prepare(source, RegressionOptions()).spread == 1.0


@given(st.floats(-1000, 1000, width=32), st.integers(1, 50), st.floats(-5, 5))  # a target is a float32
@settings(max_examples=200, deadline=None)
def test_r2_of_a_constant_is_undefined(value: float, count: int, answer: float) -> None:
    import torch

    from layerwise.data.batch import Batch

    meter = RegressionMeter(0.0, 1.0)
    targets = torch.full((count, 1), value, dtype=torch.float64)
    meter.update(torch.full((count, 1), answer), Batch(torch.zeros(count, 1), targets, torch.arange(count)))
    assert math.isnan(meter.result()["r2"])
    assert math.isfinite(meter.result()["rmse"])


def test_a_column_of_1e_minus_13_that_decides_is_learned(tmp_path: Path) -> None:
    """Today's case: the label is the sign of a column of this size, the other column is noise."""
    rng = np.random.default_rng(0)
    lines = [f"{rng.normal():.4f},{x * 1e-13:.4e},{'p' if x > 0 else 'q'}" for x in rng.normal(size=120)]
    (tmp_path / "t.csv").write_text("a,x,y\n" + "\n".join(lines) + "\n")
    run = api.train(
        "mlp", data=tmp_path / "t.csv", out=tmp_path / "run", epochs=30, seed=1, options={"train.threads": 1}
    )
    assert run.metrics["test/accuracy"] > 0.85


def test_a_constant_column_does_not_override_the_others(tmp_path: Path) -> None:
    """A change of 0.1 in a column that was constant in training is a change of 0.1, not of millions of deviations."""
    rng = np.random.default_rng(0)
    lines = [f"16777217.1,{x:.4f},{'p' if x > 0 else 'q'}" for x in rng.normal(size=120)]
    (tmp_path / "t.csv").write_text("a,x,y\n" + "\n".join(lines) + "\n")
    run = api.train(
        "mlp", data=tmp_path / "t.csv", out=tmp_path / "run", epochs=30, seed=1, options={"train.threads": 1}
    )
    same, moved = run.predictor()([16777217.1, 1.5], [16777217.2, 1.5])
    assert same.label == moved.label == "p"  # type: ignore[attr-defined]
    assert moved.score == pytest.approx(same.score, abs=0.05)  # type: ignore[attr-defined]


def test_gaps_can_be_held() -> None:
    assert is_out_of_range(np.array([np.nan, 1.0, 1e39, 1.0]), spread=1e-38).tolist() == [False, False, True, False]
    assert is_out_of_range(np.array([np.nan, 1.0, 10.0]), spread=1e-38).tolist() == [False, False, True]
