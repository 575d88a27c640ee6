"""The function drawn over one or two numbers equals the predictor's values there."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from layerwise import registry
from layerwise.data.source import ArraySource, Column, Schema, Splits
from layerwise.errors import UsageError
from layerwise.inference.predict import Predictor
from layerwise.inspection import render_view
from layerwise.inspection.base import Target, View
from layerwise.inspection.views.decision_surface import GRID_SIDE, find_crossings
from layerwise.models.feedforward import mlp, perceptron
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification, ClassPrediction
from layerwise.tasks.regression import Regression, RegressionPrediction

CLASSES = ("a$^", "乙", "<c>")


pytestmark = pytest.mark.usefixtures("one_thread")


def source(
    columns: int, classes: tuple[str, ...] = (), *, seed: int = 0, kinds: tuple[Column, ...] = ()
) -> ArraySource:
    """Return 40 rows around 50, deviation 20, so that nothing is in the network's own unit."""
    inputs = np.random.default_rng(seed).normal(50, 20, size=(40, columns))
    targets = np.arange(40) % len(classes) if classes else 1000 + inputs.sum(1)
    names = tuple(c.name for c in kinds) or ("宽度", "x_2", "c")[:columns]
    schema = Schema("row", (columns,), "class" if classes else "number", classes, names, "价格", kinds)
    return ArraySource(schema, inputs, targets, "p.csv")


def target(model: nn.Module, columns: int, classes: tuple[str, ...] = (), **more: object) -> tuple[Target, Task]:
    parts = Splits(*(source(columns, classes, seed=seed) for seed in range(3)), "p")
    kind = Classification if classes else Regression
    task = kind.prepare(parts.train, kind.Options())  # type: ignore[attr-defined]
    return Target(spec=registry.find("mlp"), model=model, task=task, splits=parts, **more), task  # type: ignore[arg-type]


def network(columns: int, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return mlp(features=columns, outputs=outputs, hidden=(16,), activation="tanh").eval()


def numbers(model: nn.Module, task: Task, rows: list[list[float]]) -> list[float]:
    """Return what the predictor answers to raw rows, asked one by one as a user would."""
    return [a.value for a in Predictor(model, task)(*rows) if isinstance(a, RegressionPrediction)]


def path_of(svg: str, name: str) -> np.ndarray:
    """Return the places (n, 2) of the drawn line of this name, in the drawing's own unit."""
    tree = ET.fromstring(svg)
    found = next(g for g in tree.iter("{http://www.w3.org/2000/svg}g") if g.get("id") == name)
    line = next(found.iter("{http://www.w3.org/2000/svg}path")).get("d")
    assert line is not None
    return np.array(re.findall(r"[-\d.]+", line), dtype=float).reshape(-1, 2)


def test_the_drawn_curve_is_the_predictors_answer(tmp_path: Path) -> None:
    model = network(1, 1)
    looked, task = target(model, 1)
    view = render_view("function", looked, out=tmp_path)
    assert (view.data["kind"], view.data["inputs"], view.data["target"]) == ("curve", ["宽度"], "价格")
    (places,) = view.data["axes"]
    assert looked.splits is not None
    cells = np.concatenate([looked.splits.part(part).fetch(range(40)).inputs for part in ("train", "val", "test")])  # type: ignore[attr-defined]
    assert (places[0], places[-1]) == (cells.min(), cells.max())
    answers = numbers(model, task, [[x] for x in places])
    assert view.data["values"] == pytest.approx(answers, rel=1e-6)
    # and the line in the file itself: its height is an affine function of the answer at its place
    line = path_of((tmp_path / "function.svg").read_text("utf-8"), "function")
    x = np.interp(line[:, 0], line[[0, -1], 0], [places[0], places[-1]])
    wanted = np.array(numbers(model, task, x[:, None].tolist()))
    slope, height = np.polyfit(wanted, line[:, 1], 1)
    assert slope < 0  # up is less in SVG
    assert np.abs(slope * wanted + height - line[:, 1]).max() < 0.05  # of a point
    rows = list(csv.reader((tmp_path / "function.csv").read_text("utf-8").splitlines()))
    assert rows[0] == ["宽度", "价格"]
    assert [float(r[1]) for r in rows[1:]] == pytest.approx(answers, rel=1e-6)


def test_the_drawn_surface_is_the_predictors_answer() -> None:
    model = network(2, 1)
    looked, task = target(model, 2)
    view = render_view("function", looked)
    assert view.data["kind"] == "surface"
    x, y = view.data["axes"]
    for i, j in ((0, 0), (3, 70), (99, 12), (GRID_SIDE - 1, GRID_SIDE - 1)):
        assert view.data["values"][i * GRID_SIDE + j] == pytest.approx(
            numbers(model, task, [[x[i], y[j]]])[0], rel=1e-6
        )


def test_a_perceptrons_border_is_the_line_of_its_weights(tmp_path: Path) -> None:
    """In the data's unit: Σ w (x − μ)/σ + b = 0."""
    model = perceptron(features=2, classes=2)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2.0, -0.5]]))
        model[1].bias.fill_(0.3)
    looked, _ = target(model, 2, CLASSES[:2])
    view = render_view("function", looked, out=tmp_path)
    assert looked.splits is not None
    cells = looked.splits.train.fetch(range(40)).inputs  # type: ignore[attr-defined]
    mean, deviation = cells.mean(0), cells.std(0)
    (line,) = view.data["borders"][CLASSES[0]]
    points = np.array(line)
    z = ((points - mean) / deviation) @ [2.0, -0.5] + 0.3
    assert len(points) > 50
    assert np.abs(z).max() < 1e-5
    # the line goes from edge to edge of the drawing, and is what is drawn
    y = np.array(view.data["axes"][1])
    assert sorted(points[[0, -1], 1]) == pytest.approx([y[0], y[-1]])
    drawn = path_of((tmp_path / "function.svg").read_text("utf-8"), "border")
    ends = drawn[[0, -1]]
    off = (ends[1, 0] - ends[0, 0]) * (drawn[:, 1] - ends[0, 1]) - (ends[1, 1] - ends[0, 1]) * (
        drawn[:, 0] - ends[0, 0]
    )
    assert np.abs(off).max() < 0.1 * np.linalg.norm(ends[1] - ends[0])  # a straight line


