"""The residual block (E32) in plain loops, and the networks for 32×32 images beside a second writing of them and
published weights."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import distance, lively, outcome
from torch import Tensor, nn

from layerwise import api, registry
from layerwise.errors import UsageError
from layerwise.models.resnet import BasicBlock, Bottleneck, make_shortcut
from layerwise.models.resnet_cifar import PaddedShortcut

PUBLISHED = Path(os.environ.get("LAYERWISE_DATA", "")) / "resnet20-cifar10" / "resnet20-12fca82f.th"
DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


# -- E32, number by number
# -----------------------------------------------------------------------------------------------


def convolved(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """Return a convolution of one image (C, H, W), in loops over places and groups."""
    weight = conv.weight.detach().numpy()
    (stride, _), (border, _), side = conv.stride, conv.padding, weight.shape[-1]
    padded = np.pad(x, ((0, 0), (border, border), (border, border)))
    rows = [range(0, n - side + 1, stride) for n in padded.shape[1:]]
    out = np.zeros((len(weight), *map(len, rows)))
    per, maps = weight.shape[1], len(weight) // conv.groups
    for k in range(len(weight)):
        seen = padded[k // maps * per : k // maps * per + per]
        for i, top in enumerate(rows[0]):
            for j, left in enumerate(rows[1]):
                out[k, i, j] = float((seen[:, top : top + side, left : left + side] * weight[k]).sum())
    return out


def normalized(x: np.ndarray, norm: nn.BatchNorm2d) -> np.ndarray:
    """Return batch norm with running statistics, of one image."""
    gain, bias, mean, var = (
        t.detach().numpy()[:, None, None] for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    return gain * (x - mean) / np.sqrt(var + norm.eps) + bias


def on_the_way(x: np.ndarray, way: nn.Module) -> np.ndarray:
    """Return what the shortcut hands to the sum."""
    if isinstance(way, nn.Sequential):
        return normalized(convolved(x, way[0]), way[1])
    if isinstance(way, PaddedShortcut):
        out = np.zeros((len(x) + way.more, -(-x.shape[1] // 2), -(-x.shape[2] // 2)))
        for channel in range(len(x)):
            for i in range(out.shape[1]):
                for j in range(out.shape[2]):
                    out[way.more // 2 + channel, i, j] = x[channel, 2 * i, 2 * j]
        return out
    return x


BLOCKS = {
    "identity": BasicBlock(4, 4, 1, make_shortcut(4, 4, 1)),
    "projection": BasicBlock(4, 6, 2, make_shortcut(4, 6, 2)),
    "option A": BasicBlock(4, 8, 2, PaddedShortcut(4)),
    "plain": BasicBlock(4, 8, 2, None),
    "bottleneck": Bottleneck(4, 6, outputs=8, stride=2, groups=2, downsample=make_shortcut(4, 8, 2)),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_is_its_formula(kind: str) -> None:
    """y = ReLU(x + F(x)), E32: BasicBlock and Bottleneck against loops in float64."""
    block = lively(BLOCKS[kind].double()).eval()
    x = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    f = x.numpy()
    layers = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
    for at in layers:
        f = normalized(convolved(f, getattr(block, f"conv{at}")), getattr(block, f"bn{at}"))
        f = f if at == layers[-1] else np.maximum(f, 0)
    whole = f if block.downsample is None else f + on_the_way(x.numpy(), block.downsample)
    got = block(x[None])[0].detach().numpy()
    assert np.abs(got - np.maximum(whole, 0)).max() < 1e-12 * max(1.0, np.abs(whole).max())


# -- the networks of section 4.2
# -----------------------------------------------------------------------------------------


def rewritten(state: dict[str, Tensor], x: Tensor, *, residual: bool, training: bool) -> Tensor:
    """Run the network from its tensors alone, as the paper and the published checkpoints' names say. Every tensor must
    be used."""
    left = dict(state)

    def norm(z: Tensor, name: str) -> Tensor:
        left.pop(f"{name}.num_batches_tracked", None)
        mean, var = left.pop(f"{name}.running_mean"), left.pop(f"{name}.running_var")
        if training:
            mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
        z = (z - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return z * left.pop(f"{name}.weight")[:, None, None] + left.pop(f"{name}.bias")[:, None, None]

    def conv(z: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(z, left.pop(f"{name}.weight"), stride=stride, padding=1)

    h = norm(conv(x, "conv1"), "bn1").clamp_min(0)
    blocks = sum(name.startswith("layer1.") and name.endswith("conv1.weight") for name in state)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            f = norm(conv(h, f"{name}.conv1", stride), f"{name}.bn1").clamp_min(0)
            f = norm(conv(f, f"{name}.conv2"), f"{name}.bn2")
            if residual:
                missing = f.shape[1] - h.shape[1]
                zeros = torch.zeros(len(f), missing // 2, *f.shape[2:], dtype=f.dtype)
                f = f + (torch.cat([zeros, h[:, :, ::2, ::2], zeros], 1) if missing else h)
            h = f.clamp_min(0)
    out = h.mean((2, 3)) @ left.pop("linear.weight").T + left.pop("linear.bias")
    assert not left
    return out


class Rewritten(nn.Module):
    """The second writing, with the first one's tensors as its parameters."""

    def __init__(self, model: nn.Module, *, residual: bool) -> None:
        super().__init__()
        self.model, self.residual = model, residual

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        state = {**dict(self.model.named_buffers()), **dict(self.model.named_parameters())}
        return rewritten(state, x, residual=self.residual, training=self.training)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
