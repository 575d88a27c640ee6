"""Files of tensors: no copy is made on the way to the disk or back, and they are files like any other."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from layerwise.errors import DamagedError, StorageError, UsageError
from layerwise.runtime.checksums import digest, digest_file, map_tensors, write_tensors
from layerwise.runtime.write_checks import report_disk_errors
from layerwise.weights.vector_files import save_arrays

MEASURED = """
import re, sys, torch
from layerwise.run_directory import Checkpoint, RunDirectory
from pathlib import Path

def now(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

run = RunDirectory.create(Path(sys.argv[1]))
run.save("last", Checkpoint({"w": torch.ones(2)}, {}, {"serial": 1}))  # what the first save loads
held = torch.ones(64 << 20, dtype=torch.uint8)
before = now("VmHWM")
run.save("last", Checkpoint({"w": held}, {}, {"serial": 2}))
saving, before = now("VmHWM") - before, now("RssAnon")
checkpoint = run.restore("last")
assert torch.equal(checkpoint.model["w"], held)
print(saving, now("RssAnon") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told under /proc")
def test_saving_and_restoring_hold_nothing_twice(tmp_path: Path) -> None:
    """Of 64 MiB of weights less than an eighth more is held at any time of a save, and after a restore."""
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saving, restored = map(int, done.stdout.split())
    assert saving < 8
    assert restored < 8


def test_tensors_are_written_as_safetensors_has_them(tmp_path: Path) -> None:
    """Views, transposed, shared and empty ones too; every type a checkpoint may hold."""
    matrix = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": matrix,
        "again": matrix,
        "row": matrix[1],
        "turned": matrix.T,
        "half": matrix.bfloat16(),
        "number": torch.tensor(3),
        "none": torch.zeros(0, 2),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    written_digest = write_tensors(tmp_path / "a.safetensors", tensors)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert written_digest == digest(data) == digest_file(tmp_path / "a.safetensors")
    for loaded in (safetensors.torch.load(data), map_tensors(tmp_path / "a.safetensors")):
        assert loaded.keys() == tensors.keys()
        assert all(loaded[name].dtype == t.dtype and torch.equal(loaded[name], t) for name, t in tensors.items())


def test_a_file_of_tensors_may_be_read_by_whom_the_system_allows(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(3)})
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_writing_to_a_changed_tensor_leaves_its_file_alone(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(3)})
    map_tensors(tmp_path / "a.safetensors")["x"].fill_(7)
    assert map_tensors(tmp_path / "a.safetensors")["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "write",
    [lambda path: write_tensors(path, {"x": torch.ones(2000)}), lambda path: save_arrays({"x": np.ones(2000)}, path)],
    ids=["tensors", "arrays"],
)
def test_a_refusing_disk_is_the_systems_error(write: Callable[[Path], object], tmp_path: Path) -> None:
    """A folder that is not there, and a file that may not grow: safetensors' own errors would say nothing to
    `report_disk_errors`."""
    with pytest.raises(UsageError, match="there is no folder"):
        write(tmp_path / "nowhere/a.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(StorageError, match="File too large"), report_disk_errors(tmp_path / "a.safetensors"):
            write(tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_no_safetensors_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    assert map_tensors(tmp_path / "a.safetensors") == {}
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DamagedError, match="it is not a safetensors file"):
        map_tensors(tmp_path / "a.safetensors")
