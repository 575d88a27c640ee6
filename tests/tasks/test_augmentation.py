"""Augmentation in training: a pure function of seed, stage, epoch and example, on both loading paths, exact on resume,
never elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerwise import api
from layerwise.data.batch import Batch
from layerwise.data.loader import Batches, BatchSampler, MemoryBatches, StreamedBatches, collate_source
from layerwise.data.source import ArraySource, Schema
from layerwise.errors import UsageError
from layerwise.functional.augmentation.transforms import AugmentOptions
from layerwise.inspection import inspect_target
from layerwise.planning.resolve import Request
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import Augmentation, AugmentedBatches, augment_batches
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs
from layerwise.training.run_training import train
from test_contract import cut_short, weights_of

OPTIONS = AugmentOptions(rotate=15, scale=0.1, crop_padding=1, brightness=0.2)
SOURCE = ArraySource(
    Schema("image", (6, 5, 3), "class", ("a", "b")),
    np.random.default_rng(0).integers(0, 256, (23, 6, 5, 3), dtype=np.uint8), np.arange(23) % 2, "p",
)  # fmt: skip
TASK = Classification.prepare(SOURCE, Classification.Options())
CPU = torch.device("cpu")
assert isinstance(TASK.inputs, ImageInputs)
CHANGE = Augmentation(TASK.inputs, OPTIONS, seed=4)


def index_by_id(batches: Batches, epoch: int, change: Augmentation = CHANGE, start: int = 0) -> dict[int, torch.Tensor]:
    """Return each example's image in an epoch."""
    return {
        int(i): x
        for b in AugmentedBatches(batches, change).iterate(epoch, start)
        for i, x in zip(b.ids, b.inputs, strict=True)
    }


def make_batches(order: BatchSampler) -> MemoryBatches:
    return MemoryBatches(collate_source(SOURCE, TASK.collate, 1), order)


def have_same_images(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[i], b[i]) for i in a)


def test_an_examples_change_depends_on_seed_stage_epoch_and_id_alone() -> None:
    full_run = index_by_id(make_batches(BatchSampler(23, 23, 0)), 2)
    assert have_same_images(index_by_id(make_batches(BatchSampler(23, 5, 9)), 2), full_run)
    streamed = StreamedBatches(SOURCE, TASK.collate, BatchSampler(23, 7, 1), CPU, torch.float32, workers=0)
    assert have_same_images(index_by_id(streamed, 2), full_run)
    ranks = [index_by_id(make_batches(BatchSampler(23, 6, 3, world=World(rank, 2, CPU))), 2) for rank in range(2)]
    assert not ranks[0].keys() & ranks[1].keys()
    assert have_same_images(ranks[0] | ranks[1], full_run)
    later = index_by_id(make_batches(BatchSampler(23, 5, 9)), 2, start=2)
    assert have_same_images(later, {i: full_run[i] for i in later})
    for other in (Augmentation(CHANGE.inputs, OPTIONS, 5), Augmentation(CHANGE.inputs, OPTIONS, 4, 1)):
        assert not any(
            torch.equal(full_run[i], x) for i, x in index_by_id(make_batches(BatchSampler(23, 5, 9)), 2, other).items()
        )
    assert not any(torch.equal(full_run[i], x) for i, x in index_by_id(make_batches(BatchSampler(23, 5, 9)), 3).items())


def test_torchs_random_state_and_the_data_stay_as_they_are() -> None:
    batches, before = make_batches(BatchSampler(23, 5, 9)), torch.get_rng_state()
    kept = batches.data.inputs.clone()
    index_by_id(batches, 0)
    assert torch.equal(batches.data.inputs, kept)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_change_changes_nothing_but_rounding() -> None:
    inputs = TASK.collate(SOURCE.fetch(range(23)))
    found = Augmentation(CHANGE.inputs, AugmentOptions(), 0)(inputs, 0)
    torch.testing.assert_close(found.inputs, inputs.inputs, rtol=0, atol=1e-5)
    batches = make_batches(BatchSampler(23, 5))
    assert augment_batches(batches, TASK.inputs, {}, seed=0, stage=0) is batches


def test_what_lies_outside_is_black_not_the_mean() -> None:
    white = Batch(TASK.inputs.tensor(np.full((4, 6, 5, 3), 255, dtype=np.uint8)), None, torch.arange(4))
    found = TASK.inputs.raw(Augmentation(CHANGE.inputs, AugmentOptions(crop_padding=4), 0)(white, 0).inputs)
    assert set(found.round(decimals=4).unique().tolist()) == {0.0, 1.0}


