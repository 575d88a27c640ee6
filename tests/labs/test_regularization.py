"""C10 and C11: what is measured is right, and the verdicts flip when a mechanism is taken away."""

from __future__ import annotations

import pytest
import torch

from layerwise.functional.augmentation.transforms import AugmentOptions
from layerwise.labs import base, l1_l2, overfitting
from layerwise.labs.regularization import TRAIN, WRONG, Treatment, Trial, noisy_digits, run_trial

NONE = Treatment()
QUICK = overfitting.Plan(3, 12, False)


@pytest.mark.parametrize("name", overfitting.CLAIMED)
def test_a_treatment_that_does_nothing_leaves_the_gap(name: str) -> None:
    findings = overfitting.measure("quick", treatments={**overfitting.TREATMENTS, name: NONE}, plan=QUICK)
    assert not base.is_held(findings)
    assert max(findings.margins) <= 0


def test_augmentation_that_makes_other_digits_raises_the_test_loss() -> None:
    """Images upside down by chance and turned anyhow: a 6 is a 9."""
    harm = Treatment(augment=AugmentOptions(rotate=180, flip="both", crop_padding=4, brightness=1.0))
    findings = overfitting.measure("quick", treatments={**overfitting.TREATMENTS, "augmentation": harm}, plan=QUICK)
    assert not findings.checks[1].passed
    assert not base.is_held(findings)


@pytest.mark.parametrize(
    "parts",
    [
        {l1_l2.L1: NONE},
        {l1_l2.L1: l1_l2.TREATMENTS[l1_l2.L2]},
        {l1_l2.L1: l1_l2.TREATMENTS[l1_l2.SLOPE]},
        {l1_l2.L2: NONE},
        {l1_l2.L2: l1_l2.TREATMENTS[l1_l2.L1]},
    ],
    ids=["no L1", "L2 for L1", "no proximal step", "no L2", "L1 for L2"],
)
def test_exchanged_penalties_do_not_hold(parts: dict[str, Treatment]) -> None:
    assert not base.is_held(l1_l2.measure("quick", treatments={**l1_l2.TREATMENTS, **parts}, plan=l1_l2.Plan(3, 12)))


def make_trial(*weights: list[float]) -> Trial:
    return Trial(0.5, 0.75, 0.9, 1, (), tuple(torch.tensor([w]) for w in weights))


def test_weights_are_counted_as_they_say() -> None:
    one = make_trial([0.0, 3.0, -0.02], [4.0, 0.05])
    assert l1_l2.compute_zero_share(one) == pytest.approx(1 / 5)
    assert l1_l2.compute_negligible_share(one) == pytest.approx(2 / 5)
    assert l1_l2.find_largest(one) == 4
    assert l1_l2.compute_rms(one) == pytest.approx(((9 + 0.0004 + 16 + 0.0025) / 5) ** 0.5)
    assert one.gap == pytest.approx(0.25)


def test_parts_are_apart_and_one_label_in_ten_is_drawn_anew() -> None:
    parts = noisy_digits(0)
    sizes = [len(part) for part in (parts.train, parts.val, parts.test)]
    assert sizes == [TRAIN, 300, 1797 - TRAIN - 300]
    ids = torch.cat([part.ids for part in (parts.train, parts.val, parts.test)])
    assert len(ids.unique()) == 1797
    from layerwise.data import sklearn_datasets

    true = torch.from_numpy(sklearn_datasets.load("digits").targets.astype("int64"))[ids]
    labels = torch.cat([p.targets for p in (parts.train, parts.val, parts.test) if p.targets is not None])
    assert float((true != labels).double().mean()) == pytest.approx(
        0.9 * WRONG, abs=0.02
    )  # one in ten draws the same class again


def test_early_stopping_ends_with_the_best_weights_of_the_validation_part() -> None:
    """The oracle: a training of just so many epochs as the best one has, with the same start and order."""
    parts = noisy_digits(1)
    stopped = run_trial(parts, 1, Treatment(patience=3), epochs=30)
    assert 0 < stopped.epoch < 25
    again = run_trial(parts, 1, NONE, epochs=stopped.epoch)
    assert all(torch.equal(a, b) for a, b in zip(stopped.weights, again.weights, strict=True))
    assert stopped.test == again.test
