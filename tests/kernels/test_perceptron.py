"""Rosenblatt's compiled loop against a plain Python loop and against other ways to split it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from layerwise.errors import UsageError
from layerwise.kernels import perceptron


def problem(N: int, D: int, K: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Examples and labels in small integers, so that every sum is exact in float32 in any order."""
    draw = np.random.default_rng(seed)
    X = draw.integers(-4, 5, (N, D)).astype(np.float32)
    return X, np.where(draw.random((N, K)) < 0.4, 1, -1).astype(np.float32)


def by_hand(X: np.ndarray, Y: np.ndarray, eta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E09 as it is written, in float64."""
    W, b, mistakes = (
        np.zeros((Y.shape[1], X.shape[1])),
        np.zeros(Y.shape[1]),
        np.zeros(Y.shape[1], dtype=np.int64),
    )
    for x, labels in zip(X.astype(np.float64), Y, strict=True):
        for k, y in enumerate(labels):
            z = sum(w * value for w, value in zip(W[k], x, strict=True)) + b[k]
            if y * z <= 0:
                W[k] += eta * y * x
                b[k] += eta * y
                mistakes[k] += 1
    return W, b, mistakes


def zeros(K: int, D: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((K, D), dtype=np.float32), np.zeros(K, dtype=np.float32)


@pytest.mark.parametrize(("N", "D", "K"), [(60, 1, 1), (60, 7, 3), (50, 33, 5), (40, 18, 12), (0, 4, 2), (5, 0, 2)])
@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_it_is_the_rule(N: int, D: int, K: int, kind: type) -> None:
    X, Y = problem(N, D, K)
    W, b = zeros(K, D)
    mistakes = perceptron.update(X, Y.astype(kind), W, b, eta=0.5)
    want = by_hand(X, Y, 0.5)
    for got, wanted in zip((W, b, mistakes), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_batches_continue_each_other_and_counts_add_up() -> None:
    X, Y = problem(90, 11, 6)
    W, b = zeros(6, 11)
    mistakes = np.zeros(6, dtype=np.int64)
    for start in range(0, 90, 20):
        perceptron.update(X[start : start + 20], Y[start : start + 20], W, b, mistakes=mistakes)
    want = by_hand(X, Y, 1.0)
    for got, wanted in zip((W, b, mistakes), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_same_bits_for_any_number_of_threads() -> None:
    draw = np.random.default_rng(2)
    X = draw.standard_normal((4600, 1200)).astype(np.float32)  # times 13 classes: worth splitting
    Y = np.where(draw.random((4600, 13)) < 0.3, 1, -1).astype(np.int8)
    assert X.size * 13 >= perceptron.WORTH_SPLITTING
    found = []
    with ThreadPoolExecutor(2) as pool:
        for threads, hands in ((1, None), (2, pool), (3, pool), (8, None)):
            W, b = zeros(13, 1200)
            found.append((W, b, perceptron.update(X, Y, W, b, eta=0.1, pool=hands, threads=threads)))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_plane_that_separates_is_found() -> None:
    draw = np.random.default_rng(4)
    X = draw.standard_normal((300, 5)).astype(np.float32)
    z = X @ np.array([1, -2, 0.5, 1, 0], dtype=np.float32) - 0.2
    X, y = np.ascontiguousarray(X[abs(z) > 0.2]), np.sign(z[abs(z) > 0.2])[:, None].astype(np.float32)
    W, b = zeros(1, 5)
    for _ in range(500):
        if perceptron.update(X, y, W, b)[0] == 0:
            break
    assert (np.sign(X.astype(np.float64) @ W[0] + b[0]) == y[:, 0]).all()


def test_a_value_that_is_not_a_number_is_a_mistake() -> None:
    W, b = zeros(1, 2)
    X = np.array([[np.nan, 1.0]], dtype=np.float32)
    assert perceptron.update(X, np.ones((1, 1), dtype=np.float32), W, b).tolist() == [1]
    assert np.isnan(W[0, 0])


@pytest.mark.parametrize("broken", ["X", "Y", "W", "b", "mistakes"])
def test_arrays_it_would_misread_are_refused_by_name(broken: str) -> None:
    X, Y = problem(6, 4, 3)
    W, b = zeros(3, 4)
    arrays = {"X": X, "Y": Y, "W": W, "b": b}
    counts = np.zeros(3, dtype=np.int64)
    if broken == "mistakes":
        counts = np.zeros(2, dtype=np.int64)
    elif broken == "b":
        arrays["b"] = b[:2]
    else:
        arrays[broken] = np.asfortranarray(arrays[broken])
    with pytest.raises(UsageError, match=f"kernel cannot take {broken}\n"):
        perceptron.update(arrays["X"], arrays["Y"], arrays["W"], arrays["b"], mistakes=counts)


def test_nowhere_to_cache_still_works(tmp_path: Path) -> None:
    """Package and home refuse: a file stands where numba would make a directory, so even root is refused."""
    package = tmp_path / "layerwise"
    shutil.copytree(Path(perceptron.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "kernels" / "__pycache__").touch()
    (tmp_path / "home").touch()
    code = (
        "import numpy as np; from layerwise.kernels import perceptron as p; W = np.zeros((1, 2), 'f4')\n"
        "p.update(np.ones((1, 2), 'f4'), np.ones((1, 1), 'f4'), W, np.zeros(1, 'f4'))\n"
        "print(p.__file__, W.tolist())"
    )
    home = str(tmp_path / "home")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": home, "XDG_CACHE_HOME": home}
    done = subprocess.run([sys.executable, "-B", "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "[[1.0, 1.0]]" in done.stdout
