"""Rosenblatt's rule: Novikoff's bound on separable data, failure on XOR, agreement with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rule_fixtures import context
from torch import Tensor

from layerwise import api
from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.functional.neuron import novikoff_bound, perceptron_step
from layerwise.models.feedforward import perceptron
from layerwise.rules.perceptron import Perceptron, PerceptronOptions


def build(features: int, classes: int, **options: float) -> tuple[torch.nn.Module, Perceptron]:
    """Return a network of threshold units from zero, and the rule over it."""
    model = perceptron(features=features, classes=classes)
    return model, Perceptron(context(model, batch_size=10_000), PerceptronOptions(**options))


def learn(x: Tensor, labels: Tensor, epochs: int, classes: int = 2) -> tuple[int, str, torch.nn.Module]:
    """Return the updates over all epochs, the last verdict and the network."""
    model, rule = build(x.shape[1], classes)
    for _ in range(epochs):
        rule.step(Batch(x, labels, torch.arange(len(x))), 0.0)
        verdict = rule.end_epoch()
        if verdict.finished:
            break
    return int(rule.updates), verdict.note, model


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.05, 1.0), st.floats(0.1, 30.0))
def test_mistakes_stay_below_novikoffs_bound(seed: int, width: int, margin: float, scale: float) -> None:
    """Random sets that a known plane separates: the rule converges with at most (R/γ)² updates, and then makes no
    mistake."""
    draw = np.random.default_rng(seed)
    plane = draw.normal(size=width + 1)
    x = draw.normal(size=(60, width)) * scale
    z = (x @ plane[:-1] + plane[-1]) / np.linalg.norm(plane)
    x, z = x[np.abs(z) > margin], z[np.abs(z) > margin]
    if len(x) < 2:
        return
    x32, y = torch.from_numpy(x).float(), torch.from_numpy(np.sign(z))
    bound = novikoff_bound(x32, y, weights=torch.from_numpy(plane))
    assert bound < float("inf")
    updates, note, model = learn(x32, (y > 0).long(), epochs=int(bound) + 2)
    assert "converged" in note
    assert updates <= bound
    with torch.no_grad():
        assert torch.equal((model(x32)[:, 0] > 0).double() * 2 - 1, y)


def test_setosa_converges_within_the_bound(tmp_path: Path) -> None:
    """Through the whole package: the updates that the run reports stay below the bound of scikit-learn's widest
    margin."""
    from sklearn.datasets import load_iris
    from sklearn.svm import LinearSVC

    options = {"data.positive": "setosa", "train.threads": 1, "task.scale": "none"}
    run = api.train("perceptron", data="iris", out=tmp_path / "run", options=options)
    assert run.metrics["test/accuracy"] == 1.0
    note = run.info["verdicts"][-1][0]
    assert "made no mistake" in note
    updates = int(note.split("after ")[1].split()[0])
    x, labels = load_iris(return_X_y=True)
    y = np.where(labels == 0, 1.0, -1.0)
    svm = LinearSVC(C=1e4, max_iter=100_000, dual=False).fit(x, y)
    weights = torch.from_numpy(np.append(svm.coef_[0], svm.intercept_))
    bound = novikoff_bound(torch.from_numpy(x), torch.from_numpy(y), weights=weights)
    assert 0 < updates <= bound < 1000


def test_xor_does_not_converge_and_the_verdict_says_so() -> None:
    x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    updates, note, _ = learn(x, torch.tensor([0, 1, 1, 0]), epochs=500)
    assert updates >= 500
    assert note.startswith("did not converge: still ")
    assert "not separable" in note


@pytest.mark.parametrize("classes", [2, 3])
def test_one_batch_equals_the_rule_as_written(classes: int) -> None:
    """Example after example with `functional.perceptron_step`, one class against the rest."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(-4, 5, (50, 4), generator=draw).float()  # whole numbers: sums are exact in float32
    labels = torch.randint(0, classes, (50,), generator=draw)
    model, rule = build(4, classes, lr=0.5)
    step = rule.step(Batch(x, labels, torch.arange(50)), 0.0)
    mistakes = 0
    for unit, positive in enumerate((1,) if classes == 2 else range(classes)):
        w, b = torch.zeros(4), torch.zeros(())
        for row, label in zip(x, labels, strict=True):
            y = 1.0 if int(label) == positive else -1.0
            mistakes += bool(y * (w @ row + b) <= 0)
            w, b = perceptron_step(row, y, weights=w, bias=b, rate=0.5)
        assert torch.equal(model[1].weight[unit], w)  # type: ignore[index]
        assert torch.equal(model[1].bias[unit], b)  # type: ignore[index]
    assert float(step.total) == mistakes > 0


def accuracy_of_sklearn(x: NDArray[np.float64], y: NDArray[np.int64], cut: int) -> float:
    """Return the mean test accuracy of scikit-learn's Perceptron over three shuffles, after as many epochs as ours."""
    from sklearn.linear_model import Perceptron as Theirs

    return float(
        np.mean(
            [
                Theirs(max_iter=20, tol=None, random_state=seed).fit(x[:cut], y[:cut]).score(x[cut:], y[cut:])
                for seed in range(3)
            ]
        )
    )


def test_accuracy_agrees_with_scikit_learn_on_the_digits() -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x / 16
    cut, ours = 1300, []
    for seed in range(3):
        model, rule = build(64, 10)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(20):
            order = torch.randperm(cut, generator=draw)
            rule.step(Batch(torch.from_numpy(x).float()[order], torch.from_numpy(y)[order], order), 0.0)
            rule.end_epoch()
        with torch.no_grad():
            answers = model(torch.from_numpy(x[cut:]).float()).argmax(1).numpy()
        ours.append(np.mean(answers == y[cut:]))
    reference = accuracy_of_sklearn(x, y, cut)
    assert np.mean(ours) == pytest.approx(reference, abs=0.03)
    assert reference > 0.85


def test_state_taken_up_goes_on_exactly() -> None:
    model, rule = build(2, 2)
    x, y = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([0, 0, 0, 1])
    rule.step(Batch(x, y, torch.arange(4)), 0.0)
    rule.end_epoch()
    other = Perceptron(rule.context, PerceptronOptions())
    other.load_state_dict(rule.state_dict())
    assert (int(other.updates), int(other.epochs)) == (int(rule.updates), 1)
    assert int(rule.updates) > 0
    assert model is not None


def test_deeper_networks_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    with pytest.raises(UsageError, match="learns one layer of threshold units"):
        Perceptron(context(model, batch_size=2), PerceptronOptions())
