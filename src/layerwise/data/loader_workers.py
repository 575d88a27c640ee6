"""The loader's worker processes: enough shared memory, an orderly shutdown, and errors when a worker is lost.

torch watches its workers with a SIGCHLD handler that raises wherever the program happens to be: in a step, while a
checkpoint is written, in a destructor that cleans up after another error, where it can only be printed. Here the error
is stored until the next batch is requested, the one point where it can be handled.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, final

from torch.utils.data import DataLoader

from layerwise.errors import TrainingError

SHARED_MEMORY = Path("/dev/shm")
T = TypeVar("T")


@contextmanager
def run_workers(loader: DataLoader[T]) -> Iterator[Iterator[T]]:
    """Start a loader's worker processes, yield their batches, and stop them at the end of the ``with`` block.

    Raises `TrainingError`, when the next batch is requested, if a worker died or stayed silent for the loader's
    timeout.
    """
    try:
        batches = iter(loader)
        with _install_handler() as handler:
            try:
                yield batches if handler is None else handler.iterate(batches)
            finally:
                batches._shutdown_workers()  # type: ignore[attr-defined]  # by the destructor it comes when the last traceback is gone
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_worker_failure(error):
            raise
        raise _make_lost_worker_error(error) from error


def check_shared_memory(needed: int) -> None:
    """Raise `TrainingError` if /dev/shm, through which workers send batches, is too small for the batches in flight."""
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise TrainingError(
            f"{SHARED_MEMORY} is too small for the loader's workers",
            expected=f"{needed / 2**20:.1f} MiB free",
            received=f"{free / 2**20:.1f} MiB",
            do="set train.workers=-1 to load in the training process, use a smaller --batch-size, or give a container "
            "more (docker run --shm-size=1g)",
        )


@final
class _WorkerFailureHandler:
    """A SIGCHLD handler around torch's: its errors are raised while the program waits for a batch, or before the
    next."""

    def __init__(self, torch_handler: Callable[[int, FrameType | None], Any]) -> None:
        self.torch_handler = torch_handler
        self.users = 0
        self._waiting = False
        self._error: RuntimeError | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.torch_handler(number, frame)
        except RuntimeError as error:
            if self._waiting:
                raise
            self._error = error

    def iterate(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches; raise the error that torch's handler raised since the last batch or raises now."""
        while True:
            self._waiting = True
            try:
                if self._error is not None:
                    raise self._error
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield batch


@contextmanager
def _install_handler() -> Iterator[_WorkerFailureHandler | None]:
    """Replace torch's handler by one handler for all open streams; yield None where torch has installed none."""
    current = signal.getsignal(signal.SIGCHLD) if _can_set_handlers() else None
    if not callable(current):
        yield None
        return
    handler = current if isinstance(current, _WorkerFailureHandler) else _WorkerFailureHandler(current)
    handler.users += 1
    signal.signal(signal.SIGCHLD, handler)
    try:
        yield handler
    finally:
        handler.users -= 1
        if not handler.users and _can_set_handlers():  # a collector may close a stream on any thread
            signal.signal(signal.SIGCHLD, handler.torch_handler)


def _can_set_handlers() -> bool:
    """Whether this thread can set signal handlers: elsewhere torch has no handler either, and polls its workers."""
    return hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()


def _is_worker_failure(error: Exception) -> bool:
    """Whether an error means that a loader worker is gone."""
    text = str(error).lower()
    signs = ("dataloader worker", "dataloader timed out", "shared memory")
    return isinstance(error, ConnectionError | EOFError) or any(sign in text for sign in signs)


def _make_lost_worker_error(error: Exception) -> TrainingError:
    """Make the error for a lost loader worker, with the cause that torch gives."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()] or [type(error).__name__]
    causes = [text for text in lines if text.startswith(("RuntimeError:", "OSError:", "Error:"))]
    return TrainingError(
        f"a loader worker was lost: {causes[-1] if causes else lines[0]}",
        expected="every worker alive, answering within train.timeout, with room in /dev/shm",
        do="set train.workers=-1 to load in the training process, or free memory; then go on with --resume",
    )
