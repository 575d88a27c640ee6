"""Batches gathered from memory."""

from __future__ import annotations

import pytest
import torch

from layerwise.data.loader import gathered


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_their_layout(channels: int) -> None:
    pictures = torch.rand(7, 5, 4, channels).permute(0, 3, 1, 2)  # channels last in memory
    index = torch.tensor([6, 0, 0, 3])
    found = gathered(pictures, index)
    assert torch.equal(found, torch.stack([pictures[int(i)] for i in index]))
    assert found.stride() == pictures[:4].stride()


def test_other_tensors_are_gathered_as_they_are() -> None:
    for tensor in (torch.rand(5, 3), torch.rand(5, 2, 4, 6), torch.arange(5)):
        found = gathered(tensor, torch.tensor([4, 4, 1]))
        assert found.is_contiguous()
        assert torch.equal(found, torch.stack([tensor[4], tensor[4], tensor[1]]))
