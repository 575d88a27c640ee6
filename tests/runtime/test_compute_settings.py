"""Compute settings: what is left open is chosen within the cores, and everything is restored at the end."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from layerwise import api
from layerwise.errors import UsageError
from layerwise.runtime import compute_settings, resources


@dataclass(frozen=True)
class Settings:
    """What a run may change in the process."""

    threads: int
    precision: str
    deterministic: bool
    cublas: str | None


def now() -> Settings:
    return Settings(
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def resolve(
    *, threads: int = 0, workers: int = 0, streams: bool = True, world: int = 1
) -> compute_settings.ComputeSettings:
    return compute_settings.resolve(
        device="cpu",
        precision="fp32",
        threads=threads,
        workers=workers,
        streams=streams,
        deterministic=True,
        world=world,
    )


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_threads_and_workers_never_exceed_the_cores(streams: bool, world: int) -> None:
    settings = resolve(streams=streams, world=world)
    assert settings.threads >= 1
    assert settings.threads + settings.workers <= max(1, resources.count_cores() // world)
    if not streams:
        assert settings.workers == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_they_never_exceed_fewer_cores_either() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        for count in range(1, min(len(allowed), 8) + 1):
            os.sched_setaffinity(0, sorted(allowed)[:count])
            settings = resolve()
            assert 1 <= settings.threads <= settings.threads + settings.workers <= count
    finally:
        os.sched_setaffinity(0, allowed)


def test_settings_hold_in_the_block_and_are_restored() -> None:
    before = now()
    wanted = compute_settings.ComputeSettings("cpu", "fp32", 1, 0, "medium", True)
    with compute_settings.use_settings(wanted):
        assert now() == Settings(1, "medium", True, ":4096:8")
    assert now() == before


def test_settings_are_restored_after_an_error() -> None:
    def fail() -> None:
        with compute_settings.use_settings(compute_settings.ComputeSettings("cpu", "fp32", 1, 0, "medium", True)):
            raise ValueError("inside")

    before = now()
    with pytest.raises(ValueError, match="inside"):
        fail()
    assert now() == before


def test_an_older_cublas_setting_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with compute_settings.use_settings(compute_settings.ComputeSettings("cpu", "fp32", 1, 0, "highest", True)):
        pass
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"device 'tpu' is not here\n.*cpu"):
        compute_settings.pick_device("tpu")
    assert compute_settings.pick_device("cpu") == torch.device("cpu")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="precision 'int3' is unknown"):
        compute_settings.resolve(
            device="cpu", precision="int3", threads=1, workers=0, streams=False, deterministic=False, world=1
        )


def test_autocast_rounds_products_and_fp32_does_not() -> None:
    a, b = torch.full((2, 2), 1.001), torch.eye(2)
    with compute_settings.autocast("bf16", torch.device("cpu")):
        assert (a @ b).dtype == torch.bfloat16
    with compute_settings.autocast("fp32", torch.device("cpu")):
        assert (a @ b).dtype == torch.float32
    assert compute_settings.get_dtype("fp64") == torch.float64
    assert compute_settings.get_dtype("bf16") == torch.float32


@pytest.mark.parametrize(
    ("name", "precision", "layout"),
    [
        ("lenet5", "fp32", compute_settings.CHANNELS_LAST),
        ("lenet5", "bf16", compute_settings.CHANNELS_LAST),
        ("lenet5", "fp64", compute_settings.CONTIGUOUS),
        ("mlp", "fp32", compute_settings.CONTIGUOUS),
    ],
)
def test_convolutions_lie_channels_last_where_that_gains(name: str, precision: str, layout: str) -> None:
    model = api.build(name, outputs=3, **({"features": 4} if name == "mlp" else {}))
    assert compute_settings.choose_layout(model, precision) == layout


def test_laying_out_moves_weights_and_changes_no_number() -> None:
    model = api.build("resnet20", outputs=3, blocks=1).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = model(x)
    compute_settings.apply_layout(model, compute_settings.CHANNELS_LAST)
    weight = model.get_parameter("layer2.0.conv1.weight")
    assert weight.stride() == (144, 1, 48, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.get_submodule("conv1")(torch.randn(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), out, rtol=1e-5, atol=1e-5)


def test_a_run_records_its_layout(tmp_path: Path) -> None:
    options = {"model.widths": [4], "model.dense": [4], "examples": 32, "train.threads": 1}
    run = api.train("cnn", data="digits", out=tmp_path / "new", epochs=1, batch_size=16, options=options)
    assert run.info["flags"]["layout"] == compute_settings.CHANNELS_LAST
