"""S09 as recipe keys: losses by name, smoothing and weights of classes, what is refused, what travels with the
weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from layerwise import api
from layerwise.data.source import ArraySource, Schema
from layerwise.data.values import call
from layerwise.errors import UsageError
from layerwise.inspection.backprop_steps import compute_output_gradient
from layerwise.planning.resolve import Request, make_plan
from layerwise.tasks import registry
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.regression import Regression

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
ROWS = np.random.default_rng(0).normal(size=(9, 4))
SOURCE = ArraySource(Schema("row", (4,), "class", ("cat", "dog", "owl"), tuple("abcd")), ROWS, LABELS, "r")
NUMBERS = ArraySource(Schema("row", (4,), "number", (), tuple("abcd")), ROWS, ROWS.sum(1), "r")
TARGETS = torch.from_numpy(LABELS)


def make_source(**options: Any) -> Classification:
    return Classification.prepare(SOURCE, Classification.Options(**options))


def both(task: Task, source: ArraySource = SOURCE, outputs: int = 3) -> tuple[torch.Tensor, Any]:
    """Return a linear model's outputs and the task's loss on all nine examples, in float64."""
    torch.manual_seed(0)
    model = nn.Linear(4, outputs).double()
    batch = task.collate(source.fetch(range(9))).to(torch.device("cpu"), torch.float64)
    return call(model, batch.inputs), task.objective(model, batch)


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, nn.CrossEntropyLoss(reduction="sum")),
        ({"label_smoothing": 0.2}, nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.2)),
        (
            {"class_weights": {"owl": 5.0, "cat": 0.5}},
            nn.CrossEntropyLoss(reduction="sum", weight=torch.tensor([0.5, 1, 5]).double()),
        ),
    ],
    ids=["plain", "smoothed", "weighted"],
)
def test_objective_equals_torchs(options: dict[str, Any], reference: nn.Module) -> None:
    outputs, loss = both(make_source(**options))
    torch.testing.assert_close(loss.total, reference(outputs, TARGETS))
    assert loss.weight == 9
    assert list(loss.parts) == ["cross-entropy"]


def test_one_question_for_two_classes_is_smoothed_and_focused_as_two_logits_are() -> None:
    """A single output z means the logits (0, z)."""
    for options in (
        {"label_smoothing": 0.2},
        {"loss": "focal"},
        {"loss": "binary-cross-entropy"},
        {"class_weights": {"dog": 3.0}},
    ):
        loss = make_source(**options).loss
        z, y = torch.randn(5, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
        wide = torch.cat([torch.zeros_like(z), z], 1)
        if options.get("loss") == "binary-cross-entropy":
            want = nn.functional.binary_cross_entropy_with_logits(z[:, 0], y.double(), reduction="none")
        else:
            want = loss.compute_losses(wide, y)
        torch.testing.assert_close(loss.compute_losses(z, y), want)


def test_balanced_weights_are_scikit_learns() -> None:
    want = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(make_source(class_weights="balanced").loss.weights, want, rtol=1e-12)


def test_balanced_classes_pull_equally() -> None:
    """At equal logits the bias gets no gradient: each class is as heavy as every other."""
    task = make_source(class_weights="balanced")
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    task.loss.compute_losses(bias.expand(9, 3), TARGETS).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_weighted_classes_tell_the_mean_recall() -> None:
    task, plain = make_source(class_weights="balanced"), make_source()
    outputs = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    found = {}
    for name, one in (("weighted", task), ("plain", plain)):
        meter = one.meter()
        meter.update(outputs, one.collate(SOURCE.fetch(range(9))))
        found[name] = meter.result()
    assert found["weighted"]["balanced-accuracy"] == pytest.approx(balanced_accuracy_score(LABELS, outputs.argmax(1)))
    assert "balanced-accuracy" not in found["plain"]
    assert found["weighted"]["loss"] == found["plain"]["loss"]  # what is reported can be compared


def test_each_class_by_itself_answers_with_sigmoids() -> None:
    task = make_source(loss="binary-cross-entropy")
    answer = task.decode(torch.tensor([[0.0, 2.0, -1.0]]), task.collate(SOURCE.fetch([0])))[0]
    assert answer.label == "dog"  # type: ignore[attr-defined]
    assert answer.scores == pytest.approx({"cat": 0.5, "dog": 0.880797, "owl": 0.268941}, abs=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "source"),
    [
        (make_source(loss="focal", focal_gamma=1.5, class_weights="balanced"), SOURCE),
        (make_source(loss="binary-cross-entropy", label_smoothing=0.1), SOURCE),
        (Regression.prepare(NUMBERS, Regression.Options(loss="huber", huber_delta=0.3)), NUMBERS),
    ],
    ids=["focal", "rest", "huber"],
)
def test_a_loss_travels_with_the_weights_and_has_its_gradient(task: Task, source: ArraySource) -> None:
    again = registry.load_task(json.loads(json.dumps(task.to_json())), Path("task.json"))
    assert again == task
    outputs, _ = both(again, source, 1 if source is NUMBERS else 3)
    batch = again.collate(source.fetch(range(9)))
    leaf = outputs.detach().requires_grad_()
    (want,) = torch.autograd.grad(task.losses(leaf, batch).mean(), leaf)
    torch.testing.assert_close(compute_output_gradient(again, outputs.detach(), batch), want)


def test_a_task_saved_before_there_was_a_choice_opens() -> None:
    saved = {key: value for key, value in make_source().to_json().items() if key != "loss"}
    assert registry.load_task(saved, Path("task.json")) == make_source()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "0 ≤ task.label_smoothing < 1"),
        ({"focal_gamma": 1.0}, "the loss is cross-entropy"),
        ({"loss": "focal", "focal_gamma": -1.0}, "0 or more"),
        ({"loss": "focal", "label_smoothing": 0.1}, "use one of the two"),
        ({"class_weights": {"doge": 2.0}}, "did you mean 'dog'"),
        ({"class_weights": {"dog": 0.0}}, "class 'dog' cannot have this weight"),
    ],
)
def test_wrong_options_say_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_source(**options)


@pytest.mark.parametrize(
    ("options", "message"), [({"loss": "huber", "huber_delta": 0.0}, "over 0"), ({"huber_delta": 2.0}, "loss is mse")]
)
def test_wrong_deltas_say_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Regression.prepare(NUMBERS, Regression.Options(**options))


def test_a_rule_without_a_loss_refuses_one() -> None:
    with pytest.raises(UsageError, match="minimizes no loss"):
        api.train("perceptron", data="iris", options={"task.label_smoothing": 0.1})


def test_keys_reach_the_run() -> None:
    """Weights by name, as a dotted key, saved in the recipe and in task.json; patience knows which way is up."""
    keys = ("task.class_weights.class_2=4", "task.label_smoothing=0.05", "monitor=val/balanced-accuracy")
    run = api.train(
        "mlp",
        data="wine",
        epochs=3,
        options={"task.class_weights": {"class_2": 4.0}, "monitor": "val/balanced-accuracy"},
    )
    assert run.recipe.task["class_weights"] == {"class_2": 4.0}
    saved = json.loads((run.path / "task.json").read_text())
    assert saved["loss"]["weights"] == [1.0, 1.0, 4.0]
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    seen = [row["val/balanced-accuracy"] for row in rows if "val/balanced-accuracy" in row]
    assert run.metrics["val/balanced-accuracy"] == max(seen)
    typed = make_plan(Request(model="mlp", data="wine", settings=keys))
    assert json.loads(json.dumps(typed.recipe.task)) == {**run.recipe.task, "label_smoothing": 0.05}
