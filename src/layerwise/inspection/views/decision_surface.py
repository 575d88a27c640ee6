"""The view ``function``: what a network over one or two numbers says over their whole range (S05).

One input: the fitted curve, or each class's probability. Two: the surface, or the classes' regions and the border
between them. ``M`` places of a grid, ``A B`` along its two axes, ``K`` classes, ``N`` examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contourpy  # comes with matplotlib
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.loader import Batch
from layerwise.data.source import SPLITS, Source, Splits, fetch
from layerwise.errors import UsageError, unknown
from layerwise.inference.predict import evaluating
from layerwise.inspection.base import Json, Lang, Target, View, save, table, trained
from layerwise.inspection.predictions import answers, batches_of, place_of
from layerwise.plotting import functions
from layerwise.plotting.functions import Dots, Floats
from layerwise.plotting.svg import drawable
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.coders import NumberCoder
from layerwise.tasks.objectives import class_logits
from layerwise.tasks.regression import NumberPrediction, Regression
from layerwise.tasks.rows import RowInputs
from layerwise.text_display import format_row

LINE, SIDE = 301, 101  # places along the only axis, and along each of two
EDGE = 0.05  # of the range, added on each side of a plane
POINTS = 1000  # of each part that are drawn, evenly spaced
BATCH = 4096
PARTS = {"train": ("training", "训练"), "val": ("validation", "验证"), "test": ("test", "测试")}
WORDS = {"function": ("fitted function", "拟合函数"), "probability": ("probability", "概率")}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A network's answers over a grid, with the data.

    ``names`` of the inputs; ``axes`` the places along each, in the data's unit; ``values`` (M,) the target's number, or
    (M, K) probabilities, the last axis fastest; ``margins`` (M, K) how far each class's logit is above the best other
    (empty for numbers); ``parts`` the data, named train, val, test.
    """

    names: tuple[str, ...]
    target: str
    classes: tuple[str, ...]
    axes: tuple[Floats, ...]
    values: Floats
    margins: Floats
    parts: tuple[Dots, ...]

    @property
    def kind(self) -> str:
        """What there is to draw: curve, surface, probabilities or regions."""
        return (("curve", "surface"), ("probabilities", "regions"))[bool(self.classes)][len(self.axes) - 1]

    @property
    def places(self) -> Floats:
        """The grid's places, (M, D)."""
        return grid(self.axes)


def applies(task: Task) -> bool:
    """Whether a task's answers are a function of one or two numbers."""
    inputs = task.inputs
    return (
        isinstance(task, Classification | Regression)
        and isinstance(inputs, RowInputs)
        and 1 <= len(inputs.coders) <= 2
        and all(isinstance(coder, NumberCoder) for coder in inputs.coders)
    )


def view(target: Target, *, out: Path | None) -> View:
    """Return the function over the range of the data. Writes ``function.svg`` and ``function.csv``, the grid with the
    answers.

    Draws every part's points unless ``target.split`` names one; ``target.examples`` of each at most.

    Raises `UsageError` for a bare model, for an unknown part, and for other inputs than one or two numbers.
    """
    model, task, splits = trained(target, "function")
    if target.split and target.split not in SPLITS:
        raise unknown("part of the data", target.split, SPLITS)
    if not applies(task):
        received = (
            f"{len(task.inputs.features)} columns" if isinstance(task.inputs, RowInputs) else f"{task.inputs.kind}s"
        )
        raise UsageError(
            "the view 'function' draws answers over one or two numbers",
            expected="a classifier or a regression of rows with one or two numeric columns",
            received=f"{task.name} of {received}",
            do="train on fewer columns: --set 'data.drop=[…]'",
        )
    found = fitted(model, task, splits, count=target.examples or POINTS)
    shown = tuple(part for part in found.parts if target.split in ("", part.name))
    metrics = {}
    for name in SPLITS if not target.split else (target.split,):
        if len(splits.part(name)):
            part = answers(model, task, batches_of(model, task, splits.part(name)))
            metrics[name] = {"examples": len(part.losses), **part.metrics}
    figures = save(out, "function.svg", drawing(found, target.lang, shown)) + save(out, "function.csv", as_csv(found))
    return View("function", to_json(found, metrics), written(target, found, metrics), figures)


def grid(axes: tuple[Floats, ...]) -> Floats:
    """Return every place of a grid, (M, D), the last axis fastest."""
    return np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], 1)


