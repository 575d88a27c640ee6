"""The views that train a network of their own: the range test and one batch; what they find, and that they leave runs
alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace as with_
from torch import Tensor, nn

from layerwise import api, registry
from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.inspection import inspect_target
from layerwise.inspection.base import Target
from layerwise.inspection.load_target import load_target
from layerwise.inspection.stage_trial import build_model_and_rule, create_trial
from layerwise.inspection.views import learning_rate, one_batch
from layerwise.tasks.base import Loss

QUICK = ("model.hidden=[16]", "batch_size=32", "rule.lr=0.02")


def tried(view: str, *settings: str, data: str = "iris"):  # type: ignore[no-untyped-def]
    return create_trial(load_target("mlp", needs="plan", view=view, data=data, settings=(*QUICK, *settings)), view)


def digest(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- the range test ------------------------------------------------------------------------------------------------


def test_suggestion_is_the_steepest_fall_and_divergence_the_return() -> None:
    """A loss whose shape is known: a logistic fall in log η, steepest at 10⁻³, then a wall from 10⁻¹ on."""
    rates = np.logspace(-6, 1, 300)
    x = np.log10(rates)
    losses = 2 / (1 + np.exp(4 * (x + 3))) + 0.1 + np.exp(8 * (x + 1))
    found = learning_rate.judge_range_test(rates, losses, False)
    assert found.suggested is not None
    assert np.log10(found.suggested) == pytest.approx(-3, abs=0.05)
    assert found.diverges is not None
    assert np.log10(found.diverges) == pytest.approx(-1 + np.log(2) / 8, abs=0.1)


def test_a_flat_loss_gives_no_suggestion() -> None:
    rates = np.logspace(-6, 1, 300)
    losses = 2 + 0.02 * np.sin(np.arange(300))
    assert learning_rate.judge_range_test(rates, losses, False)[3:] == (None, None, None)
    assert learning_rate.judge_range_test(rates[:200], losses[:200], True).diverges == rates[199]


def test_the_rates_that_the_rule_takes_rise_by_one_factor() -> None:
    """SGD on one parameter with gradient 1 everywhere moves by the rate itself: the rates are read off the weights."""
    found = tried("learning-rate", "rule.optimizer=sgd")
    stage = found.stage
    rates, losses, broken = learning_rate.run_range_test(found)
    assert len(rates) == len(losses) > 100
    assert not (broken and len(rates) == 300)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 1e7 ** (1 / 299))
    rise = {"lr": 1e-6, "schedule": "exponential", "final_lr_ratio": 1e7, "warmup": 0.0, "optimizer": "sgd"}
    model, rule = build_model_and_rule(found, with_(stage, rule={**stage.rule, **rise}), found.task)

    class Sum:
        def objective(self, net: nn.Module, batch: object):  # type: ignore[no-untyped-def]
            return Loss(sum(p.sum() for p in net.parameters()) * 32, 32.0, {})  # type: ignore[arg-type]

    object.__setattr__(rule.context, "task", Sum())  # type: ignore[attr-defined]
    weight = next(model.parameters())
    batch = one_batch.get_first_batch(found, found.task, 0)
    for step in (0, 100, 299):
        before = weight.detach().double().clone()
        rule.step(batch, step / 299)
        moved = float((before - weight.detach().double()).mean())
        assert moved == pytest.approx(1e-6 * 1e7 ** (step / 299), rel=0.02)


def test_range_test_finds_a_rate_at_which_the_network_learns(tmp_path: Path) -> None:
    view = inspect_target("learning-rate", "mlp", data="iris", settings=QUICK, out=tmp_path, lang="zh")
    assert 1e-5 < view.data["suggested"] < view.data["best"] < (view.data["diverges"] or 10)
    assert view.data["losses"][0] == pytest.approx(view.data["smooth"][0], rel=0.5)
    assert "下降最陡" in view.text
    assert [p.name for p in view.figures] == ["learning-rate.svg"]
    json.dumps(view.data)


def test_runs_are_left_alone(tmp_path: Path) -> None:
    run = api.train("mlp", data="iris", epochs=1, options={"model.hidden": [8]}, out=tmp_path / "run")
    before, state = digest(run.path), torch.get_rng_state()
    a, b = (inspect_target("learning-rate", str(run.path)) for _ in range(2))
    assert a.data == b.data
    assert inspect_target("one-batch", str(run.path)).data["model"] == "mlp"
    assert digest(run.path) == before
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UsageError, match="is a run, which has its own data"):
        inspect_target("summary", str(run.path), data="digits")


@pytest.mark.parametrize("view", ["learning-rate", "one-batch"])
def test_rules_without_a_loss_are_refused(view: str) -> None:
    with pytest.raises(UsageError, match="perceptron, which learns by perceptron"):
        inspect_target(view, "perceptron", data="iris")
    with pytest.raises(UsageError, match="--data SOURCE"):
        inspect_target(view, "mlp")


def test_a_recipe_file_is_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "mlp"\nhidden = [4]\n[data]\nsource = "iris"\n')
    layers = inspect_target("summary", str(path)).data["layers"]
    assert [la["output"][1] for la in layers if la["type"] == "Linear"] == [4, 3]


# -- one batch -----------------------------------------------------------------------------------------------------


def attempt(model: nn.Module | None = None, *settings: str, constant: bool = False) -> one_batch.BatchTrial:
    """Let a network learn a batch of iris; ``constant`` gives every example the same inputs."""
    found = tried("one-batch", *settings)
    stage, task = one_batch.remove_regularization(found)
    if model is not None:
        found = replace_builder(found, model)
    network, rule = build_model_and_rule(found, stage, task)
    batch = one_batch.get_first_batch(found, task, 0)
    if constant:
        batch = replace(batch, inputs=batch.inputs[:1].expand_as(batch.inputs).clone())
    return one_batch.train_on_batch(network, rule, task, batch, steps=300)


def replace_builder(found, model: nn.Module):  # type: ignore[no-untyped-def]
    """Return the bench with a network of the test's own."""
    spec = with_(found.plan.spec, name="sabotaged")
    registry._get_builders()[spec.name] = lambda **_: model
    return found._replace(plan=replace(found.plan, spec=spec))


