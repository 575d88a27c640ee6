"""Real processes that run `layerwise`, started in tenths of a second: a server that has imported everything forks them.

Each child is a process of its own that gets real signals; only the seconds of importing torch are shared.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.training import run_training
from layerwise.training.run_training import write_page

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "layerwise.training.run_training",
        "layerwise.cli.train",
        "layerwise.report.page",
        "layerwise.rules.backprop",
        "layerwise.rules.contrastive",
        "layerwise.rules.perceptron",
        "layerwise.rules.hebb",
        "layerwise.rules.hogwild",
        "layerwise.models.feedforward",
        "sklearn.datasets",
        "layerwise.models.boltzmann",
        "layerwise.models.convolutional",
        "layerwise.plotting.charts",
        "torch._dynamo",
        "matplotlib.backends.backend_svg",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
    ]
)
WRITING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "open"}


class Child:
    """A process that runs ``layerwise ARGS…`` in a folder; with ``kill_at`` it kills itself before its n-th operation
    ``below``.

    The page at a run's end is written where ``report`` says so, or where file operations are counted.
    """

    def __init__(
        self,
        args: Sequence[object],
        folder: Path,
        *,
        kill_at: int = 0,
        below: str = "run",
        file_limit: int = 0,
        report: bool = False,
    ) -> None:
        self.folder = folder
        arguments = ([str(a) for a in args], folder, kill_at, below, file_limit, report or kill_at > 0)
        self.process = CONTEXT.Process(target=_run_layerwise, args=arguments)
        self.process.start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end; the exit code, or minus the signal's number."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s\n{self.stderr}")
        return self.process.exitcode

    @property
    def stderr(self) -> str:
        """What it wrote to standard error."""
        return (self.folder / "stderr").read_text()


def wait_until(condition: Callable[[], bool], child: Child | None = None, *, timeout: float = 60) -> None:
    """Wait until a condition holds (or the child has ended)."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        if child is not None and not child.process.is_alive():
            return
        time.sleep(0.002)


@contextmanager
def patch_report(enabled: bool) -> Iterator[None]:
    """Write the page at a run's end, or leave it out: its figures cost more than a small training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_training, "write_page", write_page if enabled else lambda *_, **__: None)
        yield


def _run_layerwise(args: list[str], folder: Path, kill_at: int, below: str, file_limit: int, report: bool) -> None:
    """Run the command with its output in files."""
    _redirect(folder)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if kill_at:
        kill_self_at(kill_at, str(folder / below))
    from layerwise.cli import main

    with patch_report(report):
        sys.exit(main(args))


def _redirect(folder: Path) -> None:
    """Send standard output and error to files of the folder, and work there."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)


def kill_self_at(count: int, folder: str) -> None:
    """Kill this process, really, before its n-th change of a file below a folder. Nothing is patched: Python reports
    each one."""
    left = count

    def audit(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in WRITING or folder not in _get_changed_path(event, details):
            return
        if event == "open" and not details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _get_changed_path(event: str, details: tuple[Any, ...]) -> str:
    """Return the path that an operation changes. A link is made in a folder that is told by its number."""
    if event == "os.link":
        folder = f"/proc/self/fd/{details[3]}"
        return os.path.join(os.readlink(folder) if os.path.exists(folder) else "/", os.fsdecode(details[1]))
    return os.path.abspath(os.fsdecode(details[0]) if _is_path(details[0]) else "/")


def _is_path(value: object) -> bool:
    """Whether an operation's first detail is a path (it may be a file's number)."""
    return isinstance(value, str | bytes | os.PathLike)


def load_weights(path: Path, which: str = "last") -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights."""
    checkpoint = RunDirectory(path).restore(which)
    assert checkpoint is not None
    return checkpoint.model


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without their seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunDirectory(path).read_metrics()]


def assert_same(one: Path, other: Path) -> None:
    """Assert that both runs end with the same weights bit for bit, the same log, the same metrics; that every file is
    intact, and that no half-written file is left."""
    for which in ("last", "best"):
        a, b = load_weights(one, which), load_weights(other, which)
        assert a.keys() == b.keys()
        assert [n for n in a if not torch.equal(a[n], b[n])] == []
    assert read_rows(one) == read_rows(other)
    assert RunDirectory(one).info()["metrics"] == RunDirectory(other).info()["metrics"]
    assert {n: p for n, p in verify(RunDirectory(one)).items() if p} == {}
    assert find_leftovers(one) == []


def find_leftovers(path: Path) -> list[str]:
    """Return the names of half-written files and folders."""
    return [str(p) for p in path.rglob("*") if p.name.endswith((".new", ".old"))]


def count_logged(path: Path) -> int:
    """Return the lines of a run's log."""
    log = path / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0
