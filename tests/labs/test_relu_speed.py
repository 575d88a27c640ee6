"""C28: sigmoid is slower, tanh is not where each has its best step size; the verdict follows the activations."""

from __future__ import annotations

import pytest

from layerwise.labs import base
from layerwise.labs import relu_speed as lab
from layerwise.labs.training import compute_metrics, load_batches, train_steps
from layerwise.models.feedforward import mlp
from layerwise.rules.backprop import BackpropOptions
from layerwise.runtime import rng

SMALL = lab.Plan("digits", 3, (0.3,), 0.4, 120, 5)


def test_against_sigmoid_alone_the_claim_holds() -> None:
    """The part of the claim that holds: with sigmoid in both rivals' parts the verdict is the other one."""
    findings = lab.measure("quick", activations={"relu": "relu", "tanh": "sigmoid", "sigmoid": "sigmoid"}, plan=SMALL)
    assert base.is_held(findings)


def test_with_sigmoid_in_relus_part_it_does_not_hold() -> None:
    findings = lab.measure("quick", activations={"relu": "sigmoid", "tanh": "tanh", "sigmoid": "sigmoid"}, plan=SMALL)
    assert not base.is_held(findings)
    assert max(findings.margins) < 0
    assert not findings.checks[-1].passed


def test_the_same_activation_in_all_parts_is_as_fast() -> None:
    findings = lab.measure("quick", activations=dict.fromkeys(lab.ACTIVATIONS, "relu"), plan=SMALL)
    assert findings.margins == (0, 0, 0)
    assert not base.is_held(findings)


def test_a_race_counts_the_steps_to_the_target() -> None:
    """The oracle: the same training without stopping, its loss looked at after every step."""
    data = load_batches("digits", seed=1)
    race = lab.run_race("relu", 0.3, data, plan=lab.Plan("digits", 1, (0.3,), 0.5, 100, 1), seed=1)
    with rng.use_seed(rng.derive_seed("relu-speed", 1)):
        net = mlp(features=64, outputs=10, hidden=lab.HIDDEN)
    losses = [compute_metrics(net, data.task, data.train)["loss"]]
    for _ in train_steps(
        net,
        data.task,
        data.train,
        options=BackpropOptions(optimizer="sgd", lr=0.3),
        epochs=1,
        batch_size=lab.BATCH,
        seed=1,
    ):
        losses.append(compute_metrics(net, data.task, data.train)["loss"])
    first = next(i for i, loss in enumerate(losses) if loss <= 0.5)
    assert (race.steps, race.reached) == (first, True)
    assert race.losses == pytest.approx(losses[: first + 1])


def test_a_race_that_is_not_won_counts_as_the_limit() -> None:
    race = lab.run_race(
        "sigmoid", 0.01, load_batches("digits", seed=0), plan=lab.Plan("digits", 1, (0.01,), 0.1, 20, 5), seed=0
    )
    assert (race.steps, race.reached) == (20, False)
    wrecked = lab.run_race(
        "relu", 1e4, load_batches("digits", seed=0), plan=lab.Plan("digits", 1, (1e4,), 0.1, 20, 5), seed=0
    )
    assert (wrecked.steps, wrecked.reached) == (20, False)
