"""Permutation importance: beside scikit-learn's, a closed form, and a naive loop over raw rows; refusals, languages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.inspection import permutation_importance
from torch import nn

from layerwise import registry
from layerwise.data.source import ArraySource, Schema, Splits
from layerwise.data.tables import table_source
from layerwise.errors import UsageError
from layerwise.inference.predict import Predictor
from layerwise.inspection import render_view
from layerwise.inspection.base import Target
from layerwise.inspection.views.columns import SHUFFLES, compute_importances, shuffle_column
from layerwise.models.feedforward import mlp
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.regression import Regression


def target_of(model: nn.Module, task: Task, source: ArraySource, **more: Any) -> Target:
    return Target(spec=registry.find("mlp"), model=model, task=task, splits=Splits(source, source, source, "t"), **more)


def numbers(count: int, weights: list[float]) -> ArraySource:
    inputs = np.random.default_rng(2).normal(size=(count, len(weights)))
    names = tuple(f"x{i}" for i in range(len(weights)))
    return ArraySource(Schema("row", (len(weights),), "number", (), names, "y"), inputs, inputs @ weights, "t.csv")


class Wrapped:
    """A model as scikit-learn sees it: raw rows in, answers out."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model, self.task = model, task

    def fit(self, *_: Any) -> None: ...

    def predict(self, rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out = self.model(self.task.inputs.tensor(rows)).double().numpy()
        return (
            out.argmax(1) if isinstance(self.task, Classification) else out[:, 0] * self.task.spread + self.task.shift
        )


@pytest.mark.parametrize("kind", ["class", "number"])
def test_it_agrees_with_scikit_learn(kind: str) -> None:
    torch.manual_seed(0)
    source = numbers(300, [2.0, -1.0, 0.0])
    if kind == "class":
        schema = Schema("row", (3,), "class", ("a", "b"), source.schema.features, "y")
        source = ArraySource(schema, source.inputs, (source.targets > 0).astype(np.int64), "t.csv")
    of: type[Task] = Classification if kind == "class" else Regression
    made = of.prepare(source, of.Options())
    model = nn.Linear(3, made.model_args()["outputs"])
    with torch.no_grad():
        model.weight.copy_(
            torch.tensor([[-2.0, 1.0, 0.1], [2.0, -1.0, 0.0]]) if kind == "class" else torch.tensor([[0.9, -0.4, 0.1]])
        )
        model.bias.zero_()
    _, found = compute_importances(model, made, source, shuffles=30)

    def scored(wrapped: Wrapped, rows: np.ndarray, y: np.ndarray) -> float:
        predicted = wrapped.predict(rows)
        return float(
            metrics.accuracy_score(y, predicted) if kind == "class" else -metrics.root_mean_squared_error(y, predicted)
        )

    want = permutation_importance(
        Wrapped(model, made), source.inputs, source.targets, scoring=scored, n_repeats=30, random_state=0
    )
    for one, mean, spread in zip(found, want.importances_mean, want.importances_std, strict=True):
        error = 4 * math.sqrt((spread**2 + one.spread**2) / 30) + 1e-7  # of the difference of two means of thirty
        assert one.mean == pytest.approx(mean, abs=error)
        assert one.spread == pytest.approx(spread, rel=0.5, abs=1e-6)
    assert found[0].mean > found[1].mean > found[2].mean


def test_a_linear_model_by_its_closed_form() -> None:
    """ŷ = y = wᵀx: after a shuffle the error is wⱼ(x′ⱼ − xⱼ), so its mean square is on average 2wⱼ²·Var(xⱼ)·n/(n−1)."""
    source = numbers(400, [2.0, -0.5])
    made = Regression.prepare(source, Regression.Options(scale="none"))
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -0.5]]) / made.spread)
        model.bias.fill_(-made.shift / made.spread)
    base, found = compute_importances(model, made, source, shuffles=40)
    assert base == pytest.approx(0, abs=1e-5)
    for at, w in enumerate((2.0, -0.5)):
        want = 2 * w * w * source.inputs[:, at].var(ddof=1)
        assert np.mean(np.square(found[at].worse)) == pytest.approx(want, rel=0.05)