def test_regions_are_the_classes_that_the_predictor_answers(tmp_path: Path) -> None:
    model = network(2, 3)
    looked, task = target(model, 2, CLASSES, lang="zh", split="val")
    view = render_view("function", looked, out=tmp_path)
    shares = np.array(view.data["values"])
    places = [[x, y] for x in view.data["axes"][0][::20] for y in view.data["axes"][1][::20]]
    at = [i * GRID_SIDE + j for i in range(0, GRID_SIDE, 20) for j in range(0, GRID_SIDE, 20)]
    for place, row in zip(places, shares[at], strict=True):
        (answer,) = Predictor(model, task)(place)
        assert isinstance(answer, ClassPrediction)
        assert answer.scores == pytest.approx(dict(zip(CLASSES, row, strict=True)), abs=1e-6)
    # on a border the class is as probable as the best other
    for name, lines in view.data["borders"].items():
        for line in lines:
            for place in line[:: max(1, len(line) // 5)]:
                (answer,) = Predictor(model, task)(place)
                assert isinstance(answer, ClassPrediction)
                others = max(p for n, p in answer.scores.items() if n != name)
                assert answer.scores[name] == pytest.approx(others, abs=0.01)
    assert list(view.data["parts"]) == ["val"]
    assert "各预测类别占平面的比例" in view.text
    svg = (tmp_path / "function.svg").read_text("utf-8")
    ET.fromstring(svg)
    assert ("验证" in svg, "训练" in svg, "&lt;c&gt;" in svg) == (True, False, True)


@pytest.mark.parametrize("classes", [CLASSES[:2], CLASSES])
def test_one_input_gives_probabilities_and_where_the_answer_changes(classes: tuple[str, ...], tmp_path: Path) -> None:
    model = network(1, len(classes))
    looked, task = target(model, 1, classes)
    view = render_view("function", looked, out=tmp_path)
    assert view.data["kind"] == "probabilities"
    ask = Predictor(model, task)
    turns = [point[0] for lines in view.data["borders"].values() for line in lines for point in line]
    labels = [max(range(len(classes)), key=row.__getitem__) for row in view.data["values"]]
    assert bool(turns) == (len(set(labels)) > 1)
    for turn in turns:
        before, after = (
            answer.label for answer in ask([turn - 0.5], [turn + 0.5]) if isinstance(answer, ClassPrediction)
        )
        assert before != after
    ET.fromstring((tmp_path / "function.svg").read_text("utf-8"))


def test_crossings_of_a_parabola() -> None:
    x = np.linspace(-2, 3, 1001)
    assert find_crossings(x, x**2 - 1.21) == pytest.approx([-1.1, 1.1], abs=1e-5)
    assert find_crossings(x, x**2 + 1) == []


@pytest.mark.parametrize(
    ("columns", "kinds", "received"),
    [(3, (), "3 columns"), (2, (Column("g", "category", ("u", "v")), Column("d")), "2 columns")],
)
def test_other_inputs_are_refused(columns: int, kinds: tuple[Column, ...], received: str) -> None:
    table = source(columns, kinds=kinds)
    if kinds:
        table.inputs[:, 0] = np.arange(40) % 2
    task = Regression.prepare(table, Regression.Options())
    looked = Target(
        spec=registry.find("mlp"), model=network(columns, 1), task=task, splits=Splits(table, table, table, "p")
    )
    with pytest.raises(UsageError, match=f"one or two numeric columns\n.*regression of {received}") as error:
        render_view("function", looked)
    assert "data.drop" in str(error.value)


def test_an_unknown_part_is_answered_with_the_nearest() -> None:
    looked, _ = target(network(1, 1), 1, split="tests")
    with pytest.raises(UsageError, match="did you mean 'test'"):
        render_view("function", looked)


def flat(view: View) -> str:
    return view.text.splitlines()[-1]


def test_constant_functions_and_columns_are_drawn(tmp_path: Path) -> None:
    """A network that always says the same, over a column that never changes."""
    for outputs, classes in ((1, ()), (3, CLASSES)):
        model = network(2, outputs)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        looked, _ = target(model, 2, classes)
        assert looked.splits is not None
        for part in ("train", "val", "test"):
            looked.splits.part(part).inputs[:, 1] = 7.0  # type: ignore[attr-defined]
        view = render_view("function", looked, out=tmp_path / str(outputs))
        assert (view.data["axes"][1][0], view.data["axes"][1][-1]) == (6.5, 7.5)
        ET.fromstring((tmp_path / str(outputs) / "function.svg").read_text("utf-8"))
        if classes:
            assert "a$^ 100.0%" in flat(view)


@pytest.mark.parametrize("columns", [1, 2])
def test_more_classes_than_colors_are_named_where_they_lie(columns: int, tmp_path: Path) -> None:
    names = tuple(f"类{number}" for number in range(8))
    looked, _ = target(network(columns, 8), columns, names)
    render_view("function", looked, out=tmp_path)
    svg = (tmp_path / "function.svg").read_text("utf-8")
    ET.fromstring(svg)
    assert all(name in svg for name in names)
