"""Batches gathered from memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.data import sklearn_datasets
from layerwise.data.batch import Batch
from layerwise.data.loader import CHUNK, collate_source
from layerwise.data.source import Examples
from layerwise.data.values import gather_rows


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_layout(channels: int) -> None:
    images = torch.rand(7, 5, 4, channels).permute(0, 3, 1, 2)  # channels last in memory
    index = torch.tensor([6, 0, 0, 3])
    gathered = gather_rows(images, index)
    assert torch.equal(gathered, torch.stack([images[int(i)] for i in index]))
    assert gathered.stride() == images[:4].stride()


def test_other_tensors_are_gathered_as_they_are() -> None:
    for tensor in (torch.rand(5, 3), torch.rand(5, 2, 4, 6), torch.arange(5)):
        gathered = gather_rows(tensor, torch.tensor([4, 4, 1]))
        assert gathered.is_contiguous()
        assert torch.equal(gathered, torch.stack([tensor[4], tensor[4], tensor[1]]))


def collate_images(examples: Examples) -> Batch:
    """Turn images into tensors whose channels lie last in memory, with weights that tell the examples apart."""
    inputs = torch.from_numpy(np.asarray(examples.inputs)).permute(0, 3, 1, 2).float()
    return Batch(
        inputs,
        torch.from_numpy(np.asarray(examples.targets)),
        torch.from_numpy(examples.ids),
        torch.tensor(examples.ids) / 7,
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_collated_by_chunks_is_the_whole(threads: int) -> None:
    digits = sklearn_datasets.load("digits")
    assert len(digits) > CHUNK
    batch = collate_source(digits, collate_images, threads)
    inputs, targets, _, _ = zip(*(digits[i] + (0, 0) for i in range(len(digits))), strict=True)
    assert torch.equal(batch.inputs, torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).float())
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets is not None
    assert batch.targets.tolist() == list(targets)
    assert batch.weights is not None
    assert torch.equal(batch.weights, batch.ids / 7)
    assert batch.ids.tolist() == list(range(len(digits)))


@pytest.mark.parametrize("bad", [0, CHUNK + 3])
def test_an_example_that_cannot_be_collated_is_told(bad: int) -> None:
    def refusing(examples: Examples) -> Batch:
        if bad in examples.ids:
            raise ValueError("torn")
        return collate_images(examples)

    with pytest.raises(ValueError, match="torn"):
        collate_source(sklearn_datasets.load("digits"), refusing, 2)
