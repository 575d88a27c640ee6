"""The training loop: a generator that learns batch after batch, and the signals that ask it to stop.

Logging, validation, checkpoints, early stopping and the progress bar are ordinary code around it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from layerwise.data.loader import Batches
from layerwise.rules.base import Rule, Step, Verdict


class Cursor(NamedTuple):
    """Where training is: batches *consumed*, so (stage, epoch, position) is the next batch to learn from."""

    stage: int = 0
    epoch: int = 0
    position: int = 0


class Event(NamedTuple):
    """One step was taken. ``cursor`` points behind it; ``verdict`` is the rule's at the end of an epoch, else None."""

    cursor: Cursor
    step: Step
    progress: float
    verdict: Verdict | None


def run_steps(rule: Rule, batches: Batches, epochs: int, start: Cursor) -> Iterator[Event]:
    """Learn from batch after batch, from ``start`` to the end of the last epoch, and yield after each step.

    Progress is the share of the stage's steps that are done. Leaving the iteration early (``break``) ends the stage.
    """
    per_epoch, position = batches.per_epoch, start.position
    total = max(1, epochs * per_epoch)
    for epoch in range(start.epoch, epochs):
        for batch in batches.iterate(epoch, position):
            step = rule.step(batch, (epoch * per_epoch + position) / total)
            position += 1
            last = position == per_epoch
            verdict = rule.end_epoch() if last else None
            cursor = Cursor(start.stage, epoch + 1, 0) if last else Cursor(start.stage, epoch, position)
            yield Event(cursor, step, (epoch * per_epoch + position) / total, verdict)
        position = 0


class StopRequest:
    """Whether a signal asked the process to stop: to finish the step, save, and leave with the documented exit code."""

    def __init__(self) -> None:
        self.received = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal. A second one is not caught: it ends the process at once."""
        self.received = True
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside; restore the old handlers at the end. Only the main thread can catch them."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
