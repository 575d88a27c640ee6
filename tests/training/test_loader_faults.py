"""The streaming path: the same batches as from memory, and what happens when a worker or its shared memory fails
(F26)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from layerwise.data.loader import BatchSampler, StreamedBatches
from layerwise.data.loader_workers import check_shared_memory
from layerwise.data.source import ArraySource, Schema
from layerwise.errors import TrainingError
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.tasks.classification import Classification
from processes import Child, assert_same, count_logged, wait_until
from small_runs import fit, write_digit_folders


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of digits, 240 images of 8 × 8."""
    return write_digit_folders(tmp_path_factory.mktemp("images"), 240)


def test_streaming_gives_the_same_batches(images: Path, tmp_path: Path) -> None:
    """Weights and log are equal bit for bit whether the images were held in memory or decoded batch by batch."""
    held = fit(tmp_path / "held", data=str(images), batch_size=16)
    streamed = fit(tmp_path / "streamed", data=str(images), batch_size=16, options={"train.workers": -1})
    assert_same(held.path, streamed.path)


STREAM = [
    "train",
    "lenet5",
    "--epochs",
    50,
    "--batch-size",
    32,
    "--out",
    "run",
    "--set",
    "train.workers=1",
    "--set",
    "train.threads=1",
    "--set",
    "train.memory_mib=1",
    "--set",
    "train.timeout=60",
    "--set",
    "train.log_every=1",
]


@pytest.fixture(scope="module")
def large(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in color and 48 × 48: more than a MiB as tensors."""
    place = tmp_path_factory.mktemp("large")
    for path in sorted(images.rglob("*.png"))[:200]:
        (place / path.parent.name).mkdir(exist_ok=True)
        Image.open(path).resize((48, 48)).convert("RGB").save(place / path.parent.name / path.name)
    return place


def test_a_small_shared_memory_is_named(large: Path, tmp_path: Path) -> None:
    """A /dev/shm of 64 KiB, as in a container, where the system lets us make one; else none of that size is needed."""
    line = 'mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 77; exec "$@"'
    command = [sys.executable, "-m", "layerwise", *map(str, STREAM), "--data", str(large)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", line, "sh", *command], capture_output=True, text=True, cwd=tmp_path
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        with pytest.raises(TrainingError, match="too small for the loader's workers"):
            check_shared_memory(1 << 60)
        return
    assert done.returncode == 1, done.stderr
    assert "/dev/shm is too small for the loader's workers" in done.stderr
    assert "Traceback" not in done.stderr


def spawned(parent: psutil.Process) -> list[psutil.Process]:
    """A process's loader workers."""
    return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.timeout(180)
def test_a_killed_loader_worker_ends_the_run_with_its_cause(large: Path, tmp_path: Path) -> None:
    """Real workers over real images: they train, then one is killed; the error comes at once and names the cause."""
    child = Child([*STREAM, "--data", large], tmp_path)

    def workers() -> list[psutil.Process]:
        return spawned(psutil.Process(child.process.pid))

    wait_until(lambda: count_logged(tmp_path / "run") >= 1, child, timeout=90)
    wait_until(lambda: bool(workers()), child, timeout=90)
    began = time.monotonic()
    for worker in workers():
        worker.kill()
    assert child.wait(90) == 1, child.stderr
    assert time.monotonic() - began < 60
    assert "a loader worker was lost" in child.stderr
    assert any(
        cause in child.stderr for cause in ("killed by signal", "exited unexpectedly", "reset by peer", "EOFError")
    )
    assert "Traceback" not in child.stderr, child.stderr
    assert {n: p for n, p in verify(RunDirectory(tmp_path / "run")).items() if p} == {}


def test_a_lost_worker_is_told_of_only_where_a_batch_is_asked_for() -> None:
    """torch's handler of a child's death raises at any place, in destructors too. Here nothing is raised between two
    batches; the next one is refused with the cause; and afterwards the handler is torch's again, and later workers are
    none of the lost ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    source = ArraySource(Schema("image", (6, 5, 3), "class", ("a", "b")), pixels, np.arange(40) % 2, "pixels")
    collate = Classification.prepare(source, Classification.Options()).collate
    streamed = StreamedBatches(source, collate, BatchSampler(40, 4), torch.device("cpu"), torch.float32, workers=1)
    training = streamed.iterate(0)
    next(training)
    evaluation = streamed.iterate(0)  # begun within the epoch
    next(evaluation)
    handler = signal.getsignal(signal.SIGCHLD)
    lost = spawned(psutil.Process())
    assert len(lost) == 2
    for worker in lost:
        worker.kill()
    end = time.monotonic() + 20
    while not all(os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for worker in lost):
        assert time.monotonic() < end
    for _ in range(20):  # a signal's handler runs between two of Python's instructions
        time.sleep(0.001)
    with pytest.raises(
        TrainingError, match=r"a loader worker was lost: DataLoader worker \(pid \d+\) is killed by signal: Killed"
    ):
        next(evaluation)
    with pytest.raises(TrainingError, match="a loader worker was lost"):
        next(training)
    assert signal.getsignal(signal.SIGCHLD) is not handler
    assert len(list(streamed.iterate(1))) == 10
