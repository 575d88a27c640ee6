"""Ctrl-C and SIGTERM: finish the step, save, leave with the documented exit code (F24)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Note the signal. A second one is not caught: it ends the process at once."""
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def caught() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM inside; put the old handlers back. Outside the main thread nothing is caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
