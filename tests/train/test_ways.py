"""How a network computes: what is chosen for it, and what a run's flags say stands."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from layerwise.nn.tiled import TiledConv2d
from layerwise.runtime import flags
from layerwise.train.ways import set_ways


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))


def settings(precision: str = "fp32") -> flags.Flags:
    return flags.resolve(device="cpu", precision=precision, threads=1, workers=0, streams=False, deterministic=False, world=1)


@pytest.mark.parametrize(("precision", "tiles", "chosen"), [
    ("fp32", True, "tiles"), ("fp32", False, "direct"), ("bf16", True, "direct"), ("fp64", True, "direct"),
])  # fmt: skip
def test_tiles_are_chosen_in_float32_where_they_are_wanted(precision: str, tiles: bool, chosen: str) -> None:
    model = network().to(flags.dtype(precision))
    found = set_ways(model, settings(precision), tiles=tiles)
    assert found.convolution == chosen
    assert isinstance(model[0], TiledConv2d) == (chosen == "tiles")
    assert not isinstance(model[2], TiledConv2d)


def test_what_a_runs_flags_say_stands() -> None:
    before = msgspec.structs.replace(settings(), layout=flags.CONTIGUOUS, convolution=flags.DIRECT)
    model = network()
    assert set_ways(model, before, tiles=True) == before
    assert type(model[0]) is nn.Conv2d
    assert model[0].weight.is_contiguous()
    went = msgspec.structs.replace(settings(), layout=flags.CHANNELS_LAST, convolution=flags.TILES)
    assert set_ways(model, went, tiles=False) == went
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_without_such_convolutions_is_direct() -> None:
    assert set_ways(nn.Sequential(nn.Linear(2, 2)), settings(), tiles=True).convolution == flags.DIRECT
