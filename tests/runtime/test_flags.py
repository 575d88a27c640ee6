"""Flags: what is left open is chosen within the cores, and everything is put back at the end."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from layerwise.errors import UsageError
from layerwise.runtime import flags, machine


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


def resolve(*, threads: int = 0, workers: int = 0, streams: bool = True, world: int = 1) -> flags.Flags:
    return flags.resolve(
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
    found = resolve(streams=streams, world=world)
    assert found.threads >= 1
    assert found.threads + found.workers <= max(1, machine.cores() // world)
    if not streams:
        assert found.workers == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_they_never_exceed_fewer_cores_either() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        for count in range(1, min(len(allowed), 8) + 1):
            os.sched_setaffinity(0, sorted(allowed)[:count])
            found = resolve()
            assert 1 <= found.threads <= found.threads + found.workers <= count
    finally:
        os.sched_setaffinity(0, allowed)


def test_flags_hold_within_and_are_put_back() -> None:
    before = now()
    wanted = flags.Flags("cpu", "fp32", 1, 0, "medium", True)
    with flags.applied(wanted):
        assert now() == Settings(1, "medium", True, ":4096:8")
    assert now() == before


def test_flags_are_put_back_after_an_error() -> None:
    def fail() -> None:
        with flags.applied(flags.Flags("cpu", "fp32", 1, 0, "medium", True)):
            raise ValueError("inside")

    before = now()
    with pytest.raises(ValueError, match="inside"):
        fail()
    assert now() == before


def test_an_older_cublas_setting_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with flags.applied(flags.Flags("cpu", "fp32", 1, 0, "highest", True)):
        pass
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"device 'tpu' is not here\n.*cpu"):
        flags.pick_device("tpu")
    assert flags.pick_device("cpu") == torch.device("cpu")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="precision 'int3' is unknown"):
        flags.resolve(
            device="cpu", precision="int3", threads=1, workers=0, streams=False, deterministic=False, world=1
        )


def test_autocast_rounds_products_and_fp32_does_not() -> None:
    a, b = torch.full((2, 2), 1.001), torch.eye(2)
    with flags.autocast("bf16", torch.device("cpu")):
        assert (a @ b).dtype == torch.bfloat16
    with flags.autocast("fp32", torch.device("cpu")):
        assert (a @ b).dtype == torch.float32
    assert flags.dtype("fp64") == torch.float64
    assert flags.dtype("bf16") == torch.float32