def fitted(model: nn.Module, task: Task, splits: Splits, *, count: int = POINTS) -> Fitted:
    """Ask the model over the range of all parts' data. The model is left as it was.

    Args:
        count: the most points of a part that are kept, evenly spaced.
    """
    assert isinstance(task.inputs, RowInputs)
    assert isinstance(task, Classification | Regression)
    sources = {name: task.adopt(splits.part(name)) for name in SPLITS if len(splits.part(name))}
    parts = tuple(dots(name, source, count) for name, source in sources.items())
    cells = np.concatenate([part.inputs for part in parts])
    sides = range(cells.shape[1])
    axes = tuple(
        axis(cells[:, side], edge=EDGE * (len(sides) - 1), places=LINE if len(sides) == 1 else SIDE) for side in sides
    )
    outputs = said(model, task, grid(axes))
    values, margins = read(task, outputs)
    name = splits.train.schema.target_name
    classes = task.classes if isinstance(task, Classification) else ()
    return Fitted(
        names=task.inputs.features, target=name, classes=classes, axes=axes, values=values, margins=margins, parts=parts
    )


def dots(name: str, source: Source, count: int) -> Dots:
    """Return at most ``count`` of a part's examples, evenly spaced, without those that lack a value."""
    at = np.linspace(0, len(source) - 1, min(len(source), count)).astype(np.int64)
    examples = fetch(source, at)
    inputs, targets = np.asarray(examples.inputs, dtype=np.float64), np.asarray(examples.targets)
    whole = ~np.isnan(inputs).any(1)
    return Dots(name, inputs[whole], targets[whole])


def axis(cells: Floats, *, edge: float, places: int) -> Floats:
    """Return evenly spaced places over the range of those of the cells (N,) that can be drawn, with an edge on each
    side."""
    cells = cells[np.isfinite(drawable(cells))]
    low, high = (float(cells.min()), float(cells.max())) if len(cells) else (0.0, 1.0)
    size = max(abs(low), abs(high))
    room = edge * (high - low) if high - low > 1e-9 * size else max(0.5, 1e-3 * size)
    return np.linspace(low - room, high + room, places)


def said(model: nn.Module, task: Task, rows: Floats) -> Tensor:
    """Return the model's outputs for rows (M, D) in the data's unit, (M, …) float64 on the CPU."""
    device, dtype = place_of(model)
    out = []
    with evaluating(model, device):
        for start in range(0, len(rows), BATCH):
            out.append(model(task.inputs.tensor(rows[start : start + BATCH]).to(device, dtype)).double().cpu())
    return torch.cat(out)


def read(task: Classification | Regression, outputs: Tensor) -> tuple[Floats, Floats]:
    """Return what outputs (M, …) mean: numbers (M,) and no margins; or probabilities (M, K) and the margins (M, K)."""
    if isinstance(task, Regression):
        answered = task.decode(outputs, Batch(outputs, None, torch.arange(len(outputs))))
        return np.array([a.value for a in answered if isinstance(a, NumberPrediction)]), np.zeros((0, 0))
    logits = class_logits(outputs)  # (M, K)
    first, second = logits.topk(2, 1).values.T
    others = torch.where(logits == first[:, None], second[:, None], first[:, None])
    return task.loss.probabilities(outputs).numpy(), (logits - others).numpy()


def borders(found: Fitted) -> dict[str, list[Floats]]:
    """Return where the answer changes, by class: lines (n, 2) around its regions, by linear interpolation in the
    margin.

    The border of two classes is told once, for the first; for one input its places are lines of one point, (1, 1).
    """
    names = found.classes[:1] if len(found.classes) == 2 else found.classes
    out = {}
    for label, name in enumerate(names):
        margin = found.margins[:, label]
        if len(found.axes) == 1:
            out[name] = [np.array([[place]]) for place in crossings(found.axes[0], margin)]
        else:
            x, y = found.axes
            out[name] = level_lines(x, y, margin.reshape(len(x), len(y)))
    return out


def level_lines(x: Floats, y: Floats, z: Floats) -> list[Floats]:
    """Return the lines (n, 2) on which z (A, B) over x (A,) and y (B,) is 0; there are none where z is not finite."""
    height = np.ma.masked_invalid(drawable(z.T))
    return [np.asarray(line) for line in contourpy.contour_generator(x=x, y=y, z=height).lines(0.0)]


