"""The view ``recall``: the patterns in a Hopfield net, corrupted versions, and what the net recalls of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from layerwise.data.source import fetch
from layerwise.data.splits import draw_subset
from layerwise.errors import UsageError
from layerwise.inspection.base import Target, View, format_table, make_missing_run_error, save
from layerwise.inspection.predictions import get_device_and_dtype
from layerwise.nn.hebbian import Hopfield
from layerwise.plotting.images import Floats, draw_image_sheet
from layerwise.runtime import rng
from layerwise.tasks.inputs import ImageInputs

FLIPPED = 0.2  # of the units
TRIALS, MAX_PATTERNS = 50, 10  # corruptions of each pattern; patterns in the figure


def view(target: Target, *, out: Path | None) -> View:
    """Return how often the net recalls each stored pattern exactly after a fifth of its units were flipped.

    ``target.examples`` is the number of trials for each pattern. Writes ``recall.svg`` for images. Raises `UsageError`
    without a run, and for a network that stores no patterns.
    """
    if target.task is None or target.recipe is None or target.splits is None:
        raise make_missing_run_error("recall", target.spec)
    model = target.model
    if not isinstance(model, Hopfield):
        raise UsageError(
            f"{target.spec.name} stores no patterns",
            expected="a run of hopfield",
            received=f"a run of {target.spec.name}",
        )
    patterns, names = load_stored_patterns(target, model)
    trials = target.examples or TRIALS
    repeated = patterns.repeat_interleave(trials, 0)  # (P · trials, D)
    starts = corrupt_patterns(repeated, FLIPPED, rng.make_generator("recall", target.recipe.train.seed))
    ends = model.recall(starts)
    exact = (ends == repeated).all(1).view(-1, trials).double()  # (P, trials)
    data = {
        "patterns": len(patterns),
        "units": patterns.shape[1],
        "flipped": round(FLIPPED * patterns.shape[1]),
        "trials": trials,
        "exact": float(exact.mean()),
        "each": [{"name": n, "exact": float(r)} for n, r in zip(names, exact.mean(1), strict=True)],
    }
    figures = []
    if isinstance(target.task.inputs, ImageInputs):
        first = torch.arange(min(MAX_PATTERNS, len(patterns))) * trials
        images = [_to_images(target, s) for s in (patterns[:MAX_PATTERNS], starts[first], ends[first])]
        figures = save(out, "recall.svg", _draw_figure(target, images, exact.mean(1).tolist()))
    return View("recall", data, _format_text(target, data), figures)


def load_stored_patterns(target: Target, model: Hopfield) -> tuple[Tensor, list[str]]:
    """Return the states (P, D) that the run's first stage stored, and the names of their examples."""
    assert target.task is not None
    assert target.splits is not None
    assert target.recipe is not None
    recipe = target.recipe
    source = draw_subset(target.task.convert_source(target.splits.train), recipe.stages[0].examples, recipe.train.seed)
    batch = target.task.collate(fetch(source, range(len(source)))).to(*get_device_and_dtype(model))
    return model.to_states(batch.input_tensor), [source.name_of(i) for i in range(len(source))]


def corrupt_patterns(patterns: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Flip a share of the units of each pattern (N, D); the units are distinct and their number is rounded."""
    count = round(share * patterns.shape[1])
    flipped = torch.rand(patterns.shape, generator=generator).argsort(1)[:, :count].to(patterns.device)
    return patterns.scatter(1, flipped, -patterns.gather(1, flipped))


def _to_images(target: Target, states: Tensor) -> list[Floats]:
    """Return states (N, D) as black-and-white images."""
    assert target.task is not None
    inputs = target.task.inputs
    assert isinstance(inputs, ImageInputs)
    return list(((states + 1) / 2).view(-1, inputs.channels, *inputs.size).cpu().numpy())


def _draw_figure(target: Target, rows: list[list[Floats]], shares: list[float]) -> str:
    """Draw a row each of stored, corrupted and recalled images, with the share of exact recalls below."""
    percent = round(100 * FLIPPED)
    labels = [
        target.translate("stored", "存入的图像"),
        target.translate(f"{percent} % of the pixels flipped", f"翻转 {percent} % 的像素"),
        target.translate(
            "recalled; below: share of exact recalls over all trials", "回忆结果；下方为全部试验中完全正确的比例"
        ),
    ]
    count = len(rows[0])
    captions = [[""] * count, [""] * count, [f"{share:.0%}" for share in shares[:count]]]
    return draw_image_sheet(rows, captions=captions, labels=labels)


def _format_text(target: Target, data: dict[str, object]) -> str:
    """Return the shares as a table."""
    n, d, k, trials, exact = (data[key] for key in ("patterns", "units", "flipped", "trials", "exact"))
    head = target.translate(
        f"{n} stored patterns of {d} units, {k} of them flipped, {trials} trials each: {exact:.1%} recalled exactly",
        f"存入 {n} 个模式，每个 {d} 个单元，翻转其中 {k} 个，各试 {trials} 次：{exact:.1%} 完全正确",
    )
    entries = data["each"]
    assert isinstance(entries, list)
    rows = [[entry["name"], f"{entry['exact']:.0%}"] for entry in entries]
    return f"{head}\n\n" + format_table(
        [target.translate("pattern", "模式"), target.translate("exact", "完全正确")], rows, right=frozenset({1})
    )
