"""The published CIFAR networks load, and answer as their own code does: against a plain float64 form of it, written
from its layout.

The published ResNet-20 scores 18.97 % error on the JPEG copy of CIFAR-10 by its own code.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from layerwise import api

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REAL = Path(os.environ.get("LAYERWISE_DATA", "")).absolute()
WEIGHTS = REAL / "resnet20-cifar10" / "resnet20-12fca82f.th"
needs_data = pytest.mark.skipif(not os.environ.get("LAYERWISE_DATA"), reason="needs the real data")


def naive(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Map images (N, 3, 32, 32) to logits by the formulas alone, in float64, from a state dict of a network of 6n + 2
    layers."""
    state = {name.removeprefix("module."): tensor.double() for name, tensor in state.items()}

    def normed(h: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            state[f"{name}.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (h - mean) / (var + 1e-5).sqrt() * scale + shift

    h = normed(F.conv2d(x.double(), state["conv1.weight"], padding=1), "bn1").clamp_min(0)
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            at, step = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = normed(F.conv2d(h, state[f"{at}.conv1.weight"], padding=1, stride=step), f"{at}.bn1").clamp_min(0)
            out = normed(F.conv2d(out, state[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if step == 2:  # option A: every second place, a quarter of the channels of zeros before and behind
                zeros = torch.zeros(len(h), h.shape[1] // 2, *out.shape[2:], dtype=h.dtype)
                h = torch.cat([zeros, h[:, :, ::2, ::2], zeros], 1)
            h = (out + h).clamp_min(0)
            block += 1
    return h.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def layout(blocks: int) -> dict[str, Tensor]:
    """Return random tensors in the published files' layout: behind ``module.``, without counters, of order one
    throughout."""
    draw = torch.Generator().manual_seed(blocks)
    out: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, inputs: int, outputs: int) -> None:
        out[f"{conv}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=draw) * (2 / (9 * inputs)) ** 0.5
        out[f"{norm}.weight"] = 0.5 + torch.rand(outputs, generator=draw) / 2
        for name in ("bias", "running_mean"):
            out[f"{norm}.{name}"] = torch.randn(outputs, generator=draw) / 4
        out[f"{norm}.running_var"] = 0.5 + torch.rand(outputs, generator=draw)

    layer("conv1", "bn1", 3, 16)
    width = 16
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, wide = f"layer{stage}.{block}", 16 * 2 ** (stage - 1)
            layer(f"{at}.conv1", f"{at}.bn1", width, wide)
            layer(f"{at}.conv2", f"{at}.bn2", wide, wide)
            width = wide
    out |= {"linear.weight": torch.randn(10, 64, generator=draw) / 8, "linear.bias": torch.randn(10, generator=draw)}
    return {f"module.{name}": tensor for name, tensor in out.items()}


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9), (110, 18)])
def test_every_depth_of_the_family_loads(depth: int, blocks: int, tmp_path: Path) -> None:
    state = layout(blocks)
    torch.save({"state_dict": state, "best_prec1": 93.0}, tmp_path / "w.th")
    model = api.build(f"resnet{depth}", classes=10, weights=tmp_path / "w.th").eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = naive(state, x)
    with torch.no_grad():
        torch.testing.assert_close(
            model(x).double() / wanted.abs().max(), wanted / wanted.abs().max(), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            model.double()(x.double()), wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max())
        )


def some_images(folder: Path, every: int) -> list[Path]:
    """Unpack every so-many-th test image into ``test/``, and a few of each class into ``train/`` beside it."""
    found = []
    with tarfile.open(next((REAL / "cifar10").glob("*.tar.gz"))) as archive:  # the test part comes first
        for number, member in enumerate(m for m in archive if m.isfile()):
            if number == 10_000:
                break
            if number % every == 0 or number % 1000 in (1, 2):
                path = folder / member.name.replace("test/", "test/" if number % every == 0 else "train/")
                path.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
                found += [path] if number % every == 0 else []
    return found


@needs_data
def test_500_images_are_answered_as_by_its_own_code(tmp_path: Path) -> None:
    """From JPEG to logits and metrics: a run out of the weights alone, against the float64 form on PIL's pixels."""
    paths = some_images(tmp_path / "data", every=20)
    assert len(paths) == 500
    run = api.train(
        "resnet20",
        data=tmp_path / "data",
        weights=WEIGHTS,
        epochs=0,
        out=tmp_path / "run",
        options={"task.mean": list(MEAN), "task.std": list(STD)},
    )
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]))
    x = (pixels.double().permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )
    state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)["state_dict"]
    wanted = torch.cat([naive(state, part) for part in x.split(20)])
    with torch.no_grad():
        found = run.model()(x.float()).double()
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    classes = sorted({path.parent.name for path in paths})
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    assert run.metrics["test/accuracy"] == pytest.approx(float((wanted.argmax(1) == labels).double().mean()), abs=1e-12)
    assert run.metrics["test/loss"] == pytest.approx(float(F.cross_entropy(wanted, labels)), rel=1e-5)
    answers = run.predictor()(*paths[:20])
    np.testing.assert_allclose([a.score for a in answers], wanted[:20].softmax(1).amax(1), atol=1e-5)


@needs_data
@pytest.mark.soak
def test_all_10_000_images_give_the_published_networks_error(tmp_path: Path) -> None:
    run = api.train(
        "resnet20", data="cifar10", weights=WEIGHTS, epochs=0, out=tmp_path / "run", options={"task.scale": "imagenet"}
    )
    assert abs(100 * (1 - run.metrics["test/accuracy"]) - 18.97) <= 0.1
