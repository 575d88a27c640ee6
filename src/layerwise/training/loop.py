"""The loop: a generator. Logging, validation, checkpoints, early stopping and the progress bar are ordinary code around
it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from layerwise.data.loader import Batches
from layerwise.rules.base import Rule, Step, Verdict


class Cursor(NamedTuple):
    """Where training is: batches *consumed*, so (stage, epoch, position) is the next batch to learn from."""

    stage: int = 0
    epoch: int = 0
    position: int = 0


class Event(NamedTuple):
    """One step was taken. ``cursor`` points behind it; ``verdict`` is the rule's word at the end of an epoch, else
    None."""

    cursor: Cursor
    step: Step
    progress: float
    verdict: Verdict | None


def steps(rule: Rule, batches: Batches, epochs: int, start: Cursor) -> Iterator[Event]:
    """Learn from batch after batch, from ``start`` to the end of the last epoch, and yield after each step.

    Progress is the part of the stage's steps that lie behind. Leaving the iteration early (``break``) ends the stage.
    """
    per_epoch, position = batches.per_epoch, start.position
    total = max(1, epochs * per_epoch)
    for epoch in range(start.epoch, epochs):
        for batch in batches.epoch(epoch, position):
            step = rule.step(batch, (epoch * per_epoch + position) / total)
            position += 1
            last = position == per_epoch
            verdict = rule.end_epoch() if last else None
            cursor = Cursor(start.stage, epoch + 1, 0) if last else Cursor(start.stage, epoch, position)
            yield Event(cursor, step, (epoch * per_epoch + position) / total, verdict)
        position = 0
