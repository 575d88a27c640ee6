"""What the default recipes reach on fashion-mnist in 10 epochs."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement


def train_and_score(model: str, spec: Spec, settings: Sequence[str] = ()) -> Measurement:
    """Train with the default recipe and return the test accuracy."""
    from layerwise.bench.training import make_request, train_run

    with train_run(make_request(model, spec, settings)) as run:
        metrics = run.outcome.metrics
        return Measurement(
            metrics["test/accuracy"], {"accuracy": metrics["test/accuracy"]}, {**run.facts, "metrics": metrics}
        )


CASE = Case(
    name="accuracy",
    unit="accuracy",
    spec={"data": "fashion-mnist", "epochs": 10},
    sides={
        "mlp": lambda spec: train_and_score("mlp", spec),
        "lenet5": lambda spec: train_and_score("lenet5", spec),
        "original": lambda spec: train_and_score("lenet5", spec, ("model.activation='tanh'", "model.pool='average'")),
    },
    rows=(
        Row("floor of 0.89: mlp", 0.89, Bound(1.0), ours="mlp"),
        Row("floor of 0.905: lenet5", 0.905, Bound(1.0), ours="lenet5"),
        Row("lenet5 with tanh and average pooling, as in 1998", "original", None, ours="lenet5"),
    ),
    quality=(Quality("accuracy", decides=False),),
    average="mean",
    min_runs=3,
    note="default recipes with --epochs 10, a seed for each run; the weights are the best on the validation part, "
    "the test part is "
    "read once",
)
