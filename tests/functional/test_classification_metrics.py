"""Measures of classifiers from counts, beside scikit-learn's."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from layerwise.functional.classification_metrics import (
    expected_calibration_error,
    precision_recall_f1,
    roc_auc,
    roc_auc_from_counts,
)


@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_by_class_equals_scikit_learn(classes: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, said = rng.integers(0, classes, count), rng.integers(0, classes, count)
    confusion = torch.from_numpy(metrics.confusion_matrix(true, said, labels=range(classes)))
    want = metrics.precision_recall_fscore_support(true, said, labels=range(classes), zero_division=0)
    for got, expected in zip(precision_recall_f1(confusion), want, strict=False):
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=50))
@settings(max_examples=60, deadline=None)
def test_the_roc_area_counts_pairs(values: list[tuple[int, bool]]) -> None:
    """Pairs counted one by one, ties as half; and scikit-learn's trapezoids."""
    scores, kinds = (np.array(column) for column in zip(*values, strict=True))
    got = roc_auc(torch.from_numpy(scores).float(), torch.from_numpy(kinds))
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[kinds] for b in scores[~kinds]]
    if not pairs:
        assert np.isnan(got)
        return
    np.testing.assert_allclose(got, np.mean(pairs), atol=1e-12)
    np.testing.assert_allclose(got, metrics.roc_auc_score(kinds, scores), atol=1e-12)
    by_bin = [torch.from_numpy(np.bincount(scores[chosen], minlength=7)) for chosen in (kinds, ~kinds)]
    np.testing.assert_allclose(roc_auc_from_counts(*by_bin), got, atol=1e-12)


def test_calibration_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 500)
    right = rng.random(500) < confidence**2
    places = np.clip(np.ceil(confidence * 10).astype(int) - 1, 0, 9)  # bins (a, b]
    sums = [np.bincount(places, weights, minlength=10) for weights in (None, confidence, right)]
    got = expected_calibration_error(*map(torch.from_numpy, sums))
    accuracy, said = calibration_curve(right, confidence, n_bins=10)
    counts = sums[0][sums[0] > 0]
    np.testing.assert_allclose(got, (counts / 500 * np.abs(accuracy - said)).sum(), atol=1e-12)
    assert expected_calibration_error(torch.zeros(2), torch.zeros(2), torch.zeros(2)) == 0
