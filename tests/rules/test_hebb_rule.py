"""The rule ``hebb`` (E10): a step by hand, the principal components of real digits by NumPy, and recall by counting
trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rule_fixtures import context
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn

from layerwise import api
from layerwise.data.batch import Batch
from layerwise.data.load import Options, load_splits
from layerwise.data.splits import draw_subset
from layerwise.data.values import call
from layerwise.errors import TrainingError, UsageError
from layerwise.nn.hebbian import Hopfield, LinearUnits, to_unit_rows
from layerwise.rules.hebb import HebbOptions, build_hebb
from layerwise.tasks.base import Loss

FLIPPED = 0.2


class Rebuilt:
    """The least the rule needs of a task: the squared error of the reconstruction, summed."""

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        total = (call(model, batch.inputs) - batch.inputs).square().sum()
        return Loss(total, float(len(batch)), {"squared error": total})


def batch(inputs: NDArray[np.float64]) -> Batch:
    return Batch(torch.from_numpy(inputs), None, torch.arange(len(inputs)))


def units(count: int = 2, *, directions: bool = False) -> LinearUnits:
    torch.manual_seed(0)
    return LinearUnits(4, count, directions=directions).double()


@pytest.mark.parametrize("variant", ["hebb", "oja"])
def test_two_steps_by_hand(variant: str) -> None:
    """Example by example in NumPy: the running mean, y = W(x − m), the change over the batch, η falling by half a
    cosine."""
    model, rng = units(1), np.random.default_rng(0)
    options = HebbOptions(variant=variant, lr=0.3, schedule="cosine", final_lr_ratio=0.1)  # type: ignore[arg-type]
    rule = build_hebb(context(model, batch_size=5, task=Rebuilt()), options)
    w, seen = model.weight.detach().numpy()[0].copy(), []
    for number, x in enumerate(rng.normal(1, 1, (2, 5, 4))):
        step = rule.step(batch(x), number / 2)
        seen += list(x)
        mean = np.mean(seen, 0)
        assert float(step.total) == pytest.approx(sum(np.sum((w @ (p - mean) * w + mean - p) ** 2) for p in x))
        change = np.zeros(4)
        for p in x:
            y = w @ (p - mean)
            change += y * (p - mean) if variant == "hebb" else y * ((p - mean) - y * w)
        w = w + 0.3 * (0.1 + 0.9 * (1 + np.cos(np.pi * number / 2)) / 2) * change / 5
        assert np.allclose(model.weight.detach().numpy()[0], w)
        assert np.allclose(model.mean.detach().numpy(), mean)
    rule.end_epoch()
    rule.step(batch(rng.normal(9, 1, (5, 4))), 0.9)
    assert np.allclose(model.mean.detach().numpy(), mean)  # held after the first epoch


def test_parameters_that_are_not_trained_stay() -> None:
    model = units()
    before = model.weight.detach().clone()
    held = context(model, batch_size=5, task=Rebuilt())
    del held.parameters["weight"]
    build_hebb(held, HebbOptions(variant="oja")).step(batch(np.ones((5, 4))), 0.0)
    assert torch.equal(model.weight, before)
    assert torch.equal(model.mean, torch.ones(4, dtype=torch.float64))


def test_growth_without_bound_ends_in_an_error_that_says_so() -> None:
    model = units(directions=True).float()
    rule = build_hebb(context(model, batch_size=8, task=Rebuilt()), HebbOptions(lr=1e30))
    x = torch.randn(8, 4)
    rule.step(Batch(x, None, torch.arange(8)), 0.0)
    with pytest.raises(TrainingError, match="they grow without bound") as caught:
        rule.step(Batch(x, None, torch.arange(8)), 0.0)
    assert "take rule.variant=oja" in str(caught.value)
    assert bool(torch.isfinite(model.weight).all())
    assert bool(torch.isfinite(model(x)).all())  # of weights of 1e30 the direction is still told


def test_unit_rows_survive_huge_and_zero_weights() -> None:
    rows = to_unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0], [-3e-30, 4e-30]]))
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-0.6, 0.8]]))


@pytest.mark.parametrize(
    ("model", "variant", "says"),
    [
        (LinearUnits(4, 1), "projection", "expected: hopfield"),
        (Hopfield(4, 0.5), "oja", "expected: hebbian or oja"),
        (nn.Linear(4, 2), "hebb", "received: Linear"),
    ],
)
def test_a_variant_for_another_network_is_refused(model: nn.Module, variant: str, says: str) -> None:
    with pytest.raises(UsageError, match="cannot train this network") as caught:
        build_hebb(context(model, batch_size=4), HebbOptions(variant=variant))  # type: ignore[arg-type]
    assert says in " ".join(str(caught.value).split())


def test_the_projection_has_no_step_size() -> None:
    with pytest.raises(UsageError, match="no step size"):
        build_hebb(context(Hopfield(4, 0.5), batch_size=4), HebbOptions(variant="projection", lr=0.1))


# -- real digits, by the real command ----------------------------------------------------------------------------------


def training_pixels(run: api.Run) -> NDArray[np.float64]:
    """Return what a run on the digits was trained on, read without the package's preprocessing: (N, 64) in [0, 1]."""
    seed = run.recipe.train.seed
    part = draw_subset(load_splits(Options("digits"), seed=seed).train, run.recipe.stages[0].examples, seed)
    return np.stack([part[i].input for i in range(len(part))]).reshape(len(part), -1) / 255