def crossings(x: Floats, y: Floats) -> list[float]:
    """Return where y (M,) over x (M,) changes its sign, by linear interpolation; not beside what is not finite."""
    y = drawable(y)
    at = np.flatnonzero(((y[:-1] >= 0) != (y[1:] >= 0)) & np.isfinite(y[:-1] + y[1:]))
    return [float(x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])) for i in at]


def drawing(found: Fitted, lang: Lang, shown: tuple[Dots, ...] | None = None) -> str:
    """Return the function as SVG, with the points of the parts ``shown`` (None: all)."""
    tongue = int(lang == "zh")
    parts = [part._replace(name=PARTS[part.name][tongue]) for part in (found.parts if shown is None else shown)]
    if found.kind == "curve":
        return functions.curve(
            found.axes[0], found.values, parts, names=(found.names[0], found.target), label=WORDS["function"][tongue]
        )
    if found.kind == "probabilities":
        turns = sorted({place for lines in borders(found).values() for line in lines for place in line[:, 0].tolist()})
        names = (found.names[0], WORDS["probability"][tongue])
        return functions.probabilities(found.axes[0], found.values, turns, parts, names=names, classes=found.classes)
    x, y = found.axes
    pair = (found.names[0], found.names[1])
    if found.kind == "surface":
        return functions.surface(x, y, found.values.reshape(len(x), len(y)), parts, names=pair, target=found.target)
    margins = found.margins.reshape(len(x), len(y), -1)
    lines = [line for several in borders(found).values() for line in several]
    return functions.regions(x, y, margins.argmax(2), lines, parts, names=pair, classes=found.classes, margins=margins)


def to_json(found: Fitted, metrics: dict[str, Any]) -> Json:
    """Return everything that is drawn but the points."""
    return {
        "kind": found.kind,
        "inputs": list(found.names),
        "target": found.target,
        "classes": list(found.classes),
        "axes": [places.tolist() for places in found.axes],
        "values": found.values.tolist(),
        "borders": {name: [line.tolist() for line in lines] for name, lines in borders(found).items()},
        "parts": metrics,
    }


def as_csv(found: Fitted) -> str:
    """Return the grid with the answers as a table: a row for each place, a column for each input, then the number or
    each class."""
    rows = np.column_stack([found.places, found.values]).tolist()
    return "".join(map(format_row, [[*found.names, *(found.classes or (found.target,))], *rows]))


def written(target: Target, found: Fitted, metrics: dict[str, Any]) -> str:
    """Return each part's metrics and what is to be said of the function."""
    names = list(dict.fromkeys(name for part in metrics.values() for name in part if name != "examples"))
    header = [target.say("part", "部分"), target.say("examples", "样本数"), *names]
    rows = [
        [target.say(*PARTS[part]), str(m["examples"]), *(f"{m[name]:.4f}" for name in names)]
        for part, m in metrics.items()
    ]
    spans = [f"{name} {places[0]:.5g} … {places[-1]:.5g}" for name, places in zip(found.names, found.axes, strict=True)]
    over = target.say(
        f"{found.target} as a function of {' × '.join(spans)}, at {len(found.values)} places",
        f"{found.target} 作为 {' × '.join(spans)} 的函数，共 {len(found.values)} 处",
    )
    return f"{over}\n\n{table(header, rows, right=frozenset(range(1, len(header))))}\n\n{told(target, found)}"


def told(target: Target, found: Fitted) -> str:
    """Return the function's extremes, or where the answer changes."""
    if not found.classes:
        places = found.places
        lowest, highest = (
            f"{found.values[i]:.5g} "
            f"({', '.join(f'{n} = {v:.5g}' for n, v in zip(found.names, places[i], strict=True))})"
            for i in (found.values.argmin(), found.values.argmax())
        )
        return target.say(f"least {lowest}; largest {highest}", f"最小 {lowest}；最大 {highest}")
    if len(found.axes) == 1:
        turns = sorted({f"{line[0, 0]:.5g}" for several in borders(found).values() for line in several}, key=float)
        where = ", ".join(turns) or target.say("nowhere", "无")
        return target.say(
            f"the answer changes at {found.names[0]} = {where}", f"回答改变之处：{found.names[0]} = {where}"
        )
    counts = np.bincount(found.margins.argmax(1), minlength=len(found.classes))
    shares = ", ".join(f"{name} {count / counts.sum():.1%}" for name, count in zip(found.classes, counts, strict=True))
    return target.say(f"answers by share of the plane: {shares}", f"各回答占平面的比例：{shares}")
