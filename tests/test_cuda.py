"""What only an NVIDIA GPU shows: ``pytest -m cuda`` on such a machine, beside ``pytest tests/test_contract.py --device
cuda``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import Command, parse_json_output
from layerwise import api
from layerwise.functional.augmentation.transforms import DRAWS, AugmentOptions, augment
from layerwise.nn.layers import AdaptiveMean
from layerwise.planning.resolve import Request
from layerwise.runtime import compute_settings
from layerwise.training.run_training import train
from test_contract import cut_short, weights_of

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(300)]
TINY = {"train.threads": 1, "train.log_every": 3, "task.size": 8, "examples": 100, "model.width": 4, "model.blocks": 1}


def fit(out: Path, *, device: str = "cuda", **options: object) -> api.Run:
    """Train a small residual network on a few digits."""
    return api.train(
        "resnet20", data="digits", out=out, epochs=3, batch_size=32, seed=3, device=device, options={**TINY, **options}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return fit(tmp_path_factory.mktemp("cuda") / "run")


def test_a_run_says_where_it_was_made(run: api.Run) -> None:
    assert run.info["flags"]["device"] == "cuda"


def test_learning_takes_the_same_way_on_both_devices(run: api.Run, tmp_path: Path) -> None:
    """Orders, draws and first weights are the same, so a few steps differ by rounding alone."""
    there, here = (fit(tmp_path / device, device=device, **{"train.precision": "fp64"}) for device in ("cuda", "cpu"))
    for name, value in weights_of(here).items():
        torch.testing.assert_close(weights_of(there)[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_answers_are_the_cpus(run: api.Run, engine: str) -> None:
    images = [np.random.default_rng(n).integers(0, 255, (8, 8), dtype=np.uint8) for n in range(5)]
    on_gpu, on_cpu = (run.predictor(engine=engine, device=device)(*images) for device in ("cuda", "cpu"))
    for a, b in zip(on_gpu, on_cpu, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=2e-3)  # convolutions on tensor cores round to ten bits


def test_commands_take_the_device(run: api.Run, command: Command) -> None:
    accuracies = [
        parse_json_output(command("eval", run.path, "--device", device, "--json"))["metrics"]["accuracy"]
        for device in ("cuda", "cpu")
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)
    refused = command("eval", run.path, "--device", "cuda", "--engine", "onnxruntime")
    assert refused.returncode == 2
    assert "the engine onnxruntime runs on the CPU" in refused.stderr


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_learn_and_resume_exactly(precision: str, tmp_path: Path) -> None:
    unbroken = fit(tmp_path / "whole", **{"train.precision": precision, "train.deterministic": True})
    assert unbroken.info["flags"]["layout"] == compute_settings.CHANNELS_LAST
    cut_short(unbroken, tmp_path / "cut", stage=0, after=5)
    train(Request(model=str(tmp_path / "cut" / "recipe.toml"), resume=True), quiet=True)
    resumed = weights_of(api.Run(tmp_path / "cut"))
    assert all(torch.equal(value, resumed[name]) for name, value in weights_of(unbroken).items())


def test_a_compiled_run_learns_what_an_interpreted_one_does(tmp_path: Path) -> None:
    compiled, interpreted = (
        fit(tmp_path / str(on), **{"train.compile": on, "train.precision": "fp64"}) for on in (True, False)
    )
    for name, value in weights_of(interpreted).items():
        torch.testing.assert_close(weights_of(compiled)[name], value, rtol=1e-5, atol=1e-7)
    assert compiled.metrics["test/accuracy"] == pytest.approx(interpreted.metrics["test/accuracy"], abs=0.011)


def test_streamed_batches_are_those_in_memory(run: api.Run, tmp_path: Path) -> None:
    streamed = fit(tmp_path / "streamed", **{"train.workers": 1, "train.memory_mib": 1, "train.precision": "fp64"})
    held = fit(tmp_path / "held", **{"train.precision": "fp64"})
    for name, value in weights_of(held).items():
        torch.testing.assert_close(weights_of(streamed)[name], value, rtol=1e-6, atol=1e-8)


TABLES: tuple[dict[str, Any], ...] = (
    {"crop_padding": 3},
    {"crop_padding": 9, "padding": "reflection"},
    {"crop_padding": 3, "rotate": 20, "scale": 0.2},
    {"flip": "both"},
    {"crop_scale": (0.3, 1.0)},
    {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
    {"policy": "trivial"},
    {"erase_prob": 0.5},
)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: "-".join(table))
def test_images_are_changed_as_on_the_cpu(table: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 12, 16, dtype=torch.float64, generator=draw)
    u = torch.rand(40, DRAWS, dtype=torch.float64, generator=draw)
    options = AugmentOptions(**table)
    torch.testing.assert_close(augment(x.cuda(), u.cuda(), options).cpu(), augment(x, u, options), rtol=0, atol=1e-9)


def test_a_plain_step_waits_for_nothing(tmp_path: Path) -> None:
    """Batches that are gathered, shifted and mirrored on the device are never waited for."""
    from layerwise.data.batch import Batch
    from layerwise.data.loader import BatchSampler, MemoryBatches
    from layerwise.tasks.augmentation import Augmentation, AugmentedBatches
    from layerwise.tasks.inputs import ImageInputs

    inputs = ImageInputs((8, 8), 3, (0.5,) * 3, (0.2,) * 3)
    data = Batch(
        torch.zeros(64, 3, 8, 8, dtype=torch.uint8, device="cuda"), torch.zeros(64, device="cuda"), torch.arange(64)
    )
    change = Augmentation(inputs, AugmentOptions(crop_padding=2, flip="horizontal"), seed=0, plain=True)
    batches = AugmentedBatches(MemoryBatches(data, BatchSampler(64, 16, 0)), change).iterate(0)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(next(batches)) == 16
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("side", [1, 5, 7, 13])
def test_the_repeatable_mean_is_torchs(side: int) -> None:
    x = torch.randn(2, 3, side, side + 2, dtype=torch.float64, device="cuda", requires_grad=True)
    wanted = F.adaptive_avg_pool2d(x, 7)
    (by_torch,) = torch.autograd.grad(wanted.square().sum(), x)
    torch.use_deterministic_algorithms(True)
    try:
        output = AdaptiveMean(7)(x)
        (by_us,) = torch.autograd.grad(output.square().sum(), x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(by_us, by_torch)


def test_a_kernel_that_cannot_repeat_is_named() -> None:
    x = torch.randn(1, 1, 5, 5, device="cuda", requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as caught:
            F.adaptive_avg_pool2d(x, 3).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    error = compute_settings.make_determinism_error(caught.value)
    assert error is not None
    assert "train.deterministic refuses the kernel adaptive_avg_pool2d_backward_cuda" in str(error)