def test_ojas_weight_is_the_first_principal_component(tmp_path: Path) -> None:
    """S02's figure, on the weights that the run keeps."""
    run = api.train("oja", data="digits", out=tmp_path / "oja")
    assert run.info["epochs"] == run.recipe.stages[0].epochs  # the last weights, not those that validation liked best
    x = training_pixels(run)
    weight = run.model().weight.detach().double().numpy()[0]
    first = PCA(2).fit(x).components_[0]
    assert abs(weight @ first) / np.linalg.norm(weight) >= 0.999
    assert np.linalg.norm(weight) == pytest.approx(1, abs=1e-3)
    assert np.abs(run.model().mean.detach().numpy() - x.mean(0)).max() < 1e-5


def test_the_last_weights_are_not_waited_for() -> None:
    with pytest.raises(UsageError, match="patience waits for nothing"):
        api.train("oja", data="digits", options={"patience": 3})


def trials(net: nn.Module, stored: NDArray[np.bool_], *, seed: int, repeats: int) -> float:
    """Return the share of exact recalls of stored patterns (N, 64) with 13 of the 64 pixels flipped."""
    rng = np.random.default_rng(seed)
    wanted = np.repeat(stored, repeats, 0)
    corrupted = wanted.copy()
    for pattern in corrupted:
        pattern[rng.choice(64, round(FLIPPED * 64), replace=False)] ^= True
    recalled = net(torch.from_numpy(corrupted).float().view(-1, 1, 8, 8))
    return float((recalled.numpy() == wanted).all(1).mean())


FIGURES = [("hebb", 2, 0.95), ("projection", 10, 0.75)]


@pytest.mark.parametrize(("variant", "count", "least"), FIGURES)
def test_a_fifth_of_the_pixels_flipped_is_recalled_exactly(
    variant: str, count: int, least: float, tmp_path: Path
) -> None:
    """S02's figures, by the real command."""
    run = api.train(
        "hopfield", data="digits", out=tmp_path / "run", options={"rule.variant": variant, "examples": count}
    )
    stored = training_pixels(run) >= 0.5
    assert len(stored) == count
    assert trials(run.model(), stored, seed=0, repeats=400 // count) >= least


@pytest.mark.parametrize(("variant", "count", "least"), FIGURES)
def test_other_digits_are_recalled_as_well(variant: str, count: int, least: float) -> None:
    """The same over twenty drawings of the digits to be stored, one of a class."""
    pixels, labels = load_digits(return_X_y=True)
    recalls = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stored = np.stack([pixels[rng.choice(np.flatnonzero(labels == c))] for c in rng.permutation(10)[:count]]) >= 8
        net = Hopfield(64, 0.5)
        rule = build_hebb(context(net, batch_size=count, task=Rebuilt()), HebbOptions(variant=variant))  # type: ignore[arg-type]
        rule.step(Batch(torch.from_numpy(stored).float(), None, torch.arange(count)), 0.0)
        assert rule.end_epoch().finished
        recalls.append(trials(net, stored, seed=seed, repeats=20))
    assert np.mean(recalls) >= least


def test_several_units_become_the_first_components_in_their_order() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)) * [3, 2, 1, 0.3] @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 5
    model = units(3)
    rule = build_hebb(context(model, batch_size=400, task=Rebuilt()), HebbOptions(variant="oja", lr=0.05))
    for _ in range(400):
        rule.step(batch(x), 0.0)
        rule.end_epoch()
    assert np.abs(np.abs(model.weight.detach().numpy() @ PCA(3).fit(x).components_.T) - np.eye(3)).max() < 1e-6