def test_layout_in_memory_and_type_are_kept() -> None:
    batch = TASK.collate(SOURCE.fetch(range(23))).to(CPU, torch.float64)
    last = Batch(batch.inputs.contiguous(memory_format=torch.channels_last), batch.targets, batch.ids)
    found, plain = CHANGE(last, 0), CHANGE(batch, 0)
    assert found.inputs.is_contiguous(memory_format=torch.channels_last)
    assert plain.inputs.is_contiguous()
    assert plain.inputs.dtype == torch.float64
    torch.testing.assert_close(found.inputs, plain.inputs)


KEYS: dict[str, Any] = {
    "augment": {"rotate": 10, "crop_padding": 1},
    "train.threads": 1,
    "train.log_every": 3,
    "train.checkpoint_seconds": 1e-9,
    "model.widths": [4],
    "model.dense": [8],
    "examples": 200,
}


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A small training with augmentation."""
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


def test_both_loading_paths_train_the_same_network(full_run: api.Run, tmp_path: Path) -> None:
    streamed = api.train(str(full_run.path / "recipe.toml"), out=tmp_path / "run", options={"train.workers": -1})
    old, new = weights_of(full_run), weights_of(streamed)
    assert all(torch.equal(old[n], new[n]) for n in old)


def test_augmentation_reaches_training_only(full_run: api.Run, tmp_path: Path) -> None:
    """Other weights than without, and the metrics of the whole test part as it is, computed apart."""
    plain = api.train(str(full_run.path / "recipe.toml"), out=tmp_path / "run", options={"augment": {}})
    assert not all(
        torch.equal(a, b) for a, b in zip(weights_of(full_run).values(), weights_of(plain).values(), strict=True)
    )
    answers = api.open(full_run.path).predictor()
    from layerwise.data.load import Options, load_splits
    from layerwise.recipe import check_table

    test = load_splits(check_table(Options, full_run.recipe.data, where="test"), seed=3).test
    said = answers(*[test[i].input for i in range(len(test))])
    right = np.mean([a.label == str(int(test[i].target or 0)) for i, a in enumerate(said)])  # type: ignore[attr-defined]
    assert full_run.metrics["test/accuracy"] == pytest.approx(right, abs=1e-12)
    assert full_run.recipe.stages[0].augment["padding"] == "zeros"  # spelled out


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        ("mlp", "iris", {"augment.rotate": 5}, "cannot augment rows"),
        ("lenet5", "digits", {"augment.hue": 0.1}, "three channels"),
        ("lenet5", "digits", {"augment.rotat": 5}, "did you mean 'rotate'"),
        ("lenet5", "digits", {"augment.rotate": 500}, "a wrong value in augment of stage 'main'"),
    ],
)
def test_what_cannot_be_augmented_is_refused(model: str, data: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        api.train(model, data=data, options=options)
    assert not Path("runs").exists()


def test_the_view_shows_the_draws_of_the_run(full_run: api.Run, tmp_path: Path) -> None:
    view = inspect_target("augmentations", str(full_run.path), out=tmp_path / "out", examples=3)
    json.dumps(view.data)
    assert [p.name for p in view.figures] == ["augmentations.svg"]
    assert (tmp_path / "out" / "augmentations.svg").read_text().count("<image") == 3 * 7
    first = view.data["examples"][0]["epochs"]
    assert first[0].keys() == {"epoch", "angle", "right", "down"}
    from layerwise.runtime import rng

    u = rng.draw_uniform(torch.tensor([0]), 10, rng.derive_seed(3, "augment", 0), 1)[0]
    assert first[1]["angle"] == pytest.approx(20 * float(u[0]) - 10, abs=1e-3)
    assert "旋转" in inspect_target("augmentations", str(full_run.path), lang="zh").text
    with pytest.raises(UsageError, match="did you mean 'train'"):
        inspect_target("augmentations", str(full_run.path), split="trian")


def test_the_view_says_how_to_get_a_run_with_augmentation(tmp_path: Path) -> None:
    run = api.train("perceptron", data="digits", epochs=1, out=tmp_path / "run", options={"examples": 50})
    with pytest.raises(UsageError, match="without augmentation") as error:
        inspect_target("augmentations", str(run.path))
    assert "--set augment.rotate=10" in str(error.value)


def test_kornia_is_loaded_where_it_is_used_only() -> None:
    code = (
        "import sys, layerwise.training.session, layerwise.inspection.views.augmentations; assert 'kornia' not "
        "in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
