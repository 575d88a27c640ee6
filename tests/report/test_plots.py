"""No drawing stops a run: whatever numbers come, charts are drawn; and a part of the page that fails is a note."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from layerwise.cli import main
from layerwise.errors import StorageError
from layerwise.inspection.views.decision_surface import find_crossings, find_level_lines, make_axis
from layerwise.plotting import bars, charts, functions
from layerwise.plotting.functions import PointSet
from layerwise.report import page
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, 1.0, 1e300, -1e300, 5e-324, math.nan, math.inf, -math.inf]
)
SOME = st.lists(ANY, min_size=0, max_size=6)
GRID = st.lists(st.lists(ANY, min_size=4, max_size=4), min_size=4, max_size=4).map(np.array)


DRAWN = settings(
    max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate]
)  # a drawing takes a tenth of a second


def is_drawing(svg: str) -> bool:
    """Whether this is well-formed SVG."""
    return ET.fromstring(svg).tag.endswith("svg")


def make_point_set(numbers: list[float], *, columns: int, targets: list[float]) -> PointSet:
    """Return a part's points."""
    inputs = np.resize(np.array(numbers or [0.0]), (len(targets), columns))
    return PointSet("part", inputs, np.array(targets))


@given(SOME, SOME)
@DRAWN
def test_charts_of_any_numbers(a: list[float], b: list[float]) -> None:
    count = min(len(a), len(b))
    assert is_drawing(charts.plot_scatter(a[:count], b[:count], x="x", y="y"))
    assert is_drawing(charts.plot_curves({"one": list(enumerate(a)), "two": list(enumerate(b))}, x="x", y="y", best=1))
    assert is_drawing(charts.plot_by_layer({"one": a}, [f"layer {n}" for n in range(len(a))], y="y"))
    assert is_drawing(bars.plot_bars([f"c{n}" for n in range(count)], a[:count], [abs(v) for v in b[:count]], x="x"))
    assert is_drawing(bars.plot_reliability(a[:count], b[:count], [1] * count, width=0.1, x="x", y="y"))


@given(SOME.filter(bool), SOME.filter(bool))
@DRAWN
def test_functions_of_one_number(a: list[float], b: list[float]) -> None:
    count = min(len(a), len(b))
    places = make_axis(np.array(a), edge=0.1, count=count)
    assert np.isfinite(places).all()
    dots = [make_point_set(a, columns=1, targets=b)]
    assert is_drawing(functions.plot_function(places, np.array(b[:count]), dots, names=("x", "y"), label="f"))
    shares = np.stack([np.array(b[:count]), 1 - np.array(b[:count])], 1)
    labels = [make_point_set(a, columns=1, targets=[n % 2 for n in range(len(b))])]
    turns = find_crossings(places, np.array(b[:count]))
    assert is_drawing(
        functions.plot_class_probabilities(places, shares, turns, labels, names=("x", "p"), classes=("p", "q"))
    )


@given(GRID, SOME, SOME.filter(bool))
@DRAWN
def test_functions_of_two_numbers(z: Any, a: list[float], b: list[float]) -> None:
    x, y = make_axis(np.array(a), edge=0.1, count=4), make_axis(np.array(b), edge=0.1, count=4)
    dots = [make_point_set(a, columns=2, targets=b)]
    assert is_drawing(functions.plot_surface(x, y, z, dots, names=("x", "y"), target="t"))
    margins = np.stack([z, -z], 2)
    labels = [make_point_set(a, columns=2, targets=[n % 2 for n in range(len(b))])]
    lines = find_level_lines(x, y, z)
    assert is_drawing(
        functions.plot_decision_regions(
            x, y, margins.argmax(2), lines, labels, names=("x", "y"), classes=("p", "q"), margins=margins
        )
    )


REPORTS = True
SECTIONS = {
    "c": [
        "build_stages",
        "build_columns_section",
        "build_function_section",
        "build_confusion_section",
        "build_calibration_section",
        "build_mistakes_section",
    ],
    "n": ["build_stages", "build_function_section", "draw_scatter", "build_mistakes_section"],
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with classes and one with a number, of two features each."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 2)).round(4).tolist()
    (folder / "c.csv").write_text("a,x,y\n" + "".join(f"{a},{x},{'p' if a > x else 'q'}\n" for a, x in rows))
    (folder / "n.csv").write_text("a,x,y\n" + "".join(f"{a},{x},{a + x:.4f}\n" for a, x in rows))
    return folder


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SECTIONS.items() for name in names])
def test_a_part_of_the_page_that_fails_is_a_note(
    tables: Path,
    tmp_path: Path,
    kind: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run is finished, whole and can be opened; the page, its log and run.json say what is missing and why."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(page.sections, name, fail)
    assert (
        main(
            [
                "train",
                "mlp",
                "--data",
                str(tables / f"{kind}.csv"),
                "--epochs",
                "1",
                "--out",
                "r",
                "--set",
                "train.threads=1",
            ]
        )
        == 0
    )
    directory = RunDirectory(Path("r"))
    info = directory.info()
    assert info["status"] == "finished"
    assert not any(verify(directory).values())
    assert "the report lacks “" in capsys.readouterr().err
    assert "OverflowError: cannot convert float infinity" in info["verdicts"][-1][0]
    assert "报告缺少" in info["verdicts"][-1][1]
    assert "OverflowError: cannot convert float infinity" in Path("r/report.html").read_text("utf-8")
    assert main(["eval", "r"]) == 0


def test_a_page_that_fails_altogether_ends_the_run_all_the_same(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(page, "build_headline", fail)
    assert main(["train", "mlp", "--data", str(tables / "c.csv"), "--epochs", "1", "--out", "r"]) == 0
    said = capsys.readouterr()
    assert "warning: the report could not be written (ZeroDivisionError: oh)" in said.err
    assert "report.html" not in said.out
    assert RunDirectory(Path("r")).info()["status"] == "finished"
    assert main(["train", "r/recipe.toml", "--resume"]) == 0


def test_a_full_disk_is_no_drawing(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the run as before, which a resume finishes."""

    def full(*_: Any, **__: Any) -> Any:
        raise StorageError("figures could not be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(page.sections, "build_stages", full)
        assert main(["train", "mlp", "--data", str(tables / "c.csv"), "--epochs", "1", "--out", "r"]) == 1
    assert RunDirectory(Path("r")).info()["status"] == "training"
    assert main(["train", "r/recipe.toml", "--resume"]) == 0
    assert RunDirectory(Path("r")).info()["status"] == "finished"


@pytest.mark.parametrize("size", [1e-30, 1e15, 1e37])
@pytest.mark.parametrize("kind", ["c", "n"])
def test_pages_of_numbers_of_any_size(tables: Path, tmp_path: Path, kind: str, size: float) -> None:
    """One row lies far from the others, as in a table with a typing error: the page is drawn whole."""
    lines = (tables / f"{kind}.csv").read_text().splitlines()
    cells = lines[30].split(",")
    lines[30] = ",".join([repr(size), *cells[1:]])
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    assert main(["train", "mlp", "--data", "t.csv", "--epochs", "2", "--out", "r", "--set", "train.threads=1"]) in (
        0,
        1,
    )
    info = RunDirectory(Path("r")).info()
    assert (
        info["status"] == "finished" or Path("r/failure.json").is_file()
    )  # a loss that is not finite is another matter
    assert not any("the report lacks" in english for english, _ in info.get("verdicts", []))
