"""What the default recipes reach on fashion-mnist in 10 epochs."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.process import Measure


def reached(model: str, spec: Spec, settings: Sequence[str] = ()) -> Measure:
    """Train with the default recipe and return the test accuracy."""
    from layerwise.bench.training import request, trained

    with trained(request(model, spec, settings)) as done:
        metrics = done.outcome.metrics
        return Measure(
            metrics["test/accuracy"], {"accuracy": metrics["test/accuracy"]}, {**done.facts, "metrics": metrics}
        )


CASE = Case(
    name="accuracy",
    unit="accuracy",
    spec={"data": "fashion-mnist", "epochs": 10},
    sides={
        "mlp": lambda spec: reached("mlp", spec),
        "lenet5": lambda spec: reached("lenet5", spec),
        "original": lambda spec: reached("lenet5", spec, ("model.activation='tanh'", "model.pool='average'")),
    },
    rows=(
        Row("floor of 0.89: mlp", 0.89, Bound(1.0), ours="mlp"),
        Row("floor of 0.905: lenet5", 0.905, Bound(1.0), ours="lenet5"),
        Row("lenet5 with tanh and average pooling, as in 1998", "original", None, ours="lenet5"),
    ),
    quality=(Quality("accuracy", judged=False),),
    average="mean",
    least=3,
    note="default recipes with --epochs 10, a seed for each run; the weights are the best on the validation part, "
    "the test part is "
    "read once",
)
