"""File systems that cannot all that ours can: without locks, and without a way to flush folders. Training goes on, and
says so once."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from processes import CONTEXT, find_leftovers

TRAIN = [
    "train",
    "perceptron",
    "--data",
    "iris",
    "--out",
    "run",
    "--set",
    "train.threads=1",
    "--set",
    "train.checkpoint_seconds=0.0001",
]
FLOCK, ARCHITECTURE = 73, 0xC000003E  # of x86-64
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2  # prctl's words
ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # what a filter answers


def refuse_locks() -> bool:
    """Let the system answer ENOLCK to every flock of this process from now on, as some network file systems do; whether
    it can."""
    program = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 1, 0, ARCHITECTURE),
        (0x06, 0, 0, ALLOW),
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, FLOCK),
        (0x06, 0, 0, ERRNO | errno.ENOLCK),
        (0x06, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    filters = Program(len(program), ctypes.cast(code, ctypes.c_void_p))
    call = ctypes.CDLL(None, use_errno=True).prctl
    return call(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and call(SET_SECCOMP, FILTER, ctypes.byref(filters), 0, 0) == 0


def refuse_flushed_folders() -> bool:
    """Let the system answer EINVAL where a folder is flushed, as some file systems do."""
    fsync = os.fsync

    def refusing(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    os.fsync = refusing
    return True


def _train(folder: Path, refuse: Any) -> None:
    """Train, then go on with a longer run, where the system refuses something; exit code 77 where that cannot be
    had."""
    import fcntl

    os.chdir(folder)
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT), 2)
    if not refuse():
        sys.exit(77)
    if refuse is refuse_locks:
        with open("probe", "w") as stream, pytest.raises(OSError, match="No locks available"):
            fcntl.flock(stream, fcntl.LOCK_EX)
    from layerwise.cli import main

    code = main([*TRAIN, "--epochs", "2"])
    sys.exit(code or main([*TRAIN, "--resume", "--allow-changes", "--epochs", "3"]))


@pytest.mark.parametrize(
    ("refuse", "note"),
    [
        (refuse_locks, "has no locks: nothing keeps two programs from working there at the same time"),
        (
            refuse_flushed_folders,
            "cannot flush folders: a power cut may lose the last save, a crash of a program does not",
        ),
    ],
)
def test_training_goes_on_with_one_note(refuse: Any, note: str, tmp_path: Path) -> None:
    if refuse is refuse_locks and (sys.platform != "linux" or platform.machine() != "x86_64"):
        pytest.skip("the filter is for Linux on x86-64")
    child = CONTEXT.Process(target=_train, args=(tmp_path, refuse))
    child.start()
    child.join(100)
    if child.exitcode == 77:
        pytest.skip("filters of system calls are not permitted here")
    stderr = (tmp_path / "stderr").read_text()
    assert child.exitcode == 0, stderr
    assert stderr.count(note) == 1, stderr
    assert "Warning" not in stderr
    assert "Traceback" not in stderr
    run = RunDirectory(tmp_path / "run")
    assert {name: problem for name, problem in verify(run).items() if problem} == {}
    assert find_leftovers(run.path) == []
    assert not (run.path / ".lock").exists()
