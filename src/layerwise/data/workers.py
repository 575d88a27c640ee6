"""The loader's workers: room for what they hand over, an orderly end, and the word that one of them is lost.

torch watches its workers by a handler of SIGCHLD that raises wherever the program happens to be: in a step, while a
checkpoint is written, in the destructor that clears up after another error, where it can only be printed. Here the word
is kept until the next batch is asked for, the one place where it can be acted on.
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

SHARED = Path("/dev/shm")
T = TypeVar("T")


@contextmanager
def at_work(loader: DataLoader[T]) -> Iterator[Iterator[T]]:
    """Start a loader's worker processes, give their batches, and end them with the ``with`` block.

    Raises `TrainingError` where a worker died or stayed silent for the loader's timeout, when the next batch is asked
    for.
    """
    try:
        batches = iter(loader)
        with _listening() as listener:
            try:
                yield batches if listener is None else listener.heard_in(batches)
            finally:
                batches._shutdown_workers()  # type: ignore[attr-defined]  # by the destructor it comes when the last traceback is gone
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _tells_of_workers(error):
            raise
        raise _lost(error) from error


def refuse_small_shared_memory(needed: int) -> None:
    """Raise `TrainingError` where /dev/shm, through which workers hand over batches, is smaller than the batches under
    way."""
    if not SHARED.is_dir():
        return
    free = shutil.disk_usage(SHARED).free
    if free < needed:
        raise TrainingError(
            f"{SHARED} is too small for the loader's workers",
            expected=f"{needed / 2**20:.1f} MiB free",
            received=f"{free / 2**20:.1f} MiB",
            do="set train.workers=-1 to load in the training process, use a smaller --batch, or give a container more "
            "(docker run --shm-size=1g)",
        )


@final
class _Listener:
    """A handler of SIGCHLD around torch's: what that one raises comes out while a batch is waited for, or else before
    the next."""

    def __init__(self, theirs: Callable[[int, FrameType | None], Any]) -> None:
        self.theirs = theirs
        self.users = 0
        self._waiting = False
        self._error: RuntimeError | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.theirs(number, frame)
        except RuntimeError as error:
            if self._waiting:
                raise
            self._error = error

    def heard_in(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches; raise what torch's handler raised since the last, or raises now."""
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
def _listening() -> Iterator[_Listener | None]:
    """Put a listener in the place of torch's handler, one for all streams that are open; None where torch has put
    none."""
    here = signal.getsignal(signal.SIGCHLD) if _may_set_handlers() else None
    if not callable(here):
        yield None
        return
    listener = here if isinstance(here, _Listener) else _Listener(here)
    listener.users += 1
    signal.signal(signal.SIGCHLD, listener)
    try:
        yield listener
    finally:
        listener.users -= 1
        if not listener.users and _may_set_handlers():  # a collector may close a stream on any thread
            signal.signal(signal.SIGCHLD, listener.theirs)


def _may_set_handlers() -> bool:
    """Whether this thread of this system may: elsewhere torch has no handler either, and finds a lost worker by
    asking."""
    return hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()


def _tells_of_workers(error: Exception) -> bool:
    """Whether an error says that a loader worker is gone."""
    text = str(error).lower()
    signs = ("dataloader worker", "dataloader timed out", "shared memory")
    return isinstance(error, ConnectionError | EOFError) or any(sign in text for sign in signs)


def _lost(error: Exception) -> TrainingError:
    """Make the error for a lost loader worker, with the cause that torch gives."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()] or [type(error).__name__]
    causes = [text for text in lines if text.startswith(("RuntimeError:", "OSError:", "Error:"))]
    return TrainingError(
        f"a loader worker was lost: {causes[-1] if causes else lines[0]}",
        expected="every worker alive, answering within train.timeout, with room in /dev/shm",
        do="set train.workers=-1 to load in the training process, or free memory; then go on with --resume",
    )
