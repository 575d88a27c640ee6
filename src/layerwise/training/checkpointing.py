"""Checkpoints of a run: what training accumulates beside the weights, how it is saved, and how a resume restores it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
from torch import Tensor, nn

from layerwise.data.batching import BatchFactory
from layerwise.planning.resolve import Plan
from layerwise.rules.base import Rule
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.runtime import rng
from layerwise.runtime.checksums import copy_contiguous
from layerwise.runtime.distributed import World
from layerwise.training.checks import find_difference, name_state_file
from layerwise.training.loop import Cursor
from layerwise.training.meters import BestEpoch, MetricAverager
from layerwise.training.progress import Display


@dataclass
class TrainingState:
    """What a run accumulates while it trains, beside the weights and the state of its rule."""

    best: BestEpoch = field(default_factory=BestEpoch)
    averager: MetricAverager = field(default_factory=MetricAverager)
    notes: list[tuple[str, str]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    examples: int = 0
    previous_seconds: float = 0.0  # of the processes that trained before a resume
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return the seconds of training so far, those before a resume included."""
        return self.previous_seconds + time.monotonic() - self.started


class Checkpointer:
    """Saves a run's checkpoints ``last`` and ``best``, and restores them.

    The best weights may wait in memory for the next save. A kill before that save takes training back to an earlier
    epoch, which then finds the same best weights again.
    """

    def __init__(
        self,
        plan: Plan,
        directory: RunDirectory,
        model: nn.Module,
        state: TrainingState,
        *,
        world: World,
        batch_factory: BatchFactory,
    ) -> None:
        self.plan, self.directory, self.model, self.state = plan, directory, model, state
        self.world, self.batch_factory = world, batch_factory
        self.seconds_between = plan.recipe.train.checkpoint_seconds  # 0: only the best weights are saved
        self.serial = 0  # of the newest checkpoint
        self.best_serial = 0  # of the newest best checkpoint on the disk
        self.pending: Checkpoint | None = None  # the best weights, until the next save writes them
        self.saved_at = time.monotonic()

    # -- save ------------------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether it is time for a save within an epoch."""
        return 0 < self.seconds_between <= time.monotonic() - self.saved_at

    def is_due_after_epoch(self) -> bool:
        """Whether a second has passed since the last save, on any rank: shorter epochs share a save, since a kill
        loses no more than that second."""
        return self.world.any(time.monotonic() - self.saved_at >= min(1.0, self.seconds_between))[0]

    def save(self, cursor: Cursor, rule: Rule, *, stage_over: bool = False) -> None:
        """Save the newest state as ``last``, after the best one if that is not on the disk yet."""
        self.write_pending()
        self.serial += 1
        checkpoint = self._build_checkpoint(cursor, rule, stage_over=stage_over)
        if self.world.is_first:
            self.directory.save("last", checkpoint)
        self.world.barrier()
        self.saved_at = time.monotonic()

    def save_best(self, cursor: Cursor, rule: Rule, *, write: bool) -> None:
        """Write the model's current weights (averaged ones, if any) as ``best``, or hold them for the next save."""
        self.serial += 1
        self.pending = checkpoint = self._build_checkpoint(cursor, rule, stage_over=False)
        if write:
            self.write_pending()
        else:
            self.pending = checkpoint._replace(
                model=copy_contiguous(checkpoint.model), state=copy_contiguous(checkpoint.state)
            )

    def write_pending(self) -> None:
        """Write the best weights that are held in memory."""
        if self.pending is not None:
            if self.world.is_first:
                self.directory.save("best", self.pending)
            self.best_serial = int(self.pending.info["serial"])
        self.pending = None
        self.world.barrier()

    def _build_checkpoint(self, cursor: Cursor, rule: Rule, *, stage_over: bool) -> Checkpoint:
        """Collect everything that an exact resume needs; each rank's own tensors are named by its number."""
        state = self.state
        tensors = {f"rule.{n}": t for n, t in rule.state_dict().items()}
        tensors |= state.averager.state_dict() | rng.get_states(self.world.device)
        if self.world.size > 1:
            ranks = self.world.gather({n: t.to(self.world.device) for n, t in tensors.items()})
            tensors = {f"rank{r}.{n}": t for r, named in enumerate(ranks) for n, t in named.items()}
        info = {
            "cursor": list(cursor),
            "batch": self.plan.recipe.stages[cursor.stage].batch_size,
            "stage_over": stage_over,
            "serial": self.serial,
            "best": asdict(state.best),
            "best_serial": self.best_serial,
            "seconds": state.seconds(),
            "steps": state.steps,
            "examples": state.examples,
            "notes": state.notes,
            "history": state.history,
            "metrics_bytes": self.directory.get_metrics_size(),
            "world": self.world.size,
            "flags": msgspec.to_builtins(self.batch_factory.settings),
        }
        return Checkpoint(self.model.state_dict(), tensors, info)

    # -- restore ---------------------------------------------------------------------------------------------------

    def restore(self, checkpoint: Checkpoint) -> Cursor:
        """Restore weights and records of a checkpoint, and cut the log back to it. Return its cursor."""
        info, state = checkpoint.info, self.state
        self.model.load_state_dict(checkpoint.model)
        state.best = BestEpoch(**info["best"])
        self.serial, state.previous_seconds, self.best_serial = info["serial"], info["seconds"], info["best_serial"]
        state.steps, state.examples = info["steps"], info["examples"]
        state.notes = [(english, chinese) for english, chinese in info["notes"]]
        state.history = info["history"]
        if self.world.is_first:
            self.directory.truncate_metrics(info["metrics_bytes"])
        cursor = Cursor(*info["cursor"])
        size = self.plan.recipe.stages[cursor.stage].batch_size
        old_size = info.get("batch", size)  # positions count batches: with another size the same example is elsewhere
        return cursor._replace(position=cursor.position * old_size // size)

    def restore_rule(self, tensors: dict[str, Tensor], rule: Rule, *, allow_changes: bool, display: Display) -> None:
        """Restore a rule's state, the random states and the sums since the last line of the log.

        ``allow_changes``: a rule whose state does not fit (another optimizer, say) starts afresh.
        """
        prefix = f"rank{self.world.rank}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        tensors = {name: t for name, t in tensors.items() if not name.startswith("rank")} | own
        saved = {n.removeprefix("rule."): t for n, t in tensors.items() if n.startswith("rule.")}
        expected = {n: (t.shape, t.dtype) for n, t in rule.state_dict().items()}
        with name_state_file(self.directory.path):
            if {n: (t.shape, t.dtype) for n, t in saved.items()} == expected:
                rule.load_state_dict(saved)
            elif allow_changes:
                display.say("the rule's own state does not fit the changed recipe and starts afresh")
            else:
                raise ValueError(f"'rule.{find_difference(expected, saved)}' is not what the rule saves")
            self.state.averager = MetricAverager.from_state_dict(tensors, self.world.device)
            rng.restore_states(tensors, self.world.device)

    def load_best(self, stage: int) -> None:
        """Load the best weights of a stage into the model."""
        self.write_pending()
        best = self.directory.restore("best")
        if best is not None and best.info["best"]["stage"] == stage:
            self.model.load_state_dict(best.model)
        self.world.barrier()
