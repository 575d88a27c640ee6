"""What all tests share: a private home, a small digit set, the `layerwise` command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device cuda`` trains the contract's networks there, where every test of them must hold too."""
    parser.addoption("--device", default="cpu", help="device of the contract tests: cpu, or cuda")


def pytest_configure() -> None:
    """Give each worker of pytest-xdist cores of its own, before torch counts them: kernels that share theirs wait for
    each other."""
    os.environ.setdefault(
        "LAYERWISE_CONVOLUTION", "winograd"
    )  # no test waits for a measurement, or depends on its result
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
        os.sched_setaffinity(0, mine or cores)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check every refused call in the tests for traces (`refusals`): the test modules are imported now, and hold the
    entry points."""
    from refusals import wrap_entry_points

    if session.items and not session.config.option.collectonly:
        wrap_entry_points()


@pytest.fixture(autouse=True)
def _watched(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Watch the test's folder: a call that is refused must leave it as it was."""
    from refusals import watch

    with watch(tmp_path, tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, so that no run or cache of the developer's is touched."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _without_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out the page at a run's end, whose figures cost more than a small training, but in modules that say
    ``REPORTS = True``."""
    from processes import (
        patch_report,
    )  # imports torch, which must not count the cores before `pytest_configure` has given them out

    with patch_report(getattr(request.module, "REPORTS", False)):
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products on one thread: with more, a busy machine makes them a hundred times slower."""
    import torch  # not before `pytest_configure` gave this process its cores

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``layerwise ARGS…`` as a user does and return the finished process."""

    def call(*args: object, timeout: float = 100, env: dict[str, str] | None = None, **more: Any) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "layerwise", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            **more,
        )

    return call


def parse_json_output(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON object on standard output; fails if there is anything else."""
    assert process.stdout.count("\n") == 1, process.stdout + process.stderr
    content: dict[str, Any] = json.loads(process.stdout)
    return content
