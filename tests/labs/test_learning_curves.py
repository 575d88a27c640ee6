"""C26 and C27: the curves are those of the same examples, and the verdicts flip when parts are exchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.data.batch import Batch
from layerwise.labs import base, data_hunger, learned_features, learning_curves
from layerwise.labs.learning_curves import CurveConfig, Curves, Plan

PLACED = Plan((CurveConfig("digits", (30, 150), 12),), 2, 60, 0)


def make_crossing(few: float, many: float) -> tuple[CurveConfig, Curves]:
    """Curves of three seeds on which both rivals are ahead by ``few`` first, and the network by ``many`` at last."""
    noise = np.array([[0.0], [0.002], [-0.002]])
    plain = np.array([[0.8, 0.9]]) + noise
    return CurveConfig("digits", (100, 1259)), {
        "cnn": plain - [[few, -many]] + noise[::-1] / 2,
        "svm": plain,
        "linear": plain,
    }


@pytest.mark.parametrize(("few", "many", "held"), [(0.05, 0.03, True), (-0.05, 0.03, False), (0.05, -0.03, False)])
def test_hunger_follows_from_curves_that_cross(few: float, many: float, held: bool) -> None:
    findings = data_hunger.judge([make_crossing(few, many)])
    assert base.is_held(findings) is held
    assert np.mean(findings.margins) == pytest.approx(min(few, many), abs=0.003)
    assert [c.passed for c in findings.checks] == [few > 0, many > 0] * 2


def test_without_convolutions_the_part_that_holds_falls() -> None:
    """The sabotage: a linear model in every part. Nobody is ahead anywhere."""
    learners = {
        "cnn": learning_curves.fit_linear,
        "linear": learning_curves.fit_linear,
        "svm": learning_curves.fit_linear,
    }
    plan = Plan((CurveConfig("digits", (100, 200)),), 2, 0, 0)
    findings = data_hunger.measure("quick", learners=learners, plan=plan)
    assert set(findings.margins) == {0}
    assert not any(c.passed for c in findings.checks)


def test_features_that_are_not_learned_do_not_win() -> None:
    """The sabotage: the same network whose convolutions stay as they were drawn. (That learned ones win is told by the
    short form.)"""

    def frozen(data: learning_curves.SplitBatches, plan: Plan, seed: int) -> float:
        return learning_curves.train_cnn(data, plan, seed, learned=False)

    findings = learned_features.measure("quick", learners={**learned_features.LEARNERS, "cnn": frozen}, plan=PLACED)
    assert not base.is_held(findings)
    assert max(findings.margins) < 0


def test_pixels_in_hogs_part_are_no_rival() -> None:
    findings = learned_features.measure(
        "quick", learners=dict.fromkeys(learned_features.LEARNERS, learning_curves.fit_linear), plan=PLACED
    )
    assert set(findings.margins) == {0}
    assert not any(c.passed for c in findings.checks)


def test_images_are_placed_whole_and_everywhere() -> None:
    x = torch.rand(40, 1, 3, 2) + 1
    placed = learning_curves.place_randomly(Batch(x, torch.arange(40), torch.arange(40)), 5, 4, seed=1)
    background = float(x.min())
    positions = set()
    for image, original in zip(placed.inputs, x.repeat(4, 1, 1, 1), strict=True):
        corners = [(i, j) for i in range(3) for j in range(4) if torch.equal(image[:, i : i + 3, j : j + 2], original)]
        assert len(corners) == 1
        positions.add(corners[0])
        assert int((image == background).sum()) >= 25 - 6
    assert len(positions) == 3 * 4
    assert placed.targets is not None
    assert torch.equal(placed.targets, torch.arange(40).repeat(4))


def test_fewer_examples_are_part_of_more_and_tests_are_the_same() -> None:
    few, many = (learning_curves.load_examples(CurveConfig("digits", (n,)), n, seed=3) for n in (100, 300))
    assert set(few.train.ids.tolist()) < set(many.train.ids.tolist())
    assert torch.equal(few.test.ids, many.test.ids)
    placed = [learning_curves.load_examples(CurveConfig("digits", (n,), 12), n, seed=3) for n in (30, 2000)]
    assert [len(data.train) for data in placed] == [30, 2000]
    assert torch.equal(*(data.task.inputs.raw(data.test.inputs).round(decimals=4) for data in placed))


def test_validation_chooses() -> None:
    """The oracle: each strength by itself, scored on both parts."""
    from sklearn.linear_model import LogisticRegression

    data = learning_curves.load_examples(CurveConfig("digits", (60,)), 60, seed=0)
    (x, y), val, test = ((b.inputs.flatten(1).numpy(), b.targets.numpy()) for b in (data.train, data.val, data.test))
    models = [LogisticRegression(C=c, max_iter=100).fit(x, y) for c in learning_curves.STRENGTHS]
    best = max(models, key=lambda m: m.score(*val))
    assert learning_curves.fit_linear(data, PLACED, 0) == best.score(*test)
