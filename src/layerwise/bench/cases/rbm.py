"""A restricted Boltzmann machine (256 hidden units, persistent CD-1, batch 128) beside scikit-learn's
``BernoulliRBM``."""

from __future__ import annotations

from typing import Any

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement


def build_settings(spec: Spec) -> tuple[str, ...]:
    """Return our recipe: the peer's constant rate, no validation."""
    return (
        f"model.hidden={spec['hidden']}",
        f"rule.lr={spec['lr']}",
        "rule.final_lr_ratio=1.0",
        "rule.persistent=true",
        "rule.k=1",
        "stages.main.batch_size=128",
        "train.validate=false",
    )


def compute_reconstruction_error(v: Any, *, weights: Any, visible_bias: Any, hidden_bias: Any) -> float:
    """Return the mean squared error per pixel of σ(a + Wᵀσ(b + Wv)), in float64: the same function for both sides.

    Args:
        v: images (N, D) in [0, 1].
        weights: W (H, D).
        visible_bias: a (D,).
        hidden_bias: b (H,).
    """
    import numpy as np
    from scipy.special import expit

    v, w = np.asarray(v, np.float64), np.asarray(weights, np.float64)
    reconstruction = expit(expit(v @ w.T + hidden_bias) @ w + visible_bias)
    return float(np.mean((v - reconstruction) ** 2))


def measure_ours(spec: Spec) -> Measurement:
    """Train ``rbm`` and return its examples per second and reconstruction error on the test images."""
    from layerwise.bench.training import load_arrays, make_request, train_run
    from layerwise.inference.predict import load_run

    request = make_request("rbm", spec, build_settings(spec))
    with train_run(request) as run:
        weights = {
            name: p.detach().numpy() for name, p in load_run(run.outcome.directory.path).model.named_parameters()
        }
        error = compute_reconstruction_error(
            load_arrays(request).test_inputs,
            weights=weights["weight"],
            visible_bias=weights["visible_bias"],
            hidden_bias=weights["hidden_bias"],
        )
        return Measurement(run.examples_per_second, {"reconstruction error": error}, run.facts)


def measure_sklearn(spec: Spec, dtype: str) -> Measurement:
    """Fit scikit-learn's ``BernoulliRBM`` and return its speed and reconstruction error."""
    import time

    from sklearn.neural_network import BernoulliRBM

    from layerwise.bench.training import load_arrays, make_request

    data = load_arrays(make_request("rbm", spec, build_settings(spec)), dtype=dtype)
    options = {
        "n_components": spec["hidden"],
        "batch_size": 128,
        "learning_rate": spec["lr"],
        "random_state": spec["seed"],
    }
    BernoulliRBM(**options, n_iter=1).fit(data.inputs[:1280])  # warm-up
    peer = BernoulliRBM(**options, n_iter=spec["epochs"])
    start = time.perf_counter()
    peer.fit(data.inputs)
    seconds = time.perf_counter() - start
    error = compute_reconstruction_error(
        data.test_inputs,
        weights=peer.components_,
        visible_bias=peer.intercept_visible_,
        hidden_bias=peer.intercept_hidden_,
    )
    return Measurement(len(data.inputs) * spec["epochs"] / seconds, {"reconstruction error": error})


CASE = Case(
    name="rbm",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 5, "hidden": 256, "lr": 0.05},
    sides={
        "ours": measure_ours,
        "sklearn-float32": lambda spec: measure_sklearn(spec, "float32"),
        "sklearn-float64": lambda spec: measure_sklearn(spec, "float64"),
    },
    rows=(
        Row("scikit-learn BernoulliRBM, float32 inputs", "sklearn-float32", Bound(2.5)),
        Row("scikit-learn BernoulliRBM, float64 inputs", "sklearn-float64", Bound(2.5)),
    ),
    quality=(Quality("reconstruction error", more_is_better=False),),
    min_runs=5,
    note="both: persistent CD-1, constant rate, as many epochs, last weights; the error is mean-field, per pixel, "
    "on the test "
    "images, by one NumPy function. Ours shuffles each epoch and has logging, checkpoints and the "
    "free-energy gap in its time",
)
