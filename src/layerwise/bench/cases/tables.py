"""Regression on tables: ``mlp`` with its default recipe beside scikit-learn's ``MLPRegressor`` and a linear model, on
the same splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerwise.bench.base import Case, Quality, Row, Side, Spec
from layerwise.bench.process import Measure

if TYPE_CHECKING:
    from layerwise.planning.resolve import Request

SETS = ("wine-quality", "diabetes")


def asked(data: str, spec: Spec) -> Request:
    """Return the request of our side: the model's own recipe, the run's seed for weights, order and split."""
    from layerwise.planning.resolve import Request

    return Request(model="mlp", data=data, task="regression", seed=spec["seed"], epochs=spec["epochs"] or None)


def ours(data: str, spec: Spec) -> Measure:
    """Train ``mlp`` with its own recipe and return the test part's RMSE, in the target's unit."""
    from layerwise.bench.training import trained

    with trained(asked(data, spec)) as done:
        found = done.outcome.metrics
        quality = {name: found[f"test/{name}"] for name in ("rmse", "mae", "r2")}
        return Measure(quality["rmse"], quality, {**done.facts, "epochs": done.outcome.info["epochs"]})


def fitted(peer: Any, data: str, spec: Spec) -> Measure:
    """Fit a peer to the same training part, inputs and target standardized alike, and return the same of the same test
    part."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    from layerwise.bench.training import arrays
    from layerwise.planning.resolve import plan
    from layerwise.tasks.regression import Regression

    made = plan(asked(data, spec))
    assert isinstance(made.task, Regression)
    (x, y), (test_x, test_y) = (arrays(made, part, "float64") for part in (made.splits.train, made.splits.test))
    assert y is not None
    assert test_y is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        said = peer.fit(x, y[:, 0]).predict(test_x) * made.task.spread + made.task.shift
    true = test_y[:, 0] * made.task.spread + made.task.shift
    quality = {
        "rmse": float(root_mean_squared_error(true, said)),
        "mae": float(mean_absolute_error(true, said)),
        "r2": float(r2_score(true, said)),
    }
    return Measure(quality["rmse"], quality, {"iterations": int(getattr(peer, "n_iter_", 0)), "examples": len(x)})


def network(data: str, spec: Spec, *, stopped: bool) -> Measure:
    """Fit ``MLPRegressor`` with its own defaults, or with its early stopping."""
    from sklearn.neural_network import MLPRegressor

    return fitted(MLPRegressor(early_stopping=stopped, random_state=spec["seed"]), data, spec)


def linear(data: str, spec: Spec) -> Measure:
    """Fit least squares."""
    from sklearn.linear_model import LinearRegression

    return fitted(LinearRegression(), data, spec)


def sides(data: str) -> dict[str, Side]:
    """Return what is measured on a data set."""
    return {
        f"{data}: mlp": lambda spec: ours(data, spec),
        f"{data}: MLPRegressor": lambda spec: network(data, spec, stopped=False),
        f"{data}: MLPRegressor, stopped": lambda spec: network(data, spec, stopped=True),
        f"{data}: linear": lambda spec: linear(data, spec),
    }


def rows(data: str) -> tuple[Row, ...]:
    """Return what is compared on a data set."""
    mine = f"{data}: mlp"
    return (
        Row(f"{data}: scikit-learn MLPRegressor, its defaults", f"{data}: MLPRegressor", None, ours=mine),
        Row(
            f"{data}: scikit-learn MLPRegressor, early_stopping=True", f"{data}: MLPRegressor, stopped", None, ours=mine
        ),
        Row(f"{data}: least squares (LinearRegression)", f"{data}: linear", None, ours=mine),
    )


CASE = Case(
    name="tables",
    unit="RMSE",
    spec={"epochs": 0},
    sides={name: side for data in SETS for name, side in sides(data).items()},
    rows=tuple(row for data in SETS for row in rows(data)),
    quality=tuple(Quality(name, more_is_better=name == "r2", judged=False) for name in ("rmse", "mae", "r2")),
    average="mean",
    paired=True,
    least=3,
    note="test part, in the target's unit; each turn's seed draws another split 70/15/15, the same for all sides, "
    "inputs and target "
    "standardized by its training part. Ours keeps the best epoch on the validation part, which the peers do "
    "not see; epochs 0 in the "
    "spec: the recipe's own",
)
