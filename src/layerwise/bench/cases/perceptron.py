"""Rosenblatt's perceptron for all classes beside scikit-learn's ``Perceptron``."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement

SETTINGS = ("task.scale='unit'", "train.validate=false", "train.log_every=10")


def measure_ours(spec: Spec) -> Measurement:
    """Train ``perceptron`` and return its examples per second (each for all classes) and test accuracy."""
    from layerwise.bench.training import make_request, train_run

    with train_run(make_request("perceptron", spec, SETTINGS)) as run:
        return Measurement(run.examples_per_second, {"accuracy": run.outcome.metrics["test/accuracy"]}, run.facts)


def measure_sklearn(spec: Spec, dtype: str) -> Measurement:
    """Fit the peer for as many epochs and return the same."""
    import time

    from sklearn.linear_model import Perceptron

    from layerwise.bench.training import load_arrays, make_request

    data = load_arrays(make_request("perceptron", spec, SETTINGS), dtype=dtype)
    assert data.labels is not None
    Perceptron(tol=None, max_iter=1).fit(data.inputs[:1280], data.labels[:1280])  # warm-up
    peer = Perceptron(tol=None, max_iter=spec["epochs"], random_state=spec["seed"])
    start = time.perf_counter()
    peer.fit(data.inputs, data.labels)
    seconds = time.perf_counter() - start
    rate = len(data.inputs) * spec["epochs"] / seconds
    return Measurement(
        rate, {"accuracy": float(peer.score(data.test_inputs, data.test_labels))}, {"epochs": int(peer.n_iter_)}
    )


CASE = Case(
    name="perceptron",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 10},
    sides={
        "ours": measure_ours,
        "sklearn-float32": lambda spec: measure_sklearn(spec, "float32"),
        "sklearn-float64": lambda spec: measure_sklearn(spec, "float64"),
    },
    rows=(
        Row("scikit-learn Perceptron, float32 inputs", "sklearn-float32", Bound(9.0)),
        Row("scikit-learn Perceptron, float64 inputs", "sklearn-float64", Bound(9.0)),
    ),
    quality=(Quality("accuracy", decides=False),),
    min_runs=3,
    note="both: one class against the rest, as many epochs (tol=None), no validation, last weights. Ours logs "
    "every 10 steps, so "
    "that loading the compiled loop lies before the first line; n_jobs is the peer's default (one core), "
    "ours takes all cores",
)
