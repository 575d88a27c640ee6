"""Regression on tables: ``mlp`` with its default recipe beside scikit-learn's ``MLPRegressor`` and a linear model, on
the same splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerwise.bench.base import Case, Quality, Row, Side, Spec
from layerwise.bench.side import Measurement

if TYPE_CHECKING:
    from layerwise.planning.resolve import Request

SETS = ("wine-quality", "diabetes")


def build_request(data: str, spec: Spec) -> Request:
    """Return the request of our side: the model's own recipe, the run's seed for weights, order and split."""
    from layerwise.planning.resolve import Request

    return Request(model="mlp", data=data, task="regression", seed=spec["seed"], epochs=spec["epochs"] or None)


def measure_ours(data: str, spec: Spec) -> Measurement:
    """Train ``mlp`` with its own recipe and return the test part's RMSE, in the target's unit."""
    from layerwise.bench.training import train_run

    with train_run(build_request(data, spec)) as run:
        metrics = run.outcome.metrics
        quality = {name: metrics[f"test/{name}"] for name in ("rmse", "mae", "r2")}
        return Measurement(quality["rmse"], quality, {**run.facts, "epochs": run.outcome.info["epochs"]})


def fit_peer(peer: Any, data: str, spec: Spec) -> Measurement:
    """Fit a peer to the same training part, inputs and target standardized alike, and return the same of the same test
    part."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    from layerwise.bench.training import collate_arrays
    from layerwise.planning.resolve import make_plan
    from layerwise.tasks.regression import Regression

    plan = make_plan(build_request(data, spec))
    assert isinstance(plan.task, Regression)
    (x, y), (test_x, test_y) = (collate_arrays(plan, part, "float64") for part in (plan.splits.train, plan.splits.test))
    assert y is not None
    assert test_y is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predictions = peer.fit(x, y[:, 0]).predict(test_x) * plan.task.spread + plan.task.shift
    targets = test_y[:, 0] * plan.task.spread + plan.task.shift
    quality = {
        "rmse": float(root_mean_squared_error(targets, predictions)),
        "mae": float(mean_absolute_error(targets, predictions)),
        "r2": float(r2_score(targets, predictions)),
    }
    return Measurement(quality["rmse"], quality, {"iterations": int(getattr(peer, "n_iter_", 0)), "examples": len(x)})


def measure_mlp_regressor(data: str, spec: Spec, *, early_stopping: bool) -> Measurement:
    """Fit ``MLPRegressor`` with its own defaults, or with its early stopping."""
    from sklearn.neural_network import MLPRegressor

    return fit_peer(MLPRegressor(early_stopping=early_stopping, random_state=spec["seed"]), data, spec)


def measure_linear(data: str, spec: Spec) -> Measurement:
    """Fit least squares."""
    from sklearn.linear_model import LinearRegression

    return fit_peer(LinearRegression(), data, spec)


def build_sides(data: str) -> dict[str, Side]:
    """Return the sides of a data set."""
    return {
        f"{data}: mlp": lambda spec: measure_ours(data, spec),
        f"{data}: MLPRegressor": lambda spec: measure_mlp_regressor(data, spec, early_stopping=False),
        f"{data}: MLPRegressor, stopped": lambda spec: measure_mlp_regressor(data, spec, early_stopping=True),
        f"{data}: linear": lambda spec: measure_linear(data, spec),
    }


def build_rows(data: str) -> tuple[Row, ...]:
    """Return the rows of a data set."""
    ours = f"{data}: mlp"
    return (
        Row(f"{data}: scikit-learn MLPRegressor, its defaults", f"{data}: MLPRegressor", None, ours=ours),
        Row(
            f"{data}: scikit-learn MLPRegressor, early_stopping=True", f"{data}: MLPRegressor, stopped", None, ours=ours
        ),
        Row(f"{data}: least squares (LinearRegression)", f"{data}: linear", None, ours=ours),
    )


CASE = Case(
    name="tables",
    unit="RMSE",
    spec={"epochs": 0},
    sides={name: side for data in SETS for name, side in build_sides(data).items()},
    rows=tuple(row for data in SETS for row in build_rows(data)),
    quality=tuple(Quality(name, more_is_better=name == "r2", decides=False) for name in ("rmse", "mae", "r2")),
    average="mean",
    paired=True,
    min_runs=3,
    note="test part, in the target's unit; each turn's seed draws another split 70/15/15, the same for all sides, "
    "inputs and target "
    "standardized by its training part. Ours keeps the best epoch on the validation part, which the peers do "
    "not see; epochs 0 in the "
    "spec: the recipe's own",
)
