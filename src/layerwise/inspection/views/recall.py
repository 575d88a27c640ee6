"""The view ``recall``: what a Hopfield net stored, what was made of it, and what the net recalls (S02)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from layerwise.data.source import fetch
from layerwise.data.splits import take
from layerwise.errors import UsageError
from layerwise.inspection.base import Target, View, needs_run, save, table
from layerwise.inspection.predictions import place_of
from layerwise.nn.hebbian import Hopfield
from layerwise.plotting.images import Floats, sheet
from layerwise.runtime import rng
from layerwise.tasks.inputs import ImageInputs

FLIPPED = 0.2  # of the units
TRIALS, SHOWN = 50, 10  # corruptions of each pattern; patterns in the figure


def view(target: Target, *, out: Path | None) -> View:
    """Return how often each stored pattern is recalled exactly with a fifth of its units flipped. Writes ``recall.svg``
    for images.

    ``target.examples`` are the trials of each pattern. Raises `UsageError` for a bare model and for a network that
    stores nothing.
    """
    if target.task is None or target.recipe is None or target.splits is None:
        raise needs_run("recall", target.spec)
    net = target.model
    if not isinstance(net, Hopfield):
        raise UsageError(
            f"{target.spec.name} stores no patterns",
            expected="a run of hopfield",
            received=f"a run of {target.spec.name}",
        )
    patterns, names = stored(target, net)
    trials = target.examples or TRIALS
    starts = corrupted(
        patterns.repeat_interleave(trials, 0), FLIPPED, rng.generator("recall", target.recipe.train.seed)
    )
    ends = net.recall(starts)
    right = (ends == patterns.repeat_interleave(trials, 0)).all(1).view(-1, trials).double()  # (P, trials)
    data = {
        "patterns": len(patterns),
        "units": patterns.shape[1],
        "flipped": round(FLIPPED * patterns.shape[1]),
        "trials": trials,
        "exact": float(right.mean()),
        "each": [{"name": n, "exact": float(r)} for n, r in zip(names, right.mean(1), strict=True)],
    }
    figures = []
    if isinstance(target.task.inputs, ImageInputs):
        first = torch.arange(min(SHOWN, len(patterns))) * trials
        figures = save(
            out,
            "recall.svg",
            _figure(
                target,
                [_images(target, s) for s in (patterns[:SHOWN], starts[first], ends[first])],
                right.mean(1).tolist(),
            ),
        )
    return View("recall", data, _written(target, data), figures)


def stored(target: Target, net: Hopfield) -> tuple[Tensor, list[str]]:
    """Return the states (P, D) that the run's stage stored, drawn as training drew them, and the examples' names."""
    assert target.task is not None
    assert target.splits is not None
    assert target.recipe is not None
    source = take(target.task.adopt(target.splits.train), target.recipe.stages[0].examples, target.recipe.train.seed)
    batch = target.task.collate(fetch(source, range(len(source)))).to(*place_of(net))
    return net.states(batch.inputs), [source.name_of(i) for i in range(len(source))]


def corrupted(patterns: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return patterns (N, D) with that share of each one's units flipped, rounded to whole units and drawn without
    repetition."""
    out = patterns.clone()
    chosen = torch.rand(out.shape, generator=generator).argsort(1)[:, : round(share * out.shape[1])].to(out.device)
    return out.scatter(1, chosen, -out.gather(1, chosen))


def _images(target: Target, states: Tensor) -> list[Floats]:
    """Return states (N, D) as images in black and white."""
    assert target.task is not None
    inputs = target.task.inputs
    assert isinstance(inputs, ImageInputs)
    return list(((states + 1) / 2).view(-1, inputs.channels, *inputs.size).cpu().numpy())


def _figure(target: Target, rows: list[list[Floats]], shares: list[float]) -> str:
    """Draw stored, corrupted and recalled images, one row each, with the share of exact recalls below."""
    percent = round(100 * FLIPPED)
    labels = [
        target.say("stored", "存入的图像"),
        target.say(f"{percent} % of the pixels flipped", f"翻转 {percent} % 的像素"),
        target.say("recalled; below, in how many of all trials exactly", "回忆结果；下方为全部试验中完全正确的比例"),
    ]
    count = len(rows[0])
    captions = [[""] * count, [""] * count, [f"{share:.0%}" for share in shares[:count]]]
    return sheet(rows, captions=captions, labels=labels)


def _written(target: Target, data: dict[str, object]) -> str:
    """Return the shares as a table."""
    n, d, k, trials, exact = (data[key] for key in ("patterns", "units", "flipped", "trials", "exact"))
    head = target.say(
        f"{n} stored patterns of {d} units, {k} of them flipped, {trials} trials each: {exact:.1%} recalled exactly",
        f"存入 {n} 个模式，每个 {d} 个单元，翻转其中 {k} 个，各试 {trials} 次：{exact:.1%} 完全正确",
    )
    each = data["each"]
    assert isinstance(each, list)
    rows = [[one["name"], f"{one['exact']:.0%}"] for one in each]
    return f"{head}\n\n" + table(
        [target.say("pattern", "模式"), target.say("exact", "完全正确")], rows, right=frozenset({1})
    )
