"""C26 and C27: the curves are those of the same examples, and the verdicts flip when parts are exchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.data.loader import Batch
from layerwise.labs import base, curves, data_hunger, learned_features
from layerwise.labs.curves import Course, Curves, Plan

PLACED = Plan((Course("digits", (30, 150), 12),), 2, 60, 0)


def crossing(few: float, many: float) -> tuple[Course, Curves]:
    """Curves of three seeds on which both rivals are ahead by ``few`` first, and the network by ``many`` at last."""
    noise = np.array([[0.0], [0.002], [-0.002]])
    plain = np.array([[0.8, 0.9]]) + noise
    return Course("digits", (100, 1259)), {
        "cnn": plain - [[few, -many]] + noise[::-1] / 2,
        "svm": plain,
        "linear": plain,
    }


@pytest.mark.parametrize(("few", "many", "held"), [(0.05, 0.03, True), (-0.05, 0.03, False), (0.05, -0.03, False)])
def test_hunger_is_told_from_curves_that_cross(few: float, many: float, held: bool) -> None:
    found = data_hunger.judged([crossing(few, many)])
    assert base.verdict(found) is held
    assert np.mean(found.margins) == pytest.approx(min(few, many), abs=0.003)
    assert [c.passed for c in found.checks] == [few > 0, many > 0] * 2


def test_without_convolutions_the_part_that_holds_falls() -> None:
    """The sabotage: a linear model in every part. Nobody is ahead anywhere."""
    learners = {"cnn": curves.linear, "linear": curves.linear, "svm": curves.linear}
    plan = Plan((Course("digits", (100, 200)),), 2, 0, 0)
    found = data_hunger.measure("quick", learners=learners, plan=plan)
    assert set(found.margins) == {0}
    assert not any(c.passed for c in found.checks)


def test_features_that_are_not_learned_do_not_win() -> None:
    """The sabotage: the same network whose convolutions stay as they were drawn. (That learned ones win is told by the
    short form.)"""

    def frozen(data: curves.Parts, plan: Plan, seed: int) -> float:
        return curves.network(data, plan, seed, learned=False)

    found = learned_features.measure("quick", learners={**learned_features.LEARNERS, "cnn": frozen}, plan=PLACED)
    assert not base.verdict(found)
    assert max(found.margins) < 0


def test_pixels_in_hogs_part_are_no_rival() -> None:
    found = learned_features.measure(
        "quick", learners=dict.fromkeys(learned_features.LEARNERS, curves.linear), plan=PLACED
    )
    assert set(found.margins) == {0}
    assert not any(c.passed for c in found.checks)


def test_images_are_placed_whole_and_everywhere() -> None:
    x = torch.rand(40, 1, 3, 2) + 1
    laid = curves.placed(Batch(x, torch.arange(40), torch.arange(40)), 5, 4, seed=1)
    background = float(x.min())
    places = set()
    for image, original in zip(laid.inputs, x.repeat(4, 1, 1, 1), strict=True):
        spots = [(i, j) for i in range(3) for j in range(4) if torch.equal(image[:, i : i + 3, j : j + 2], original)]
        assert len(spots) == 1
        places.add(spots[0])
        assert int((image == background).sum()) >= 25 - 6
    assert len(places) == 3 * 4
    assert laid.targets is not None
    assert torch.equal(laid.targets, torch.arange(40).repeat(4))


def test_fewer_examples_are_part_of_more_and_tests_are_the_same() -> None:
    few, many = (curves.examples(Course("digits", (n,)), n, seed=3) for n in (100, 300))
    assert set(few.train.ids.tolist()) < set(many.train.ids.tolist())
    assert torch.equal(few.test.ids, many.test.ids)
    placed = [curves.examples(Course("digits", (n,), 12), n, seed=3) for n in (30, 2000)]
    assert [len(data.train) for data in placed] == [30, 2000]
    assert torch.equal(*(data.task.inputs.raw(data.test.inputs).round(decimals=4) for data in placed))


def test_validation_chooses() -> None:
    """The oracle: each strength by itself, scored on both parts."""
    from sklearn.linear_model import LogisticRegression

    data = curves.examples(Course("digits", (60,)), 60, seed=0)
    (x, y), val, test = ((b.inputs.flatten(1).numpy(), b.targets.numpy()) for b in (data.train, data.val, data.test))
    models = [LogisticRegression(C=c, max_iter=100).fit(x, y) for c in curves.STRENGTHS]
    best = max(models, key=lambda m: m.score(*val))
    assert curves.linear(data, PLACED, 0) == best.score(*test)
