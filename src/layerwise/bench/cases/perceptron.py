"""Rosenblatt's perceptron for all classes beside scikit-learn's ``Perceptron``."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.process import Measure

SETTINGS = ("task.scale='unit'", "train.validate=false", "train.log_every=10")


def ours(spec: Spec) -> Measure:
    """Train ``perceptron`` and return its examples a second (each for all classes) and test accuracy."""
    from layerwise.bench.training import request, trained

    with trained(request("perceptron", spec, SETTINGS)) as done:
        return Measure(done.examples_per_second, {"accuracy": done.outcome.metrics["test/accuracy"]}, done.facts)


def sklearn_side(spec: Spec, dtype: str) -> Measure:
    """Fit the peer for as many epochs and return the same."""
    import time

    from sklearn.linear_model import Perceptron

    from layerwise.bench.training import given, request

    data = given(request("perceptron", spec, SETTINGS), dtype=dtype)
    assert data.labels is not None
    Perceptron(tol=None, max_iter=1).fit(data.inputs[:1280], data.labels[:1280])  # warm-up
    peer = Perceptron(tol=None, max_iter=spec["epochs"], random_state=spec["seed"])
    began = time.perf_counter()
    peer.fit(data.inputs, data.labels)
    seconds = time.perf_counter() - began
    rate = len(data.inputs) * spec["epochs"] / seconds
    return Measure(
        rate, {"accuracy": float(peer.score(data.test_inputs, data.test_labels))}, {"epochs": int(peer.n_iter_)}
    )


CASE = Case(
    name="perceptron",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 10},
    sides={
        "ours": ours,
        "sklearn-float32": lambda spec: sklearn_side(spec, "float32"),
        "sklearn-float64": lambda spec: sklearn_side(spec, "float64"),
    },
    rows=(
        Row("scikit-learn Perceptron, float32 inputs", "sklearn-float32", Bound(9.0)),
        Row("scikit-learn Perceptron, float64 inputs", "sklearn-float64", Bound(9.0)),
    ),
    quality=(Quality("accuracy", judged=False),),
    least=3,
    note="both: one class against the rest, as many epochs (tol=None), no validation, last weights. Ours logs "
    "every 10 steps, so "
    "that loading the compiled loop lies before the first line; n_jobs is the peer's default (one core), "
    "ours takes all cores",
)
