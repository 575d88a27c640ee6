"""MixUp and CutMix in training: pairs of neighbors, the same for any cut among ranks, a loss in both shares, exact on
resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerwise import api
from layerwise.data.batch import Batch, Mix
from layerwise.data.loader import BatchSampler, MemoryBatches, StreamedBatches, collate_source
from layerwise.data.source import ArraySource, Schema
from layerwise.errors import UsageError
from layerwise.functional.augmentation.transforms import AugmentOptions
from layerwise.inspection import inspect_target
from layerwise.inspection.views.augmentations import find_mix_partners
from layerwise.planning.resolve import Request
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import Augmentation, AugmentedBatches, augment_batches, choose_collate
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs
from layerwise.tasks.regression import Regression
from layerwise.training.run_training import train
from test_contract import cut_short, weights_of

CPU = torch.device("cpu")
SOURCE = ArraySource(
    Schema("image", (6, 5, 3), "class", ("a", "b", "c")),
    np.random.default_rng(0).integers(0, 256, (23, 6, 5, 3), dtype=np.uint8), np.arange(23) % 3, "p",
)  # fmt: skip
TASK = Classification.prepare(SOURCE, Classification.Options())
TABLE: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "flip": "horizontal", "crop_scale": [0.3, 1.0]}


def make_batches(order: BatchSampler, table: dict[str, Any] = TABLE, *, streamed: bool = False) -> list[list[Batch]]:
    """Return the batches of two epochs."""
    collate = choose_collate(TASK, table)
    plain: MemoryBatches | StreamedBatches = MemoryBatches(collate_source(SOURCE, collate, 1), order)
    if streamed:
        plain = StreamedBatches(SOURCE, collate, order, CPU, torch.float32, workers=0)
    found = augment_batches(plain, TASK.inputs, table, seed=3, stage=0)
    return [list(found.iterate(epoch)) for epoch in range(2)]


def join_batches(found: list[list[Batch]]) -> list[Tensor]:
    """Return ids, images, shares and the others' classes of all batches."""
    every = [batch for epoch in found for batch in epoch]
    has_mixing = [b.mix for b in every if b.mix is not None]
    assert len(has_mixing) == len(every)
    others = [m.targets for m in has_mixing if m.targets is not None]
    return [
        torch.cat([b.ids for b in every]),
        torch.cat([b.inputs for b in every]),
        torch.cat([m.share for m in has_mixing]),
        torch.cat(others),
    ]


@pytest.mark.parametrize("batch", [7, 8, 23])
def test_any_number_of_ranks_mixes_alike(batch: int) -> None:
    full_run = make_batches(BatchSampler(23, batch, 5, paired=True))
    for size in (2, 3):
        ranks = [
            make_batches(BatchSampler(23, batch, 5, world=World(rank, size, CPU), paired=True)) for rank in range(size)
        ]
        for epoch in range(2):
            for number, one in enumerate(full_run[epoch]):
                parts = [[rank[epoch][number]] for rank in ranks if len(rank[epoch][number])]
                for a, b in zip(join_batches([[one]]), join_batches(parts), strict=True):
                    assert torch.equal(a, b)


def test_both_loading_paths_and_a_later_start_mix_alike() -> None:
    order = BatchSampler(23, 6, 5, paired=True)
    for a, b in zip(join_batches(make_batches(order)), join_batches(make_batches(order, streamed=True)), strict=True):
        assert torch.equal(a, b)
    collate = choose_collate(TASK, TABLE)
    found = augment_batches(
        MemoryBatches(collate_source(SOURCE, collate, 1), order), TASK.inputs, TABLE, seed=3, stage=0
    )
    for one, other in zip(list(found.iterate(1))[2:], found.iterate(1, 2), strict=True):
        assert torch.equal(one.inputs, other.inputs)


def test_partners_are_the_neighbors_and_shares_are_in_the_images() -> None:
    table = {"mixup": 0.6}
    one = make_batches(BatchSampler(23, 6, 5, paired=True), table)[1][0]
    own, order = TASK.collate(SOURCE.fetch(one.ids.numpy())), BatchSampler(23, 6, 5).indices(1)
    other = TASK.collate(SOURCE.fetch(order[[1, 0, 3, 2, 5, 4]].numpy()))
    assert one.mix is not None
    assert one.mix.targets is not None
    assert torch.equal(one.mix.targets, other.targets)
    assert torch.equal(one.targets, own.targets)
    share = one.mix.share.view(-1, 1, 1, 1)
    torch.testing.assert_close(one.inputs, share * own.inputs + (1 - share) * other.inputs, rtol=0, atol=1e-5)
    assert len(one.mix.share.unique()) == 6


