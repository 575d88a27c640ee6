"""A restricted Boltzmann machine (256 hidden units, persistent CD-1, batch 128) beside scikit-learn's
``BernoulliRBM``."""

from __future__ import annotations

from typing import Any

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.process import Measure


def settings(spec: Spec) -> tuple[str, ...]:
    """Return our recipe: the peer's constant rate, no validation."""
    return (
        f"model.hidden={spec['hidden']}",
        f"rule.lr={spec['lr']}",
        "rule.final=1.0",
        "rule.persistent=true",
        "rule.k=1",
        "stages.main.batch=128",
        "train.validate=false",
    )


def reconstruction_error(v: Any, *, weights: Any, visible_bias: Any, hidden_bias: Any) -> float:
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
    again = expit(expit(v @ w.T + hidden_bias) @ w + visible_bias)
    return float(np.mean((v - again) ** 2))


def ours(spec: Spec) -> Measure:
    """Train ``rbm`` and return its examples a second and reconstruction error on the test images."""
    from layerwise.bench.training import given, request, trained
    from layerwise.inference.predict import load

    wanted = request("rbm", spec, settings(spec))
    with trained(wanted) as done:
        weights = {name: p.detach().numpy() for name, p in load(done.outcome.directory.path).model.named_parameters()}
        error = reconstruction_error(
            given(wanted).test_inputs,
            weights=weights["weight"],
            visible_bias=weights["visible_bias"],
            hidden_bias=weights["hidden_bias"],
        )
        return Measure(done.examples_per_second, {"reconstruction error": error}, done.facts)


def sklearn_side(spec: Spec, dtype: str) -> Measure:
    """Fit the peer and return the same."""
    import time

    from sklearn.neural_network import BernoulliRBM

    from layerwise.bench.training import given, request

    data = given(request("rbm", spec, settings(spec)), dtype=dtype)
    made = {
        "n_components": spec["hidden"],
        "batch_size": 128,
        "learning_rate": spec["lr"],
        "random_state": spec["seed"],
    }
    BernoulliRBM(**made, n_iter=1).fit(data.inputs[:1280])  # warm-up
    peer = BernoulliRBM(**made, n_iter=spec["epochs"])
    began = time.perf_counter()
    peer.fit(data.inputs)
    seconds = time.perf_counter() - began
    error = reconstruction_error(
        data.test_inputs,
        weights=peer.components_,
        visible_bias=peer.intercept_visible_,
        hidden_bias=peer.intercept_hidden_,
    )
    return Measure(len(data.inputs) * spec["epochs"] / seconds, {"reconstruction error": error})


CASE = Case(
    name="rbm",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 5, "hidden": 256, "lr": 0.05},
    sides={
        "ours": ours,
        "sklearn-float32": lambda spec: sklearn_side(spec, "float32"),
        "sklearn-float64": lambda spec: sklearn_side(spec, "float64"),
    },
    rows=(
        Row("scikit-learn BernoulliRBM, float32 inputs", "sklearn-float32", Bound(2.5)),
        Row("scikit-learn BernoulliRBM, float64 inputs", "sklearn-float64", Bound(2.5)),
    ),
    quality=(Quality("reconstruction error", more_is_better=False),),
    least=5,
    note="both: persistent CD-1, constant rate, as many epochs, last weights; the error is mean-field, per pixel, "
    "on the test "
    "images, by one NumPy function. Ours shuffles each epoch and has logging, checkpoints and the "
    "free-energy gap in its time",
)
