"""No drawing stops a run: whatever numbers come, charts are drawn; and a part of the page that fails is a note."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.figures import bars, charts, functions
from layerwise.figures.functions import Dots
from layerwise.inspect.function import axis, crossings, level_lines

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 1e300, -1e300, 5e-324, math.nan, math.inf, -math.inf])
SOME = st.lists(ANY, min_size=0, max_size=6)
GRID = st.lists(st.lists(ANY, min_size=4, max_size=4), min_size=4, max_size=4).map(np.array)


def is_drawing(svg: str) -> bool:
    """Whether this is well-formed SVG."""
    return ET.fromstring(svg).tag.endswith("svg")


def points(numbers: list[float], *, columns: int, targets: list[float]) -> Dots:
    """Return a part's points."""
    inputs = np.resize(np.array(numbers or [0.0]), (len(targets), columns))
    return Dots("part", inputs, np.array(targets))


@given(SOME, SOME)
@settings(max_examples=60, deadline=None)
def test_charts_of_any_numbers(a: list[float], b: list[float]) -> None:
    count = min(len(a), len(b))
    assert is_drawing(charts.scatter(a[:count], b[:count], x="x", y="y"))
    assert is_drawing(charts.curves({"one": list(enumerate(a)), "two": list(enumerate(b))}, x="x", y="y", best=1))
    assert is_drawing(charts.by_layer({"one": a}, [f"layer {n}" for n in range(len(a))], y="y"))
    assert is_drawing(bars.bars([f"c{n}" for n in range(count)], a[:count], [abs(v) for v in b[:count]], x="x"))
    assert is_drawing(bars.reliability(a[:count], b[:count], [1] * count, width=0.1, x="x", y="y"))


@given(SOME.filter(bool), SOME.filter(bool))
@settings(max_examples=40, deadline=None)
def test_functions_of_one_number(a: list[float], b: list[float]) -> None:
    count = min(len(a), len(b))
    places = axis(np.array(a), edge=0.1, places=count)
    assert np.isfinite(places).all()
    dots = [points(a, columns=1, targets=b)]
    assert is_drawing(functions.curve(places, np.array(b[:count]), dots, names=("x", "y"), label="f"))
    shares = np.stack([np.array(b[:count]), 1 - np.array(b[:count])], 1)
    labels = [points(a, columns=1, targets=[n % 2 for n in range(len(b))])]
    turns = crossings(places, np.array(b[:count]))
    assert is_drawing(functions.probabilities(places, shares, turns, labels, names=("x", "p"), classes=("p", "q")))


@given(GRID, SOME, SOME.filter(bool))
@settings(max_examples=40, deadline=None)
def test_functions_of_two_numbers(z: Any, a: list[float], b: list[float]) -> None:
    x, y = axis(np.array(a), edge=0.1, places=4), axis(np.array(b), edge=0.1, places=4)
    dots = [points(a, columns=2, targets=b)]
    assert is_drawing(functions.surface(x, y, z, dots, names=("x", "y"), target="t"))
    margins = np.stack([z, -z], 2)
    labels = [points(a, columns=2, targets=[n % 2 for n in range(len(b))])]
    lines = level_lines(x, y, z)
    assert is_drawing(
        functions.regions(x, y, margins.argmax(2), lines, labels, names=("x", "y"), classes=("p", "q"), margins=margins)
    )