class Detached(nn.Module):
    """Two layers, of which nothing of the first gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x) * 0 + 1).detach())  # type: ignore[no-any-return]


def test_a_sound_network_learns_its_batch() -> None:
    found = attempt()
    assert found.learned
    assert found.suspects == []
    assert found.losses[-1] <= 0.01 * found.constant < found.losses[0]


def test_a_detached_layer_is_found() -> None:
    torch.manual_seed(0)
    found = attempt(Detached())
    assert not found.learned
    assert found.unchanged == ["first.weight", "first.bias"]
    assert "no gradient reaches them: first.weight, first.bias" in found.suspects[0][0]
    assert "hardly depend on the inputs" in found.suspects[1][0]


def test_constant_inputs_are_found() -> None:
    found = attempt(constant=True)
    assert not found.learned
    assert "all inputs of the batch are the same" in found.suspects[0][0]
    assert found.losses[-1] == pytest.approx(found.constant, rel=0.02)


def test_a_rate_far_too_small_is_found() -> None:
    found = attempt(None, "rule.lr=1e-7")
    assert not found.learned
    assert found.unchanged == []
    assert "a rate far too small" in found.suspects[-1][0]


def test_the_constant_answer_is_the_entropy_of_the_classes() -> None:
    found = tried("one-batch")
    stage, task = one_batch.remove_regularization(found)
    network, _ = build_model_and_rule(found, stage, task)
    batch = one_batch.get_first_batch(found, task, 0)
    assert batch.targets is not None
    share = np.bincount(batch.targets.numpy()) / len(batch)
    assert one_batch.compute_constant_loss(network, task, batch) == pytest.approx(
        -(share * np.log(share)).sum(), rel=1e-6
    )
    regression = tried("one-batch", data="diabetes")
    network, _ = build_model_and_rule(regression, *one_batch.remove_regularization(regression))
    batch = one_batch.get_first_batch(regression, regression.task, 0)
    assert batch.targets is not None
    assert one_batch.compute_constant_loss(network, regression.task, batch) == pytest.approx(
        float(batch.targets.var(correction=0)), rel=1e-6
    )


def test_everything_that_hinders_learning_by_heart_is_off() -> None:
    hindered = (
        "model.dropout=0.9",
        "rule.l2=1.0",
        "rule.weight_decay=1.0",
        "task.label_smoothing=0.3",
        "task.class_weights.setosa=5",
    )
    found = attempt(None, *hindered)
    assert found.constant == pytest.approx(attempt().constant)
    view = inspect_target("one-batch", "mlp", data="iris", settings=(*QUICK, *hindered), lang="zh")
    assert view.data["learned"]
    assert "学会了" in view.text
    assert "不用 dropout" in view.text


def test_two_answers_to_the_same_inputs_are_counted() -> None:
    inputs = torch.tensor([[1.0], [2.0], [1.0], [1.0]])
    batch = Batch(inputs, torch.tensor([0, 1, 1, 0]), torch.arange(4))
    assert one_batch.count_conflicts(batch) == (1, False)


def test_target_without_plan_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a run"):
        create_trial(Target(spec=registry.find("mlp")), "one-batch")
