"""A classifier's evaluation metrics against scikit-learn's of the same probabilities; merged, kept and counted scores;
regression."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from layerwise.data.batch import Batch
from layerwise.data.source import ArraySource, Schema
from layerwise.tasks import evaluation_metrics
from layerwise.tasks.classification import Classification
from layerwise.tasks.evaluation_metrics import ClassificationEvaluationMeter
from layerwise.tasks.objectives import ClassLoss
from layerwise.tasks.regression import Regression


def make_task(classes: int, kind: str = "cross-entropy") -> Classification:
    names = tuple(f"k{i}" for i in range(classes))
    rows = np.arange(classes, dtype=float)[:, None]
    source = ArraySource(Schema("row", (1,), "class", names, ("x",)), rows, np.arange(classes), "t")
    return Classification.prepare(source, Classification.Options(loss=kind))  # type: ignore[arg-type]


def draw_outputs(classes: int, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs that know something of the labels, and the labels, unevenly many of each."""
    rng = np.random.default_rng(classes)
    labels = np.minimum(rng.geometric(0.5, count) - 1, max(2, classes) - 1)
    outputs = rng.normal(size=(count, classes)) * 2
    if classes > 1:
        outputs[np.arange(count), labels] += 1.5
    else:
        outputs[:, 0] += 2.0 * labels - 1
    return torch.from_numpy(outputs).float(), torch.from_numpy(labels)


def evaluate_outputs(
    made: Classification, outputs: torch.Tensor, labels: torch.Tensor, size: int = 57
) -> ClassificationEvaluationMeter:
    found = made.evaluation_meter()
    for start in range(0, len(labels), size):
        part = labels[start : start + size]
        found.update(outputs[start : start + size], Batch(torch.zeros(len(part), 1), part, torch.arange(len(part))))
    return found


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_metrics_equal_scikit_learn(classes: int) -> None:
    outputs, labels = draw_outputs(classes)
    made = make_task(max(2, classes))
    got = evaluate_outputs(made, outputs, labels)
    logits = torch.cat([torch.zeros_like(outputs), outputs], 1) if classes == 1 else outputs
    p, y = logits.double().softmax(1).numpy(), labels.numpy()
    said = p.argmax(1)
    area = (
        metrics.roc_auc_score(y, p[:, 1])
        if p.shape[1] == 2
        else metrics.roc_auc_score(y, p, multi_class="ovr", average="macro")
    )
    edges = np.linspace(0, 1, 16)
    places = np.searchsorted(edges[1:-1], p.max(1))
    gaps = [abs(((said == y) * 1.0 - p.max(1))[places == b].sum()) for b in range(15)]
    want = {
        "accuracy": metrics.accuracy_score(y, said),
        "loss": metrics.log_loss(y, p),
        "balanced-accuracy": metrics.balanced_accuracy_score(y, said),
        "macro-f1": metrics.f1_score(y, said, average="macro"),
        "roc-auc": area,
        "calibration-error": sum(gaps) / len(y),
    }
    assert got.result() == pytest.approx(want, abs=1e-7)
    details: dict[str, Any] = got.details()
    assert details["confusion"] == metrics.confusion_matrix(y, said).tolist()
    for at, one in enumerate(details["classes"]):
        assert one["roc_auc"] == pytest.approx(metrics.roc_auc_score(y == at, p[:, at]), abs=1e-7)
        assert one["precision"] == pytest.approx(metrics.precision_score(y == at, said == at))
        assert one["support"] == (y == at).sum()
    assert sum(b["count"] for b in details["calibration"]["bins"]) == len(y)
    for b in details["calibration"]["bins"]:
        inside = (p.max(1) > b["low"]) & (p.max(1) <= b["high"])
        assert b["accuracy"] == pytest.approx((said == y)[inside].mean())


@pytest.mark.parametrize("limit", [1 << 25, 500])
def test_ranks_merge_to_the_whole(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the scores is kept or counted on each side, merged meters say what one over everything says."""
    monkeypatch.setattr(evaluation_metrics, "MAX_EXACT_SCORES", limit)
    outputs, labels = draw_outputs(3)
    made = make_task(3)
    whole = evaluate_outputs(made, outputs, labels)
    merged = made.evaluation_meter()
    for part in (slice(0, 300), slice(300, 300), slice(300, None)):  # one counts, one has nothing, one keeps
        merged.merge_state(evaluate_outputs(made, outputs[part], labels[part]).state())
    assert merged.result() == pytest.approx(whole.result(), abs=1e-9)
    assert len(merged.step_counts) == (0 if limit > 500 else 3)


def test_counted_scores_give_nearly_the_exact_area(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_metrics, "MAX_EXACT_SCORES", 1000)
    outputs, labels = draw_outputs(4, 3000)
    got = evaluate_outputs(make_task(4), outputs, labels)
    assert not got.scores
    p = outputs.double().softmax(1).numpy()
    for at, one in enumerate(got.details()["classes"]):
        assert one["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels.numpy() == at, p[:, at]), abs=1e-3)


def test_each_class_by_itself() -> None:
    """Sigmoids, one class against the rest: the area of each by its own output, the confidence σ of the answer's."""
    outputs, labels = draw_outputs(3)
    got = evaluate_outputs(make_task(3, "binary-cross-entropy"), outputs, labels)
    p = outputs.double().sigmoid().numpy()
    areas = [metrics.roc_auc_score(labels.numpy() == at, p[:, at]) for at in range(3)]
    assert got.result()["roc-auc"] == pytest.approx(np.mean(areas), abs=1e-7)
    assert got.bins[1].sum() == pytest.approx(p.max(1).sum())


def test_classes_that_are_not_there() -> None:
    """A part with one class only has no area; absent classes do not pull means down, as in scikit-learn."""
    outputs, _ = draw_outputs(3)
    zeros = torch.zeros(len(outputs), dtype=torch.long)
    found = evaluate_outputs(make_task(3), outputs, zeros)
    assert np.isnan(found.result()["roc-auc"])
    assert found.details()["classes"][0]["roc_auc"] is None
    assert found.result()["balanced-accuracy"] == pytest.approx(float((outputs.argmax(1) == 0).double().mean()))
    assert make_task(3).evaluation_meter().result()["accuracy"] == 0
    assert (
        ClassificationEvaluationMeter(make_task(2).meter(), ClassLoss(), ("a", "b")).details()["calibration"]["bins"]
        == []
    )


def test_regression_equals_scikit_learn_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    y = 1e9 + rng.normal(size=300)
    source = ArraySource(Schema("row", (1,), "number", (), ("x",)), rng.normal(size=(300, 1)), y, "t")
    made = Regression.prepare(source, Regression.Options())
    outputs = torch.from_numpy((y - made.shift) / made.spread + rng.normal(size=300) / 3)[:, None]
    found = made.evaluation_meter()
    for start in (0, 100, 200):
        batch = made.collate(source.fetch(np.arange(start, start + 100)))
        found.update(outputs[start : start + 100], batch)
    said = outputs[:, 0].numpy() * made.spread + made.shift
    want = {
        "mae": metrics.mean_absolute_error(y, said),
        "rmse": metrics.root_mean_squared_error(y, said),
        "r2": metrics.r2_score(y, said),
    }
    got = found.result()
    assert {name: got[name] for name in want} == pytest.approx(want, rel=1e-6)
    assert found.details() == {}
