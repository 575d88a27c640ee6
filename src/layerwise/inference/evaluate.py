"""Metrics of a model on a part of the data, and of a finished run on its own data or on others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layerwise import recipe
from layerwise.data.batching import BatchFactory, fits_in_memory
from layerwise.data.load import Options, load_parts, load_splits
from layerwise.data.loader import Batches
from layerwise.data.source import SPLITS, Source, Splits
from layerwise.embeddings import benchmarks
from layerwise.embeddings.sources import export_table
from layerwise.errors import UsageError
from layerwise.inference.engines.base import choose_device
from layerwise.inference.predict import TTA, LoadedRun, inference_context, load_run, with_tta
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World
from layerwise.tasks.base import BasicEvaluationMeter, EvaluationMeter, Meter, Task
from layerwise.tasks.row_inputs import RowInputs
from layerwise.tasks.words import WordTask, require_word_vectors


class Evaluation(NamedTuple):
    """A part's metrics, their meter, the tables of a full evaluation, and each example's outputs if asked for.

    ``overflowed``: how many of this rank's examples have outputs that are not finite.
    """

    metrics: dict[str, float]
    meter: Meter
    details: dict[str, Any]
    outputs: Tensor | None
    losses: Tensor | None
    overflowed: int = 0


def evaluate(
    model: nn.Module, task: Task, batches: Batches, world: World, *, full: bool = False, keep_outputs: bool = False
) -> Evaluation:
    """Run the model over all batches and return the task's metrics, merged over ranks; with ``full`` those of its
    `EvaluationMeter`.

    With ``keep_outputs`` return the outputs (N, …) and each example's loss (N,) too, in the order of the source, for
    this rank's share.
    """

    def make_meter() -> EvaluationMeter:
        return task.evaluation_meter() if full else BasicEvaluationMeter(task.meter())

    meter = make_meter()
    outputs: list[Tensor] = []
    losses: list[Tensor] = []
    overflowed = torch.zeros((), dtype=torch.long, device=world.device)
    with inference_context(model, world.device):
        for batch in batches.iterate(0):
            if not len(batch):
                continue
            batch_outputs = task.outputs(model, batch)
            batch_outputs = batch_outputs if batch_outputs.dtype == torch.float64 else batch_outputs.float()
            meter.update(batch_outputs, batch)
            overflowed += (~batch_outputs.reshape(len(batch_outputs), -1).isfinite().all(1)).sum()
            if keep_outputs:
                outputs.append(batch_outputs.cpu())
                losses.append(task.losses(batch_outputs, batch).cpu())
    if world.size > 1:
        merged = make_meter()
        for state in world.gather(meter.state()):
            merged.merge_state(state)
        meter = merged
    all_outputs, all_losses = (torch.cat(parts) if parts else None for parts in (outputs, losses))
    return Evaluation(meter.result(), meter, meter.details(), all_outputs, all_losses, int(overflowed))


UNDEFINED_REASONS = {  # why a metric may not be defined although every output is finite
    "roc-auc": ("all examples are of one class", "所有样本同属一类"),
    "r2": ("all targets are equal", "所有目标值相等"),
}


def find_undefined_metrics(metrics: Mapping[str, float], overflowed: int) -> list[tuple[str, str]]:
    """Return notes, in English and Chinese, on metrics that are not finite, and why; ``metrics`` may have the part in
    their names."""
    notes = []
    if overflowed:
        notes.append(
            (
                f"the network's outputs for {overflowed} example(s) are not finite: they have no answer, and "
                "what is measured with them is not "
                "defined",
                f"网络对 {overflowed} 个样本的输出不是有限数：这些样本没有预测结果，包含它们的指标没有定义",
            )
        )
    for name, value in metrics.items():
        if not math.isfinite(value) and name.rpartition("/")[2] in UNDEFINED_REASONS and not overflowed:
            english, chinese = UNDEFINED_REASONS[name.rpartition("/")[2]]
            notes.append((f"{name} is not defined: {english}", f"{name} 没有定义：{chinese}"))
        elif not math.isfinite(value):
            notes.append((f"{name} is not finite", f"{name} 不是有限数"))
    return notes


def convert_splits(splits: Splits, task: Task) -> Splits:
    """Return the parts in the task's terms, as a run fingerprints them."""
    train, val, test = (task.convert_source(part) for part in (splits.train, splits.val, splits.test))
    return replace(splits, train=train, val=val, test=test)


