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
from layerwise.data import load as data_
from layerwise.data.batching import Feed, fits
from layerwise.data.loader import Batches
from layerwise.data.source import SPLITS, Source, Splits
from layerwise.embeddings import benchmarks
from layerwise.embeddings.sources import table_of
from layerwise.errors import UsageError
from layerwise.inference.engines.base import device_for
from layerwise.inference.predict import Loaded, Looks, evaluating, load, looking
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Assessment, Meter, PlainAssessment, Task
from layerwise.tasks.rows import RowInputs
from layerwise.tasks.words import WordTask, word_network


class Evaluation(NamedTuple):
    """A part's metrics, the meter they came from, the tables of a full assessment, and each example's outputs if asked
    for.

    ``overflowed``: how many of this rank's examples have outputs that are not finite.
    """

    metrics: dict[str, float]
    meter: Meter
    details: dict[str, Any]
    outputs: Tensor | None
    losses: Tensor | None
    overflowed: int = 0


def evaluate(
    model: nn.Module, task: Task, batches: Batches, world: World, *, full: bool = False, keep: bool = False
) -> Evaluation:
    """Run the model over all batches and return the task's metrics, merged over ranks; with ``full`` those of its
    assessment.

    With ``keep`` the outputs (N, …) and each example's loss (N,) are kept too, in the order of the source, for this
    rank's share.
    """

    def fresh() -> Assessment:
        return task.assessment() if full else PlainAssessment(task.meter())

    meter = fresh()
    outputs: list[Tensor] = []
    losses: list[Tensor] = []
    overflowed = torch.zeros((), dtype=torch.long, device=world.device)
    with evaluating(model, world.device):
        for batch in batches.epoch(0):
            if not len(batch):
                continue
            out = task.outputs(model, batch)
            out = out if out.dtype == torch.float64 else out.float()
            meter.update(out, batch)
            overflowed += (~out.reshape(len(out), -1).isfinite().all(1)).sum()
            if keep:
                outputs.append(out.cpu())
                losses.append(task.losses(out, batch).cpu())
    if world.size > 1:
        merged = fresh()
        for state in world.gather(meter.state()):
            merged.merge(state)
        meter = merged
    said, wrong = (torch.cat(parts) if parts else None for parts in (outputs, losses))
    return Evaluation(meter.result(), meter, meter.details(), said, wrong, int(overflowed))


UNDEFINED = {  # why a metric may not be defined although every output is finite
    "roc-auc": ("all examples are of one class", "所有样本同属一类"),
    "r2": ("all targets are equal", "所有目标值相等"),
}


def undefined_notes(metrics: Mapping[str, float], overflowed: int) -> list[tuple[str, str]]:
    """Return notes, in English and Chinese, on metrics that are not finite, and why; ``metrics`` may have the part in
    their names."""
    notes = []
    if overflowed:
        notes.append(
            (
                f"the network's outputs for {overflowed} example(s) are not finite: they have no answer, and "
                "what is measured with them is not "
                "defined",
                f"网络对 {overflowed} 个样本的输出不是有限数：这些样本没有回答，包含它们的指标没有定义",
            )
        )
    for name, value in metrics.items():
        if not math.isfinite(value) and name.rpartition("/")[2] in UNDEFINED and not overflowed:
            english, chinese = UNDEFINED[name.rpartition("/")[2]]
            notes.append((f"{name} is not defined: {english}", f"{name} 没有定义：{chinese}"))
        elif not math.isfinite(value):
            notes.append((f"{name} is not finite", f"{name} 不是有限数"))
    return notes


def adopted(splits: Splits, task: Task) -> Splits:
    """Return the parts in the task's terms, as a run fingerprints them."""
    return replace(splits, train=task.adopt(splits.train), val=task.adopt(splits.val), test=task.adopt(splits.test))


