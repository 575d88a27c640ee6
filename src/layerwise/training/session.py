"""A training run: what is done with the events of the loop. Logging, validation, checkpoints, early stopping,
resume."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from layerwise.data.batching import EVALUATED, Feed
from layerwise.data.loader import Batch, Batches
from layerwise.data.source import Source, fetch
from layerwise.errors import Interrupted, TrainingError
from layerwise.inference.evaluate import evaluate, undefined_notes
from layerwise.inference.predict import evaluating
from layerwise.nn.modes import learning
from layerwise.planning import build
from layerwise.planning.resolve import Plan
from layerwise.recipe import LAST, Stage
from layerwise.rules.base import NonFiniteLoss, Rule, first_bad_layer
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.runtime import machine, rng
from layerwise.runtime.checksums import contiguous, is_finite, sealed
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import augmented, collating, paired
from layerwise.tasks.base import Task
from layerwise.training.batch_norm_checks import refuse_lonely_batch
from layerwise.training.execution import choose_kernels, fix_kernels, set_ways
from layerwise.training.loop import Cursor, Event, steps
from layerwise.training.meters import Best, Window, goal_of, monitored, undefined
from layerwise.training.progress import Display, numbers
from layerwise.training.resume_checks import differing, name_state_file
from layerwise.training.signals import Stop
from layerwise.training.trackers import FOLDER, Guarded, TensorBoard


class Session:
    """Trains a plan's model inside a run directory, from the start or from a checkpoint."""

    def __init__(
        self, plan: Plan, directory: RunDirectory, *, world: World, feed: Feed, display: Display, stop: Stop
    ) -> None:
        self.plan, self.directory, self.world, self.feed = plan, directory, world, feed
        self.display, self.stop = display, stop
        self.options = plan.recipe.train
        self.device = world.device
        self.model = self._built()
        self.best = Best()
        self.window = Window()
        self.serial = self.best_serial = 0  # of the newest checkpoint, and of the newest best one that is on the disk
        self.notes: list[tuple[str, str]] = []
        self.history: list[dict[str, Any]] = []
        self.trackers: list[Guarded] = []
        self.spent = 0.0
        self.may_differ = False  # whether a checkpoint may be of a changed recipe
        self.steps = self.examples = 0
        self.pending: Checkpoint | None = None  # the best weights, until the next save writes them
        self.began = self.saved_at = time.monotonic()

    def _built(self) -> nn.Module:
        """Build the model with weights drawn from the run's seed, whatever was drawn before, computing in the ways of
        the run's flags."""
        model = build.network(self.plan, self.device)
        self.feed.flags = set_ways(model, self.feed.flags, tiles=self.options.tiles and not self.options.compile)
        fix_kernels(model, self.feed.flags)
        if self.options.compile:
            # in place, so the keys of its weights stay its own; on CUDA launching a small network's kernels takes
            # longer than their work
            model.compile(mode="reduce-overhead" if self.device.type == "cuda" else None)
        return model

    def check(self, resumed: Checkpoint | None) -> None:
        """Make sure that each stage that is to come can begin, before anything is written.

        Raises `UsageError` for a rule or batches that do not go with the network, `DataError` for data that cannot be
        read.
        """
        first = 0 if resumed is None else Cursor(*resumed.info["cursor"]).stage
        for number, stage in enumerate(self.plan.recipe.stages[first:], start=first):
            task, source, part = (
                self.plan.stage_tasks[number],
                self.plan.training(stage),
                build.part_of(self.model, stage),
            )
            build.rule_of(self.plan, number, self.model, part, stage=stage, task=task, source=source, world=self.world)
            if stage.epochs:
                batches = build.batches_of(self.plan, number, world=self.world)
                example = task.collate(fetch(source, [0])).to(self.device, self.feed.dtype)
                refuse_lonely_batch(part, batches, stage, self.world, example=example)

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self, resumed: Checkpoint | None) -> dict[str, float]:
        """Train all stages and return the metrics of the best weights on validation and test parts."""
        start = Cursor()
        if resumed is not None:
            start = self._take_up(resumed)
        elif self.world.first:
            self.directory.cut_metrics(0)  # an attempt that was killed before its first checkpoint may have left lines
        if self.options.tensorboard and self.world.first:
            make = partial(TensorBoard, self.directory.path / FOLDER, step=self.steps)
            self.trackers.append(Guarded("tensorboard", make, say=self.display.say))
        for number in range(start.stage, len(self.plan.recipe.stages)):
            begin = start if number == start.stage else Cursor(number)
            self._stage(number, begin, resumed if number == start.stage else None)
            resumed = None
        return self.final_metrics()

    def final_metrics(self) -> dict[str, float]:
        """Return the metrics of the weights the model now holds. The test part is read here, once."""
        metrics: dict[str, float] = {}
        machine.give_back()  # what training held
        for part in ("val", "test"):
            batches = self.feed.evaluation(self.plan.splits.part(part), self.plan.task.collate)
            found = evaluate(self.model, self.plan.task, batches, self.world, full=True)
            named = {f"{part}/{name}": value for name, value in found.metrics.items()}
            metrics |= named
            self._note(undefined_notes(named, found.overflowed))
        return metrics

    def _note(self, notes: list[tuple[str, str]]) -> None:
        """Keep notes, in English and Chinese, for the report, and show them."""
        for note in notes:
            if note not in self.notes:
                self.notes.append(note)
                self.display.say(note[0])

    def _take_up(self, checkpoint: Checkpoint) -> Cursor:
        """Take up weights, cursor and records of a checkpoint; cut the log back to it."""
        info = checkpoint.info
        self.model.load_state_dict(checkpoint.model)
        self.best = Best(**info["best"])
        self.serial, self.spent, self.best_serial = info["serial"], info["seconds"], info["best_serial"]
        self.steps, self.examples = info["steps"], info["examples"]
        self.notes = [(a, b) for a, b in info["notes"]]
        self.history = info["history"]
        if self.world.first:
            self.directory.cut_metrics(info["metrics_bytes"])
        cursor = Cursor(*info["cursor"])
        batch = self.plan.recipe.stages[cursor.stage].batch
        old = info.get("batch", batch)  # positions count batches: with another size the same example is elsewhere
        return cursor._replace(position=cursor.position * old // batch)

    def _stage(self, number: int, start: Cursor, resumed: Checkpoint | None) -> None:
        """Train one stage, then put its best weights into the model."""
        stage, task = self.plan.recipe.stages[number], self.plan.stage_tasks[number]
        source = self.plan.training(stage)
        part = build.part_of(self.model, stage)
        rule = build.rule_of(
            self.plan, number, self.model, part, stage=stage, task=task, source=source, world=self.world
        )
        batches = self._batches(number, source, part) if stage.epochs else None  # without an epoch nothing is read
        if resumed is not None:
            self._take_up_state(resumed.state, rule)
        else:
            self.best, self.window = Best(stage=number), Window()
            torch.manual_seed(rng.key(self.options.seed, "stage", number, self.world.rank))
            if self.options.checkpoint_seconds:
                self._save(start, rule)  # so that `best` may become this stage's: the last stage's is in the weights
        if batches is None:
            if self.directory.restore("best") is None:  # the weights that a run begins with are what it is about
                self._keep_best(start, rule, write=True)
        else:
            machine.give_back()  # what preparing the data held
            self.display.stage(stage.name, stage.epochs * batches.per_epoch)
            if resumed is None or not resumed.info["stage_over"]:
                learning(part)
                for event in steps(rule, batches, stage.epochs, start):
                    if self._after(event, rule, stage, part=part, task=task, batches=batches):
                        break
        self._close(number)

    def _batches(self, number: int, source: Source, part: nn.Module) -> Batches:
        """Return a stage's training batches, its changes to images included."""
        stage, task = self.plan.recipe.stages[number], self.plan.stage_tasks[number]
        batches = self.feed.training(
            source,
            collating(task, stage.augment),
            batch=stage.batch,
            seed=self.options.seed,
            stage=number,
            paired=paired(stage.augment),
        )
        example = task.collate(fetch(source, [0])).to(self.device, self.feed.dtype)
        self._choose_kernels(part, task, example, most=max(stage.batch, EVALUATED))
        return augmented(
            batches, task.inputs, stage.augment, seed=self.options.seed, stage=number, dtype=self.feed.dtype
        )

    def _choose_kernels(self, part: nn.Module, task: Task, example: Batch, *, most: int) -> None:
        """Choose the kernels of a stage's convolutions, which its checkpoints record in the flags."""

        def run() -> None:
            with evaluating(part, self.device):
                task.outputs(part, example)

        self.feed.flags = choose_kernels(part, self.feed.flags, run, most=most, world=self.world)

    def _take_up_state(self, state: dict[str, Tensor], rule: Rule) -> None:
        """Take up a rule's state, the random states and the window of the log."""
        prefix = f"rank{self.world.rank}."
        mine = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        shared = {name: t for name, t in state.items() if not name.startswith("rank")} | mine
        saved = {n.removeprefix("rule."): t for n, t in shared.items() if n.startswith("rule.")}
        wanted = {n: (t.shape, t.dtype) for n, t in rule.state_dict().items()}
        with name_state_file(self.directory.path):
            if {n: (t.shape, t.dtype) for n, t in saved.items()} == wanted:
                rule.load_state_dict(saved)
            elif self.may_differ:  # an allowed change: another optimizer, say
                self.display.say("the rule's own state does not fit the changed recipe and starts afresh")
            else:
                raise ValueError(f"'rule.{differing(wanted, saved)}' is not what the rule saves")
            self.window = Window.of(shared, self.device)
            rng.restore(shared, self.device)

    def _after(self, event: Event, rule: Rule, stage: Stage, *, part: nn.Module, task: Task, batches: Batches) -> bool:
        """Do what is due after a step. Returns whether the stage is over before its budget."""
        self.window.add(event)
        self.steps += 1
        behind = (event.cursor.position or batches.per_epoch) - 1
        self.examples += min(stage.batch, batches.examples - behind * stage.batch)  # over all ranks
        over = False
        if event.verdict is not None:
            over = self._epoch_over(event, rule, stage, part=part, task=task)
        elif self.window.count >= self.options.log_every:
            self._log(event.cursor, stage, metrics={})
        if event.verdict is not None or self.window.count == 0:
            self.display.advance(event.cursor.epoch * batches.per_epoch + event.cursor.position)
        self._between(event, rule, over=over)
        return over

    def _between(self, event: Event, rule: Rule, *, over: bool) -> None:
        """Between two steps: save if it is time, stop if asked. Ranks agree where they meet at the log's lines."""
        inside = event.verdict is None
        due = inside and 0 < self.options.checkpoint_seconds <= time.monotonic() - self.saved_at
        stop = self.stop.asked
        if self.world.size > 1:
            if inside and self.window.count:
                return
            due, stop = self.world.any(due, stop)
        if due or (stop and (inside or not self.options.checkpoint_seconds)):
            self._check_finite()
            self._save(event.cursor, rule, stage_over=over)
        if stop:
            raise Interrupted(
                f"stopped by a signal in stage {event.cursor.stage + 1}, epoch {event.cursor.epoch + 1}; a "
                "checkpoint was saved",
                do=f"go on with: layerwise train {self.directory.path / 'recipe.toml'} --resume",
            )

    def _epoch_over(self, event: Event, rule: Rule, stage: Stage, *, part: nn.Module, task: Task) -> bool:
        """Validate, keep the best, save. Returns whether the stage is over before its budget."""
        verdict, goal = event.verdict, goal_of(stage, task)
        assert verdict is not None
        self._check_finite()
        metrics: dict[str, float] = {}
        improved, over = False, verdict.finished
        due = bool(self.options.checkpoint_seconds) and (
            over or event.cursor.epoch == stage.epochs or self._worth_saving()
        )
        if self.options.validate:
            with rule.evaluated():
                found = evaluate(
                    part, task, self.feed.evaluation(self.plan.splits.val, task.collate), self.world
                ).metrics
                metrics = {f"val/{name}": value for name, value in found.items()}
                value = monitored(metrics, goal)
                improved = stage.monitor == LAST or self.best.better(value, goal)
                waited = 0 if improved else self.best.waited + 1
                if improved or self.best.value is None:  # until a metric is finite, the last epoch's weights are kept
                    self.best = Best(
                        event.cursor.stage, value if math.isfinite(value) else None, event.cursor.epoch, waited
                    )
                    self._keep_best(event.cursor, rule, write=due)
                self.best.waited = waited
            over = over or (stage.patience > 0 and self.best.waited >= stage.patience)
        learning(part)
        if verdict.note and (verdict.finished or event.cursor.epoch == stage.epochs):
            self.notes.append((verdict.note, verdict.note_zh))
            self.display.say(verdict.note)
        self._log(event.cursor, stage, metrics=metrics, epoch_over=True)
        if over or event.cursor.epoch == stage.epochs:
            self._note(undefined(self.history, stage.name, goal, last=stage.monitor == LAST))
        if not self.options.validate and (over or event.cursor.epoch == stage.epochs):
            with rule.evaluated():
                self._keep_best(event.cursor, rule, write=due)
        if due or (over and self.options.checkpoint_seconds):
            self._save(event.cursor, rule, stage_over=over)
        return over

    def _worth_saving(self) -> bool:
        """Whether a second has passed since the last save: epochs shorter than that share one, as nothing but that
        second is lost."""
        return self.world.any(time.monotonic() - self.saved_at >= min(1.0, self.options.checkpoint_seconds))[0]

    def _close(self, number: int) -> None:
        """End a stage with its best weights in the model."""
        self._write_pending()
        best = self.directory.restore("best")
        if best is not None and best.info["best"]["stage"] == number:
            self.model.load_state_dict(best.model)
        self.world.barrier()

    # -- log -------------------------------------------------------------------------------------------------------

    def _log(self, cursor: Cursor, stage: Stage, *, metrics: dict[str, float], epoch_over: bool = False) -> None:
        """Write a line of metrics.jsonl and show it. Raises `TrainingError` when the loss is no longer finite."""
        train = self.window.metrics(self.world)
        self._refuse_non_finite(train)
        row = {
            "stage": stage.name,
            "step": self.steps,
            "epoch": cursor.epoch if epoch_over else cursor.epoch + 1,
            "examples": self.examples,
            "seconds": round(self.seconds(), 3),
            **train,
            **metrics,
        }
        speed = self.window.speed()
        self.window = Window()
        self.display.show(numbers({**train, **metrics}) + speed)
        if epoch_over:
            self.history.append({"stage": stage.name, "epoch": cursor.epoch, **train, **metrics})
            self.display.say(
                f"{stage.name}  epoch {cursor.epoch}/{stage.epochs}  {numbers({**train, **metrics})}{speed}"
            )
        if self.world.first:
            self.directory.append_metrics(row)
            for tracker in self.trackers:
                tracker.write(row)

    def seconds(self) -> float:
        """Return the seconds of training so far, earlier sittings included."""
        return self.spent + time.monotonic() - self.began

    # -- faults ----------------------------------------------------------------------------------------------------

    def _check_finite(self) -> None:
        """Refuse to go on (and to save) with weights that are not finite."""
        for name, parameter in self.model.named_parameters():
            if not is_finite(parameter):
                self._post_mortem({"layer": f"'{name}' (weights)", "terms": {}, "examples": []})
                raise TrainingError(
                    f"the weights '{name}' are no longer finite",
                    do="lower rule.lr or set rule.clip=1; the last checkpoint is intact",
                )

    def _refuse_non_finite(self, train: dict[str, float]) -> None:
        """Stop on a loss that is not finite, where the rule could not look for itself without waiting for the
        device."""
        bad = {name: value for name, value in train.items() if value != value or abs(value) == float("inf")}
        if bad:
            layer = first_bad_layer(self.model, self._some_batch())
            self._post_mortem({"layer": layer, "terms": {n: str(v) for n, v in bad.items()}, "examples": []})
            raise TrainingError(
                f"the loss is not finite ({numbers(bad)}); the first layer with a non-finite value is {layer}",
                expected="a finite loss",
                do="lower rule.lr or set rule.clip=1; the last checkpoint is intact",
            )

    def _some_batch(self) -> Batch:
        """Return a batch of validation examples, to look at the layers with."""
        return next(iter(self.feed.evaluation(self.plan.splits.val, self.plan.task.collate).epoch(0)))

    def _post_mortem(self, report: dict[str, Any]) -> None:
        """Write what is known of a non-finite loss into the run directory."""
        if self.world.first:
            self.directory.write("failure.json", sealed({k: _plain(v) for k, v in report.items()}))

    def failed(self, error: NonFiniteLoss) -> None:
        """Save the loss's terms, the first bad layer and the batch's example numbers (F19)."""
        self._post_mortem(dict(error.report))

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _checkpoint(self, cursor: Cursor, rule: Rule, *, stage_over: bool) -> Checkpoint:
        """Gather everything an exact resume needs; every rank's own part under its number."""
        mine = {f"rule.{n}": t for n, t in rule.state_dict().items()} | self.window.tensors() | rng.states(self.device)
        state = mine
        if self.world.size > 1:
            ranks = self.world.gather({n: t.to(self.device) for n, t in mine.items()})
            state = {f"rank{r}.{n}": t for r, tensors in enumerate(ranks) for n, t in tensors.items()}
        info = {
            "cursor": list(cursor),
            "batch": self.plan.recipe.stages[cursor.stage].batch,
            "stage_over": stage_over,
            "serial": self.serial,
            "best": asdict(self.best),
            "best_serial": self.best_serial,
            "seconds": self.seconds(),
            "steps": self.steps,
            "examples": self.examples,
            "notes": self.notes,
            "history": self.history,
            "metrics_bytes": self.directory.metrics_size(),
            "world": self.world.size,
            "flags": msgspec.to_builtins(self.feed.flags),
        }
        return Checkpoint(self.model.state_dict(), state, info)

    def _save(self, cursor: Cursor, rule: Rule, *, stage_over: bool = False) -> None:
        """Save the newest state as ``last``, after the best one if that is not on the disk yet."""
        self._write_pending()
        self.serial += 1
        checkpoint = self._checkpoint(cursor, rule, stage_over=stage_over)
        if self.world.first:
            self.directory.save("last", checkpoint)
        self.world.barrier()
        self.saved_at = time.monotonic()

    def _keep_best(self, cursor: Cursor, rule: Rule, *, write: bool) -> None:
        """Write the weights that the model now holds (averaged ones, where there are any) as ``best``, or keep them for
        the next save.

        A kill before that save takes training back to before this epoch, which then finds the same best again.
        """
        self.serial += 1
        self.pending = found = self._checkpoint(cursor, rule, stage_over=False)
        if write:
            self._write_pending()
        else:
            self.pending = found._replace(model=contiguous(found.model), state=contiguous(found.state))

    def _write_pending(self) -> None:
        """Write the best weights kept in memory."""
        if self.pending is not None:
            if self.world.first:
                self.directory.save("best", self.pending)
            self.best_serial = int(self.pending.info["serial"])
        self.pending = None
        self.world.barrier()


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