def test_half_of_the_images_get_each_kind_and_some_none() -> None:
    assert isinstance(TASK.inputs, ImageInputs)
    change = Augmentation(TASK.inputs, AugmentOptions(mixup=1.0, cutmix=1.0, mix_prob=0.7), seed=1)
    empty = torch.empty(0)
    u = change.get_draws(Batch(empty, None, torch.arange(4000)), 0)
    share, cuts = change.compute_shares(u)
    assert float(cuts.double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((share == 1).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_neighbors_of_the_view_are_those_of_the_batches() -> None:
    order = BatchSampler(23, 6, 5, paired=True)
    for batch in make_batches(order, {"mixup": 0.6})[1]:
        want = [int(batch.ids[n ^ 1]) if n ^ 1 < len(batch) else int(batch.ids[n]) for n in range(len(batch))]
        assert find_mix_partners(order, batch.ids, 1).tolist() == want


class Fixed(nn.Module):
    """Gives the same outputs whatever comes in."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 3.0])])
def test_the_loss_is_the_convex_combination(weights: Tensor | None) -> None:
    """With class weights and smoothing, by hand."""
    options = Classification.Options(label_smoothing=0.1, class_weights={"a": 2.0, "c": 0.5})
    task = Classification.prepare(SOURCE, options)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, other, share = (
        torch.tensor([0, 1, 2, 0]),
        torch.tensor([1, 0, 0, 2]),
        torch.tensor([0.2, 0.5, 1.0, 0.7]).double(),
    )
    mix = Mix(share, other, None if weights is None else weights[[1, 0, 3, 2]])
    loss = task.objective(Fixed(z), Batch(torch.zeros(4, 3, 6, 5), y, torch.arange(4), weights, mix))
    want, covered, heavy = 0.0, 0.0, {0: 2.0, 1: 1.0, 2: 0.5}
    for n in range(4):
        p = np.exp(z[n].numpy()) / np.exp(z[n].numpy()).sum()
        for label, part, place in ((int(y[n]), float(share[n]), n), (int(other[n]), 1 - float(share[n]), n ^ 1)):
            q = np.full(3, 0.1 / 3)
            q[label] += 0.9
            counts = 1.0 if weights is None else float(weights[place])
            want += part * counts * heavy[label] * float(-(q * np.log(p)).sum())
            covered += part * counts
    assert float(loss.total.detach()) == pytest.approx(want, rel=1e-6)
    assert loss.weight == pytest.approx(covered)


def test_mixed_numbers_have_the_gradient_of_the_mixed_target() -> None:
    schema = Schema("image", (6, 5, 3), "number")
    source = ArraySource(schema, SOURCE.inputs, np.arange(23.0), "p")
    task = Regression.prepare(source, Regression.Options())
    outputs, y, other, share = (
        torch.randn(4, 1),
        torch.randn(4, 1),
        torch.randn(4, 1),
        torch.tensor([0.2, 0.5, 1.0, 0.7]),
    )
    batch = Batch(torch.zeros(4, 3, 6, 5), y, torch.arange(4), None, Mix(share, other, None))
    model, plain = Fixed(outputs), Fixed(outputs.clone())
    task.objective(model, batch).total.backward()
    mean = share[:, None] * y + (1 - share[:, None]) * other
    task.objective(plain, Batch(batch.inputs, mean, batch.ids)).total.backward()
    torch.testing.assert_close(model.outputs.grad, plain.outputs.grad)


def test_micro_batches_keep_their_mixes() -> None:
    batch = Batch(
        torch.zeros(4, 1), torch.arange(4), torch.arange(4), None, Mix(torch.arange(4.0), torch.arange(4) + 4, None)
    )
    for part in (batch.chunk(2)[1], batch.take(torch.tensor([2, 3]))):
        assert part.mix is not None
        assert part.mix.targets is not None
        assert part.mix.share.tolist() == [2, 3]
        assert part.mix.targets.tolist() == [6, 7]


KEYS: dict[str, Any] = {
    "augment": {"mixup": 0.2, "cutmix": 1.0, "crop_scale": [0.5, 1.0], "policy": "trivial", "erase_prob": 0.3},
    "train.threads": 1,
    "train.log_every": 3,
    "train.checkpoint_seconds": 1e-9,
    "model.widths": [4],
    "model.dense": [8],
    "examples": 200,
}


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A small training with everything."""
    return api.train(
        "cnn",
        data="digits",
        epochs=2,
        batch_size=16,
        seed=3,
        options=KEYS,
        out=tmp_path_factory.mktemp("whole") / "run",
    )


def test_resume_inside_an_epoch_is_exact(full_run: api.Run, tmp_path: Path) -> None:
    cut_short(full_run, tmp_path / "cut", stage=0, after=4)
    assert train(Request(model=str(tmp_path / "cut" / "recipe.toml"), resume=True), quiet=True).resumed
    old, new = weights_of(full_run), weights_of(api.Run(tmp_path / "cut"))
    assert all(torch.equal(old[n], new[n]) for n in old)


def test_the_view_shows_mixes(full_run: api.Run, tmp_path: Path) -> None:
    view = inspect_target("augmentations", str(full_run.path), out=tmp_path / "out", examples=3)
    first = view.data["examples"][0]["epochs"][0]
    assert first.keys() == {"epoch", "area", "operation", "erased", "with", "share"}
    assert 0 <= first["share"] <= 1
    assert "混入" in inspect_target("augmentations", str(full_run.path), lang="zh").text


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        ("lenet5", "digits", {"augment.crop_scale": [0.9, 0.1]}, "ends before it begins"),
        ("lenet5", "digits", {"augment.crop_scale": [0.0, 1.0]}, "a wrong value in augment"),
        ("lenet5", "digits", {"augment.policy": "trivail"}, "did you mean 'trivial'"),
        ("lenet5", "digits", {"augment.mixup": -1}, "a wrong value in augment"),
        ("perceptron", "digits", {"augment.mixup": 0.2}, "learns one class from each"),
    ],
)
def test_what_makes_no_sense_is_refused(model: str, data: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        api.train(model, data=data, options=options)


def test_what_is_validated_is_not_mixed() -> None:
    assert all(
        batch.mix is None
        for batch in MemoryBatches(collate_source(SOURCE, TASK.collate, 1), BatchSampler(23, 256)).iterate(0)
    )
    assert isinstance(
        augment_batches(
            MemoryBatches(collate_source(SOURCE, TASK.collate, 1), BatchSampler(23, 6, 1)),
            TASK.inputs,
            TABLE,
            seed=0,
            stage=0,
        ),
        AugmentedBatches,
    )