def answers_apart(found: Loaded, engine: str) -> bool:
    """Whether questions to a run's network are another thing than its examples, so that the network itself is measured,
    by torch.

    Raises `UsageError` for another engine there: it runs the graph that answers questions.
    """
    apart = found.task.answering(found.model) is not found.model
    if apart and engine != "torch":
        raise UsageError(
            f"{found.spec.name} is measured by torch: other engines run the graph of its answers",
            received=f"--engine {engine}",
        )
    return apart


def asked_words(found: Loaded, data: str) -> Measured:
    """Return what benchmarks for words say of a run's vectors; a metric that could not be asked is NaN."""
    assert isinstance(found.task, WordTask)
    said = benchmarks.evaluate_words(table_of(word_network(found.model), found.task.inputs), data)
    return Measured(Path(data).name, said.metrics, {"sections": said.to_json()["sections"]}, (), {"name": "torch"})


@dataclass(frozen=True)
class Measured:
    """A part's name and metrics, the tables beside them (by class, confusion, calibration), what was noticed on the
    way, and the engine."""

    split: str
    metrics: dict[str, float]
    details: dict[str, Any]
    notes: tuple[str, ...]
    engine: Mapping[str, Any]


def measure(
    path: Path,
    *,
    data: str | None = None,
    split: str | None = None,
    tta: Looks = "none",
    engine: str = "torch",
    device: str = "auto",
) -> Measured:
    """Evaluate a run's best weights on a part of its own data (``test``) or of others (``all`` of them), read as its
    own were.

    ``tta``: ``flip`` takes the mean of the answers to each image and its mirror image. ``engine``: what runs the
        network,
    ``device``: where.

    Raises `DataError` where other data do not fit the run's task (classes are matched by name), and what `device_for`
    and `Loaded.engine` do.
    """
    place = device_for(engine, device)
    found = load(path, place)
    if data is not None and isinstance(found.task, WordTask) and benchmarks.recognized(data):
        return asked_words(found, data)
    apart = answers_apart(found, engine)
    made = recipe.from_toml(found.directory.read("recipe.toml"), str(path / "recipe.toml"))
    options = recipe.checked(
        data_.Options,
        made.data if data is None else {**made.data, "source": data},
        where=f"[data] of {path / 'recipe.toml'}",
    )
    rows = found.task.inputs
    like = rows.columns if data is not None and isinstance(rows, RowInputs) else ()
    chosen = split or ("test" if data is None else "all")
    if data is not None and chosen == "all":
        whole = data_.open_parts(options, like=like)
        parts: list[Source] = [*whole.parts.values()]
        notes = list(whole.notes)
    else:
        splits = data_.open_data(options, seed=made.train.seed, like=like)
        notes = list(splits.notes)
        if data is None and adopted(splits, found.task).fingerprint() != found.info["fingerprint"]:
            notes.append("these data have changed since the run was trained on them")
        parts = [splits.part(part) for part in (SPLITS if chosen == "all" else (chosen,))]
    notes += [note for part in parts for note in found.task.inputs.notes(part)]
    sources = [found.task.adopt(part) for part in parts]
    dtype = compute_settings.dtype(made.train.precision)
    streams = not all(fits(source, found.task.collate, made.train.memory_mib, dtype) for source in sources)
    settings = compute_settings.resolve(
        device=str(place),
        precision=made.train.precision,
        threads=0,
        workers=0,
        streams=streams,
        deterministic=False,
        world=1,
    )
    feed = Feed(World(device=place), dtype, settings, streams, made.train.timeout)
    meter, overflowed = found.task.assessment(), 0
    with compute_settings.applied(settings):
        runner = found.engine(engine)
        model = looking(found.model if apart else runner, found.task, tta)
        for source in sources:
            batches = feed.evaluation(source, found.task.collate)
            one = evaluate(model, found.task, batches, feed.world, full=True)
            meter.merge(one.meter.state())
            overflowed += one.overflowed
    metrics = meter.result()
    notes += [english for english, _ in undefined_notes(metrics, overflowed)]
    return Measured(chosen, metrics, meter.details(), (*notes, *runner.notes()), runner.told())
