"""A training session: run the stages of a plan, with logging, validation, early stopping and checks for NaN."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from layerwise.data.batch import Batch
from layerwise.data.batching import EVAL_BATCH_SIZE, BatchFactory
from layerwise.data.loader import Batches
from layerwise.data.source import Source, fetch
from layerwise.errors import Interrupted, TrainingError
from layerwise.inference.evaluate import evaluate, find_undefined_metrics
from layerwise.inference.predict import inference_context
from layerwise.nn.modes import train_mode
from layerwise.planning import build
from layerwise.planning.resolve import Plan
from layerwise.recipe import LAST, Stage
from layerwise.rules.base import NonFiniteLoss, Rule, find_first_bad_layer
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.runtime import machine, rng
from layerwise.runtime.checksums import dump_checksummed, is_finite
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import augment_batches, choose_collate, has_mixing
from layerwise.tasks.base import Goal, Task
from layerwise.training.checkpointing import Checkpointer, TrainingState
from layerwise.training.checks import check_batch_norm_batches
from layerwise.training.execution import choose_kernels, configure_execution, fix_kernels
from layerwise.training.loop import Cursor, Event, StopRequest, run_steps
from layerwise.training.meters import (
    BestEpoch,
    MetricAverager,
    describe_undefined_metrics,
    get_goal,
    get_monitored_metric,
)
from layerwise.training.progress import Display, format_metrics
from layerwise.training.trackers import FOLDER, FailSafeTracker, TensorBoard


class Session:
    """Trains a plan's model inside a run directory, from the start or from a checkpoint.

    ``allow_changes``: a resume may have another recipe than its checkpoint.
    """

    def __init__(
        self,
        plan: Plan,
        directory: RunDirectory,
        *,
        world: World,
        batch_factory: BatchFactory,
        display: Display,
        stop: StopRequest,
        allow_changes: bool = False,
    ) -> None:
        self.plan, self.directory, self.world, self.batch_factory = plan, directory, world, batch_factory
        self.display, self.stop, self.allow_changes = display, stop, allow_changes
        self.options = plan.recipe.train
        self.device = world.device
        self.model = self._build_model()
        self.state = TrainingState()
        self.checkpointer = Checkpointer(
            plan, directory, self.model, self.state, world=world, batch_factory=batch_factory
        )
        self.trackers: list[FailSafeTracker] = []

    def _build_model(self) -> nn.Module:
        """Build the model with weights drawn from the run's seed, whatever was drawn before, and set it up as the run's
        flags say."""
        model = build.build_model(self.plan, self.device)
        winograd = self.options.winograd and not self.options.compile
        self.batch_factory.settings = configure_execution(model, self.batch_factory.settings, winograd=winograd)
        fix_kernels(model, self.batch_factory.settings)
        if self.options.compile:
            # in place, so the keys of its weights stay its own; on CUDA launching a small network's kernels takes
            # longer than their work
            model.compile(mode="reduce-overhead" if self.device.type == "cuda" else None)
        return model

    def check(self, resumed: Checkpoint | None) -> None:
        """Check, before anything is written, that each coming stage can begin.

        Raises `UsageError` for a rule or batches that do not fit the network, `DataError` for data that cannot be read.
        """
        first = 0 if resumed is None else Cursor(*resumed.info["cursor"]).stage
        for number, stage in enumerate(self.plan.recipe.stages[first:], start=first):
            task, source = self.plan.stage_tasks[number], self.plan.get_training_source(stage)
            part = build.get_part(self.model, stage)
            build.build_rule(
                self.plan, number, self.model, part, stage=stage, task=task, source=source, world=self.world
            )
            if stage.epochs:
                batches = build.build_batches(self.plan, number, world=self.world)
                example = task.collate(fetch(source, [0])).to(self.device, self.batch_factory.dtype)
                check_batch_norm_batches(part, batches, stage, self.world, example=example)

    # -- stages ----------------------------------------------------------------------------------------------------

    def run(self, resumed: Checkpoint | None) -> dict[str, float]:
        """Train all stages and return the metrics of the best weights on validation and test parts."""
        start = Cursor()
        if resumed is not None:
            start = self.checkpointer.restore(resumed)
        elif self.world.is_first:
            self.directory.truncate_metrics(
                0
            )  # an attempt that was killed before its first checkpoint may have left lines
        if self.options.tensorboard and self.world.is_first:
            tracker = partial(TensorBoard, self.directory.path / FOLDER, step=self.state.steps)
            self.trackers.append(FailSafeTracker("tensorboard", tracker, say=self.display.say))
        for number in range(start.stage, len(self.plan.recipe.stages)):
            begin = start if number == start.stage else Cursor(number)
            self._train_stage(number, begin, resumed if number == start.stage else None)
            resumed = None
        return self.compute_final_metrics()

    def compute_final_metrics(self) -> dict[str, float]:
        """Return the metrics of the model's current weights. The test part is read here, once."""
        metrics: dict[str, float] = {}
        machine.release_free_memory()  # what training held
        for part in ("val", "test"):
            batches = self.batch_factory.evaluation_batches(self.plan.splits.part(part), self.plan.task.collate)
            evaluation = evaluate(self.model, self.plan.task, batches, self.world, full=True)
            named = {f"{part}/{name}": value for name, value in evaluation.metrics.items()}
            metrics |= named
            self._add_notes(find_undefined_metrics(named, evaluation.overflowed))
        return metrics

    def _add_notes(self, notes: list[tuple[str, str]]) -> None:
        """Add notes, in English and Chinese, to the report, and show them."""
        for note in notes:
            if note not in self.state.notes:
                self.state.notes.append(note)
                self.display.say(note[0])

    def _train_stage(self, number: int, start: Cursor, resumed: Checkpoint | None) -> None:
        """Train one stage, then load its best weights into the model."""
        stage, task = self.plan.recipe.stages[number], self.plan.stage_tasks[number]
        source = self.plan.get_training_source(stage)
        part = build.get_part(self.model, stage)
        rule = build.build_rule(
            self.plan, number, self.model, part, stage=stage, task=task, source=source, world=self.world
        )
        batches = self._build_batches(number, source, part) if stage.epochs else None  # no epoch reads no data
        if resumed is not None:
            self.checkpointer.restore_rule(resumed.state, rule, allow_changes=self.allow_changes, display=self.display)
        else:
            self.state.best, self.state.averager = BestEpoch(stage=number), MetricAverager()
            torch.manual_seed(rng.derive_seed(self.options.seed, "stage", number, self.world.rank))
            if self.options.checkpoint_seconds:
                self.checkpointer.save(start, rule)  # `best` may now become this stage's: the weights hold the last's
        if batches is None:
            if self.directory.restore("best") is None:  # a run without epochs is about its first weights
                self.checkpointer.save_best(start, rule, write=True)
        else:
            machine.release_free_memory()  # what preparing the data held
            self.display.start_stage(stage.name, stage.epochs * batches.per_epoch)
            if resumed is None or not resumed.info["stage_over"]:
                train_mode(part)
                for event in run_steps(rule, batches, stage.epochs, start):
                    if self._on_step_end(event, rule, stage, part=part, task=task, batches=batches):
                        break
        self.checkpointer.load_best(number)

    def _build_batches(self, number: int, source: Source, part: nn.Module) -> Batches:
        """Return a stage's training batches, augmentation included, and choose the kernels of its convolutions."""
        stage, task = self.plan.recipe.stages[number], self.plan.stage_tasks[number]
        batches = self.batch_factory.training_batches(
            source,
            choose_collate(task, stage.augment),
            batch_size=stage.batch_size,
            seed=self.options.seed,
            stage=number,
            paired=has_mixing(stage.augment),
        )
        example = task.collate(fetch(source, [0])).to(self.device, self.batch_factory.dtype)
        self._choose_kernels(part, task, example, most=max(stage.batch_size, EVAL_BATCH_SIZE))
        return augment_batches(
            batches, task.inputs, stage.augment, seed=self.options.seed, stage=number, dtype=self.batch_factory.dtype
        )

    def _choose_kernels(self, part: nn.Module, task: Task, example: Batch, *, most: int) -> None:
        """Choose the kernels of a stage's convolutions; the flags in its checkpoints record them."""

        def run() -> None:
            with inference_context(part, self.device):
                task.outputs(part, example)

        self.batch_factory.settings = choose_kernels(
            part, self.batch_factory.settings, run, most=most, world=self.world
        )

    # -- after steps and epochs ------------------------------------------------------------------------------------

    def _on_step_end(
        self, event: Event, rule: Rule, stage: Stage, *, part: nn.Module, task: Task, batches: Batches
    ) -> bool:
        """Log, validate and save what is due after a step. Return whether the stage ends before its last epoch."""
        state, cursor = self.state, event.cursor
        state.averager.update(event)
        state.steps += 1
        index = (cursor.position or batches.per_epoch) - 1  # of the step's batch in its epoch
        state.examples += min(stage.batch_size, batches.examples - index * stage.batch_size)  # over all ranks
        over = False
        if event.verdict is not None:
            over = self._on_epoch_end(event, rule, stage, part=part, task=task)
        elif state.averager.count >= self.options.log_every:
            self._log(cursor, stage, metrics={})
        if event.verdict is not None or state.averager.count == 0:
            self.display.advance(cursor.epoch * batches.per_epoch + cursor.position)
        self._maybe_checkpoint(event, rule, over=over)
        return over

    def _maybe_checkpoint(self, event: Event, rule: Rule, *, over: bool) -> None:
        """Save if it is time, and stop if a signal asked for it. Ranks agree on both where they meet to log."""
        inside = event.verdict is None
        due = inside and self.checkpointer.is_due()
        stop = self.stop.received
        if self.world.size > 1:
            if inside and self.state.averager.count:
                return
            due, stop = self.world.any(due, stop)
        if due or (stop and (inside or not self.options.checkpoint_seconds)):
            self._check_weights()
            self.checkpointer.save(event.cursor, rule, stage_over=over)
        if stop:
            raise Interrupted(
                f"stopped by a signal in stage {event.cursor.stage + 1}, epoch {event.cursor.epoch + 1}; a "
                "checkpoint was saved",
                do=f"go on with: layerwise train {self.directory.path / 'recipe.toml'} --resume",
            )

    def _on_epoch_end(self, event: Event, rule: Rule, stage: Stage, *, part: nn.Module, task: Task) -> bool:
        """Validate, keep the best weights, save. Return whether the stage ends before its last epoch."""
        verdict, cursor, goal = event.verdict, event.cursor, get_goal(stage, task)
        assert verdict is not None
        self._check_weights()
        metrics: dict[str, float] = {}
        over, last = verdict.finished, cursor.epoch == stage.epochs
        due = bool(self.options.checkpoint_seconds) and (over or last or self.checkpointer.is_due_after_epoch())
        if self.options.validate:
            with rule.evaluation_weights():
                metrics = self._validate(part, task)
                self._update_best(get_monitored_metric(metrics, goal), cursor, rule, stage, goal=goal, write=due)
            over = over or (stage.patience > 0 and self.state.best.waited >= stage.patience)
        train_mode(part)
        if verdict.note and (verdict.finished or last):
            self.state.notes.append((verdict.note, verdict.note_zh))
            self.display.say(verdict.note)
        self._log(cursor, stage, metrics=metrics, epoch_over=True)
        if over or last:
            self._add_notes(
                describe_undefined_metrics(self.state.history, stage.name, goal, last=stage.monitor == LAST)
            )
        if not self.options.validate and (over or last):
            with rule.evaluation_weights():
                self.checkpointer.save_best(cursor, rule, write=due)
        if due or (over and self.options.checkpoint_seconds):
            self.checkpointer.save(cursor, rule, stage_over=over)
        return over

    def _validate(self, part: nn.Module, task: Task) -> dict[str, float]:
        """Return the metrics on the validation part, as ``val/name``."""
        batches = self.batch_factory.evaluation_batches(self.plan.splits.val, task.collate)
        metrics = evaluate(part, task, batches, self.world).metrics
        return {f"val/{name}": value for name, value in metrics.items()}

    def _update_best(self, value: float, cursor: Cursor, rule: Rule, stage: Stage, *, goal: Goal, write: bool) -> None:
        """Note whether an epoch is the best so far, and keep its weights if so.

        Until the metric is finite, the last epoch's weights are kept.
        """
        best = self.state.best
        improved = stage.monitor == LAST or best.is_improved_by(value, goal)
        waited = 0 if improved else best.waited + 1
        if improved or best.value is None:
            finite = value if math.isfinite(value) else None
            self.state.best = BestEpoch(cursor.stage, finite, cursor.epoch, waited)
            self.checkpointer.save_best(cursor, rule, write=write)
        self.state.best.waited = waited

    # -- log -------------------------------------------------------------------------------------------------------

    def _log(self, cursor: Cursor, stage: Stage, *, metrics: dict[str, float], epoch_over: bool = False) -> None:
        """Write a line of metrics.jsonl and show it. Raises `TrainingError` when the loss is no longer finite."""
        state = self.state
        train = state.averager.compute(self.world)
        self._check_losses(train)
        row = {
            "stage": stage.name,
            "step": state.steps,
            "epoch": cursor.epoch if epoch_over else cursor.epoch + 1,
            "examples": state.examples,
            "seconds": round(state.seconds(), 3),
            **train,
            **metrics,
        }
        speed = state.averager.format_speed()
        state.averager = MetricAverager()
        self.display.show(format_metrics({**train, **metrics}) + speed)
        if epoch_over:
            state.history.append({"stage": stage.name, "epoch": cursor.epoch, **train, **metrics})
            self.display.say(
                f"{stage.name}  epoch {cursor.epoch}/{stage.epochs}  {format_metrics({**train, **metrics})}{speed}"
            )
        if self.world.is_first:
            self.directory.append_metrics(row)
            for tracker in self.trackers:
                tracker.write(row)

    # -- values that are not finite --------------------------------------------------------------------------------

    def _check_weights(self) -> None:
        """Raise `TrainingError` for weights that are not finite, so that they are neither trained further nor saved."""
        for name, parameter in self.model.named_parameters():
            if not is_finite(parameter):
                self._write_failure({"layer": f"'{name}' (weights)", "terms": {}, "examples": []})
                raise TrainingError(
                    f"the weights '{name}' are no longer finite",
                    do="lower rule.lr or set rule.clip_grad=1; the last checkpoint is intact",
                )

    def _check_losses(self, train: dict[str, float]) -> None:
        """Raise `TrainingError` for losses that are not finite: on a GPU a rule could not check them without waiting
        for the device."""
        bad = {name: value for name, value in train.items() if not math.isfinite(value)}
        if bad:
            layer = find_first_bad_layer(self.model, self._get_val_batch())
            self._write_failure({"layer": layer, "terms": {n: str(v) for n, v in bad.items()}, "examples": []})
            raise TrainingError(
                f"the loss is not finite ({format_metrics(bad)}); the first layer with a non-finite value is {layer}",
                expected="a finite loss",
                do="lower rule.lr or set rule.clip_grad=1; the last checkpoint is intact",
            )

    def _get_val_batch(self) -> Batch:
        """Return a batch of validation examples."""
        return next(
            iter(self.batch_factory.evaluation_batches(self.plan.splits.val, self.plan.task.collate).iterate(0))
        )

    def write_failure(self, error: NonFiniteLoss) -> None:
        """Write failure.json: the loss's terms, the first bad layer and the batch's example numbers."""
        self._write_failure(dict(error.report))

    def _write_failure(self, report: dict[str, Any]) -> None:
        """Write a report on a value that is not finite into the run directory."""
        if self.world.is_first:
            self.directory.write("failure.json", dump_checksummed({k: _to_json(v) for k, v in report.items()}))


def _to_json(value: Any) -> Any:
    """Return a value as JSON holds it: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in value.items()}
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