def is_evaluated_directly(run: LoadedRun, engine: str) -> bool:
    """Whether a run predicts from other inputs than its examples, so that torch evaluates the network itself.

    Raises `UsageError` for another engine there: it runs the graph of the predictions.
    """
    is_direct = run.task.prediction_model(run.model) is not run.model
    if is_direct and engine != "torch":
        raise UsageError(
            f"{run.spec.name} is measured by torch: other engines run the graph of its answers",
            received=f"--engine {engine}",
        )
    return is_direct


def evaluate_word_benchmarks(run: LoadedRun, data: str) -> RunEvaluation:
    """Evaluate a run's vectors on benchmarks for words; a metric that could not be measured is NaN."""
    assert isinstance(run.task, WordTask)
    results = benchmarks.evaluate_words(export_table(require_word_vectors(run.model), run.task.inputs), data)
    details = {"sections": results.to_json()["sections"]}
    return RunEvaluation(Path(data).name, results.metrics, details, (), {"name": "torch"})


@dataclass(frozen=True)
class RunEvaluation:
    """A part's name and metrics, their tables (by class, confusion, calibration), notes, and the engine."""

    split: str
    metrics: dict[str, float]
    details: dict[str, Any]
    notes: tuple[str, ...]
    engine: Mapping[str, Any]


def evaluate_run(
    path: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    tta: TTA = "none",
    engine: str = "torch",
    device: str = "auto",
) -> RunEvaluation:
    """Evaluate a run's best weights on a part of its own data (``test``) or of other data (``all``), read as its own.

    ``tta``: ``flip`` takes the mean of the predictions for each image and its mirror image. ``engine``: what runs the
    network, ``device``: where.

    Raises `DataError` if other data do not fit the run's task (classes are matched by name), and what `choose_device`
    and `LoadedRun.make_engine` raise.
    """
    target_device = choose_device(engine, device)
    run = load_run(path, target_device)
    if data is not None and isinstance(run.task, WordTask) and benchmarks.is_word_benchmark(data):
        return evaluate_word_benchmarks(run, data)
    is_direct = is_evaluated_directly(run, engine)
    run_recipe = recipe.from_toml(run.directory.read("recipe.toml"), str(path / "recipe.toml"))
    options = recipe.check_table(
        Options,
        run_recipe.data if data is None else {**run_recipe.data, "source": data},
        where=f"[data] of {path / 'recipe.toml'}",
    )
    inputs = run.task.inputs
    like = inputs.columns if data is not None and isinstance(inputs, RowInputs) else ()
    chosen = split or ("test" if data is None else "all")
    if data is not None and chosen == "all":
        opened = load_parts(options, like=like)
        parts: list[Source] = [*opened.parts.values()]
        notes = list(opened.notes)
    else:
        splits = load_splits(options, seed=run_recipe.train.seed, like=like)
        notes = list(splits.notes)
        if data is None and convert_splits(splits, run.task).fingerprint() != run.info["fingerprint"]:
            notes.append("these data have changed since the run was trained on them")
        parts = [splits.part(part) for part in (SPLITS if chosen == "all" else (chosen,))]
    notes += [note for part in parts for note in run.task.inputs.notes(part)]
    sources = [run.task.convert_source(part) for part in parts]
    dtype = compute_settings.get_dtype(run_recipe.train.precision)
    streams = not all(
        fits_in_memory(source, run.task.collate, run_recipe.train.memory_mib, dtype) for source in sources
    )
    settings = compute_settings.resolve(
        device=str(target_device),
        precision=run_recipe.train.precision,
        threads=0,
        workers=0,
        streams=streams,
        deterministic=False,
        world=1,
    )
    factory = BatchFactory(World(device=target_device), dtype, settings, streams, run_recipe.train.timeout)
    meter, overflowed = run.task.evaluation_meter(), 0
    with compute_settings.use_settings(settings):
        runner = run.make_engine(engine)
        model = with_tta(run.model if is_direct else runner, run.task, tta)
        for source in sources:
            batches = factory.evaluation_batches(source, run.task.collate)
            evaluation = evaluate(model, run.task, batches, factory.world, full=True)
            meter.merge_state(evaluation.meter.state())
            overflowed += evaluation.overflowed
    metrics = meter.result()
    notes += [english for english, _ in find_undefined_metrics(metrics, overflowed)]
    return RunEvaluation(chosen, metrics, meter.details(), (*notes, *runner.notes()), runner.describe())