def test_whole_columns_are_shuffled(tmp_path: Path) -> None:
    """On a table with a category, a date and gaps: what the predictor says of the raw rows, cells put elsewhere by
    hand."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "town": f"t{rng.integers(3)}",
            "built": f"20{rng.integers(10, 20)}-0{rng.integers(1, 9)}-11",
            "size": "" if i % 7 == 0 else f"{rng.normal():.3f}",
        }
        for i in range(60)
    ]
    labels = [("in" if row["town"] == "t1" else "out") for row in rows]
    lines = [",".join([*row.values(), label]) for row, label in zip(rows, labels, strict=True)]
    (tmp_path / "t.csv").write_text("town,built,size,y\n" + "\n".join(lines) + "\n")
    source = table_source.read_table(tmp_path / "t.csv").source
    made = Classification.prepare(source, Classification.Options())
    torch.manual_seed(1)
    model = mlp(features=made.model_args()["features"], outputs=2, hidden=(8,))
    base, found = compute_importances(model, made, source)
    predictor = Predictor(model, made)

    def accuracy(changed: list[dict[str, str]]) -> float:
        predicted = [answer.label for answer in predictor(*changed)]  # type: ignore[attr-defined]
        return float(np.mean([a == b for a, b in zip(predicted, labels, strict=True)]))

    assert base == pytest.approx(accuracy(rows))
    assert [one.kind for one in found] == ["category", "date", "number"]
    marked = ArraySource(
        source.schema, np.repeat(np.arange(60.0)[:, None], 3, 1), source.targets, "t"
    )  # cells are row numbers
    for at, name in enumerate(("town", "built", "size")):
        for turn in (0, SHUFFLES - 1):
            order = shuffle_column(marked, at, turn).inputs[:, at].astype(int)
            changed = [{**row, name: rows[order[i]][name]} for i, row in enumerate(rows)]
            assert found[at].worse[turn] == pytest.approx(base - accuracy(changed))


def test_the_view_tells_and_draws_in_both_languages(tmp_path: Path) -> None:
    source = numbers(50, [1.0, 3.0])
    made = Regression.prepare(source, Regression.Options())
    torch.manual_seed(0)
    model = mlp(features=2, outputs=1, hidden=())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    english = render_view("columns", target_of(model, made, source), out=tmp_path)
    chinese = render_view("columns", target_of(model, made, source, lang="zh", examples=20), out=None)
    assert english.data["metric"] == "rmse"
    assert english.data["split"] == "val"
    assert english.data == render_view("columns", target_of(model, made, source)).data
    assert [len(one["worse"]) for one in english.data["columns"]] == [SHUFFLES] * 2
    assert english.data["columns"][0]["importance"] >= english.data["columns"][1]["importance"]
    assert chinese.data["examples"] == 20
    assert "打乱" in chinese.text
    drawn = (tmp_path / "columns.svg").read_text()
    assert "rise in RMSE" in drawn
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_other_runs_are_refused() -> None:
    images = ArraySource(
        Schema("image", (2, 2, 1), "class", ("a", "b")), np.zeros((4, 2, 2, 1), np.uint8), np.arange(4) % 2, "p"
    )
    made = Classification.prepare(images, Classification.Options())
    with pytest.raises(UsageError, match="columns of a table"):
        render_view("columns", target_of(mlp(features=4, outputs=2), made, images))
    from layerwise.tasks.reconstruction import Reconstruction

    rows = numbers(10, [1.0])
    with pytest.raises(UsageError, match=r"(?s)received: reconstruction"):
        render_view(
            "columns",
            target_of(mlp(features=1, outputs=1), Reconstruction.prepare(rows, Reconstruction.Options()), rows),
        )