def test_network_is_the_papers(residual: bool, training: bool) -> None:
    model = lively(api.build("resnet20", outputs=10, residual=residual).double())
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    theirs = outcome(Rewritten(model, residual=residual), x, training=training)
    theirs = {name.removeprefix("model."): tensor.clone() for name, tensor in theirs.items()}
    assert distance(outcome(model, x, training=training), theirs) < 1e-10


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_has_the_papers_layers(name: str) -> None:
    """6n + 2 layers with weights, and as many numbers as the shapes of section 4.2 have."""
    n, depth = DEPTHS[name], int(name.removeprefix("resnet"))
    with torch.device("meta"):
        models = [api.build(name, outputs=10, residual=residual) for residual in (True, False)]
    for model in models:
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(weights) == depth == 6 * n + 2
        convs = 27 * 16 + 9 * (2 * n * 16 * 16 + 16 * 32 + (2 * n - 1) * 32 * 32 + 32 * 64 + (2 * n - 1) * 64 * 64)
        norms = 2 * (16 + 2 * n * (16 + 32 + 64))
        assert sum(p.numel() for p in model.parameters()) == convs + norms + 650 == registry.find(name).parameters
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not in $LAYERWISE_DATA")
def test_published_weights_load() -> None:
    found = torch.load(PUBLISHED, weights_only=True, map_location="cpu")["state_dict"]
    model = api.build("resnet20", outputs=10)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in found.items()}, strict=True)


def test_signal_passes_through_many_blocks() -> None:
    """At the start, of an image of noise, F(x) does not die out nor blow up over 54 blocks (He et al. 2015's start and
    batch norm)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = api.build("resnet110", outputs=10).train()
    out = model(torch.randn(4, 3, 32, 32))
    assert 0.01 < float(out.detach().std()) < 100


def test_convolutions_start_with_the_stated_variance() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = api.build("resnet18", outputs=10).get_parameter("layer3.0.conv2.weight")
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.01)


@pytest.mark.parametrize(
    ("name", "least"), [("alexnet", 63), ("vgg11", 32), ("resnet18", 32), ("resnet20", 4), ("alexnet_small", 16)]
)
def test_images_too_small_are_refused(name: str, least: int) -> None:
    with torch.device("meta"):
        api.build(name, outputs=2, size=[least, least])
        with pytest.raises(UsageError, match=f"expected: at least {least}×{least} pixels"):
            api.build(name, outputs=2, size=[least, least - 1])
