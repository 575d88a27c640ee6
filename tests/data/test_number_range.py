"""A number that float32 cannot hold is refused by column and row (F12): in every reader, column, part and way in."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layerwise import api
from layerwise.data.load import Options, load_splits
from layerwise.data.source import FLOAT32_MAX, ArraySource, Schema
from layerwise.data.tables import table_source
from layerwise.data.tables.table_columns import Cells, convert_dates
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError
from layerwise.inference.predict import Failure, NamedPrediction, Predictor, read_inputs
from layerwise.tasks.input_options import InputOptions
from layerwise.tasks.regression import Regression, RegressionOptions

Columns = dict[str, list[Any]]
ROW = 40  # of 60, counted from 0


def make_columns() -> Columns:
    """Return columns of numbers, a weight and a time."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=60).round(4)
    return {
        "a": rng.normal(size=60).round(4).tolist(),
        "w": [1.5] * 60,
        "t": [i + 0.5 for i in range(60)],
        "x": x.tolist(),
        "y": (2 * x).round(4).tolist(),
    }


def write_text(path: Path, columns: Columns, mark: str = ",") -> None:
    lines = [mark.join(columns), *(mark.join(map(repr, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")


def write_json_lines(path: Path, columns: Columns) -> None:
    path.write_text(
        "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in zip(*columns.values(), strict=True))
    )


WRITERS: dict[str, tuple[Callable[[Path, Columns], None], int]] = {  # and the number of the first row
    "csv": (write_text, 2),
    "tsv": (lambda path, columns: write_text(path, columns, "\t"), 2),
    "parquet": (lambda path, columns: pq.write_table(pa.table(columns), path), 1),
    "jsonl": (write_json_lines, 1),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("column", ["a", "x", "y", "w", "t"])
@pytest.mark.parametrize("value", [1e300, -1e300, 3.5e38, 1e200])
def test_every_reader_names_column_and_row(tmp_path: Path, kind: str, column: str, value: float) -> None:
    write, first = WRITERS[kind]
    spoiled = make_columns()
    spoiled[column][ROW] = value
    write(tmp_path / f"t.{kind}", spoiled)
    with pytest.raises(
        DataError, match=rf"row {ROW + first}: column '{column}' is out of range \(1 such rows\)"
    ) as caught:
        table_source.read_table(tmp_path / f"t.{kind}", TableOptions(weight="w", time="t"))
    assert f"received: {value:g}" in str(caught.value)


@pytest.mark.parametrize("column", ["x", "y"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_every_part_is_refused(tmp_path: Path, part: str, column: str) -> None:
    for name in ("train", "val", "test"):
        columns = make_columns()
        columns[column][ROW] = 1e300 if name == part else 0.5
        write_text(tmp_path / f"{name}.csv", columns)
    with pytest.raises(DataError, match=f"{part}.csv, row {ROW + 2}: column '{column}' is out of range"):
        load_splits(Options(str(tmp_path)), seed=0)


def test_a_column_of_huge_numbers_is_refused_and_float32s_largest_is_not(tmp_path: Path) -> None:
    columns = make_columns()
    columns["x"] = [v * 1e200 for v in columns["x"]]
    write_text(tmp_path / "t.csv", columns)
    with pytest.raises(DataError, match=r"row 2: column 'x' is out of range \(60 such rows\)"):
        table_source.read_table(tmp_path / "t.csv")
    columns["x"] = [FLOAT32_MAX, -FLOAT32_MAX, *range(58)]
    write_text(tmp_path / "t.csv", columns)
    assert np.abs(table_source.read_table(tmp_path / "t.csv").source.inputs).max() == FLOAT32_MAX


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_what_is_read_is_what_float32_holds(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    """Oracle: NumPy's own conversion, but for what lies within half a step of the largest and is rounded down to it."""
    path = tmp_path_factory.mktemp("range") / "t.parquet"
    pq.write_table(pa.table({"x": [value, 1.0], "y": ["p", "q"]}), path)
    if abs(value) <= FLOAT32_MAX:
        assert np.isfinite(table_source.read_table(path).source.inputs.astype(np.float32)).all()
    else:
        with pytest.raises(DataError, match="out of range"):
            table_source.read_table(path)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "days"])
def test_dates_that_python_cannot_hold_are_refused(tmp_path: Path, unit: str) -> None:
    """Also where their microseconds would wrap around in 64 bits and look like dates of today."""
    per_day = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "days": 1}[unit]
    kind = pa.date32() if unit == "days" else pa.timestamp(unit)

    def column(days: list[int]) -> Cells:
        counts = pa.array([day * per_day for day in days], pa.int32() if unit == "days" else pa.int64())
        return Cells("d", pa.chunked_array([counts.cast(kind)]), tmp_path, np.arange(len(days)) + 2)

    first, last = ((datetime.date(*day) - datetime.date(1970, 1, 1)).days for day in ((1, 1, 1), (9999, 12, 31)))
    assert convert_dates(column([first, 0, last])).tolist() == [first, 0, last]
    far = 100_000_000 if unit == "us" else 2_000_000_000
    for wrong in (first - 1, last + 1, far, -far):
        with pytest.raises(DataError, match="row 3: column 'd' is out of range"):
            convert_dates(column([0, wrong, 1]))


def make_source(x: list[float], y: list[float]) -> ArraySource:
    """Return rows of one number and a number to predict."""
    schema = Schema("row", (1,), "number", (), ("x",), "y")
    return ArraySource(schema, np.array(x)[:, None], np.array(y), "t", np.arange(len(x)) + 2)


@given(st.integers(-37, 37), st.integers(-37, 37), st.sampled_from(["standard", "unit", "none"]))
@settings(max_examples=200, deadline=None)
def test_what_is_taken_is_finite_once_it_is_scaled(small: int, large: int, scale: Any) -> None:
    """A part whose numbers are many deviations away is refused where scaling overflows, and otherwise finite in
    float32."""
    train = make_source([1 * 10.0**small, 2 * 10.0**small, 4 * 10.0**small], [0.5, 1.5, 2.5])
    task = Regression.prepare(train, RegressionOptions(scale=scale))
    other = make_source([3 * 10.0**large, 0.0, 1.0], [0.5, 1.5, 2.5])
    if scale == "standard" and large - small > 39:  # of float32's 10^38.5, with a deviation of 10^0.1
        with pytest.raises(DataError, match=r"t\[2\]: column 'x' is out of range"):
            task.convert_source(other)
    elif scale != "standard" or large - small < 38:
        assert bool(task.inputs.tensor(task.convert_source(other).inputs).isfinite().all())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "word"), [(1e300, "out of range"), (np.inf, "not finite"), (np.nan, "not finite"), (1e38, "out of range")]
)
def test_targets_are_refused_whatever_they_come_from(value: float, word: str) -> None:
    task = Regression.prepare(make_source([1, 2, 3], [1e-9, 2e-9, 3e-9]), RegressionOptions())
    with pytest.raises(DataError, match=rf"t\[3\]: the target 'y' is {word}"):
        task.convert_source(make_source([1, 2, 3], [1e-9, value, 3e-9]))
    if value != 1e38:  # of the training part itself, which 1e38 would only widen
        with pytest.raises(DataError, match=rf"t\[3\]: the target 'y' is {word}"):
            Regression.prepare(make_source([1, 2, 3], [1e-9, value, 3e-9]), RegressionOptions())


def test_double_precision_is_held_to_float32_too() -> None:
    """Inputs are float32 in every precision: fp64 computes in float64 from there on."""
    task = Regression.prepare(make_source([1, 2, 3], [1, 2, 4]), RegressionOptions())
    assert str(task.inputs.tensor(np.ones((1, 1))).dtype) == "torch.float32"
    assert "scale" in InputOptions.__struct_fields__


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run on three numbers."""
    folder = tmp_path_factory.mktemp("run")
    write_text(folder / "t.csv", make_columns())
    return api.train("mlp", data=folder / "t.csv", out=folder / "run", epochs=1, options={"data.drop": ["w", "t"]})


@pytest.mark.parametrize("value", ["1e300", "-1e300", "3.5e38", "1e400", "inf", "nan"])
def test_a_typed_row_fails_with_the_reason_and_alone(run: api.Run, value: str, tmp_path: Path) -> None:
    predictor = run.predictor()
    bad, good = predictor.stream(read_inputs([f"{value},.5", "1,.5"], predictor.task))
    assert isinstance(bad, Failure)
    assert "column 'a' is " in bad.error
    assert value in bad.error
    assert isinstance(good, NamedPrediction)
    for kind in ("csv", "jsonl", "parquet"):
        numbers = {"a": [0.5, float(value), 1.5], "x": [0.1, 0.2, 0.3]}
        WRITERS[kind][0](tmp_path / f"p.{kind}", numbers)
        predictions = [*predictor.stream(read_inputs([str(tmp_path / f"p.{kind}")], predictor.task))]
        assert [isinstance(one, NamedPrediction) for one in predictions] == [True, False, True]


class Steep(nn.Module):
    """The first column times nearly the largest number."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * 3e38


def test_an_answer_that_is_not_finite_is_a_failure(run: api.Run) -> None:
    """What float32 holds may still overflow inside the network: that input fails, alone."""
    predictor = Predictor(Steep(), run.predictor().task)
    bad, good = predictor.stream(read_inputs(["50,.5", "0.1,.5"], predictor.task))
    assert isinstance(bad, Failure)
    assert "the network's outputs for this input are not finite" in bad.error
    assert isinstance(good, NamedPrediction)
    with pytest.raises(DataError, match="not finite"):
        predictor([50, 0.5])
