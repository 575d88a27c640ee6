"""A multilayer perceptron 784-256-10 (ReLU, Adam, batch 128) beside scikit-learn's ``MLPClassifier``."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement

# The peer's network and defaults, spelled out, whatever the model's own recipe becomes: Adam at 1e-3 throughout, no
# dropout. The
# same pixels in [0, 1] for both.
SETTINGS = (
    "model.hidden=[256]",
    "model.activation='relu'",
    "model.dropout=0.0",
    "model.batch_norm=false",
    "task.scale='unit'",
    "stages.main.batch_size=128",
    "rule.optimizer='adam'",
    "rule.lr=0.001",
    "rule.schedule='constant'",
    "rule.warmup=0.0",
    "train.validate=false",
)


def measure_ours(spec: Spec) -> Measurement:
    """Train ``mlp`` and return its examples per second and test accuracy."""
    from layerwise.bench.training import make_request, train_run

    with train_run(make_request("mlp", spec, SETTINGS)) as run:
        return Measurement(run.examples_per_second, {"accuracy": run.outcome.metrics["test/accuracy"]}, run.facts)


def measure_sklearn(spec: Spec, dtype: str) -> Measurement:
    """Fit the peer for as many epochs and return the same."""
    import time
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    from layerwise.bench.training import load_arrays, make_request

    data = load_arrays(make_request("mlp", spec, SETTINGS), dtype=dtype)
    assert data.labels is not None
    peer = MLPClassifier((256,), batch_size=128, max_iter=spec["epochs"], random_state=spec["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        MLPClassifier((256,), batch_size=128, max_iter=1).fit(data.inputs[:1280], data.labels[:1280])  # warm-up
        start = time.perf_counter()
        peer.fit(data.inputs, data.labels)
        seconds = time.perf_counter() - start
    rate = len(data.inputs) * peer.n_iter_ / seconds
    return Measurement(
        rate, {"accuracy": float(peer.score(data.test_inputs, data.test_labels))}, {"epochs": peer.n_iter_}
    )


CASE = Case(
    name="mlp-sklearn",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 5},
    sides={
        "ours": measure_ours,
        "sklearn-float32": lambda spec: measure_sklearn(spec, "float32"),
        "sklearn-float64": lambda spec: measure_sklearn(spec, "float64"),
    },
    rows=(
        Row("scikit-learn MLPClassifier, float32 inputs", "sklearn-float32", Bound(2.0)),
        Row("scikit-learn MLPClassifier, float64 inputs", "sklearn-float64", Bound(2.0)),
    ),
    quality=(Quality("accuracy"),),
    min_runs=5,
    note="both: Adam 1e-3, batch 128, as many epochs, no validation, last weights. The peer has its default "
    "alpha=1e-4 (E08's λ = "
    "4e-7 at this batch), ours no penalty. Ours has logging and checkpoints in its time; excluded: decoding, "
    "first 50 steps; "
    "the peer's: decoding and a small first fit",
)
