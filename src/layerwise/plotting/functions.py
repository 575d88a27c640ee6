"""Functions of one or two numbers, with the data they were fitted to: a curve, a surface, classes' probabilities and
regions.

Shape letters: ``M`` places along one axis, ``A`` and ``B`` along two, ``K`` classes, ``N`` points. Names are shown as
    they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from layerwise.plotting.charts import MARKS, SIZE, STYLES, drawn
from layerwise.plotting.svg import INK, MUTED, SERIES, drawable, shortened, width_of

Floats = NDArray[np.float64]
Lines = Sequence[Floats]
SQUARE = (5.0, 4.9)  # inches: for two axes of equal rank, a color bar, and a legend beneath
NAME, ROW, LEGEND = 120.0, 345.0, 13.0  # room for a name in a legend, for a row of names, and their size
LEVELS = 14
KNOWN = 12  # classes up to which a legend names curves


class Dots(NamedTuple):
    """A part's data: its name, inputs (N, D) with D 1 or 2, and targets (N,): numbers, or labels."""

    name: str
    inputs: Floats
    targets: NDArray[Any]


def curve(x: Floats, y: Floats, dots: Sequence[Dots], *, names: tuple[str, str], label: str) -> str:
    """Draw a function y(x), (M,), and the points of each part.

    Args:
        names: of x and y.
        label: the curve's name in the legend.
    """

    def draw(axes: Any) -> None:
        for at, part in enumerate(dots):
            a, b = drawable(part.inputs[:, 0]), drawable(part.targets)
            axes.plot(a, b, MARKS[at], color=SERIES[at], markersize=5, alpha=0.6, markeredgewidth=0)
        axes.plot(x, drawable(y), color=INK, linewidth=2.6, gid="function", zorder=5)
        _named(axes, names)
        signs = [Line2D([], [], color=INK, linewidth=2.6)]
        signs += [
            Line2D([], [], linestyle="", marker=MARKS[at], color=SERIES[at], markersize=6) for at in range(len(dots))
        ]
        legend(axes, signs, [label, *(part.name for part in dots)])

    return drawn(draw, size=(SIZE[0], 3.7))


def surface(x: Floats, y: Floats, z: Floats, dots: Sequence[Dots], *, names: tuple[str, str], target: str) -> str:
    """Draw a function z(x, y), (A, B) over x (A,) and y (B,), as color with lines of equal height; points have their
    target's color."""

    def draw(axes: Any) -> None:
        height = np.ma.masked_invalid(drawable(z.T))
        values = np.concatenate([height.compressed(), *(drawable(part.targets) for part in dots)])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        size = max(abs(low), abs(high))
        if high - low <= 1e-9 * size:  # the same everywhere
            low, high = low - max(0.5, 1e-3 * size), high + max(0.5, 1e-3 * size)
        levels = np.linspace(low, high, LEVELS + 1)
        filled = axes.contourf(x, y, height, levels=levels, cmap="viridis")
        if height.count() and float(np.ptp(height.compressed())) > 0:
            axes.contour(x, y, height, levels=levels, colors="#ffffff", linewidths=0.6, alpha=0.5)
        for at, part in enumerate(dots):
            axes.scatter(
                *drawable(part.inputs).T,
                c=drawable(part.targets),
                cmap="viridis",
                vmin=low,
                vmax=high,
                marker=MARKS[at],
                s=30,
                edgecolors="#ffffff",
                linewidths=0.9,
            )
        bar = axes.figure.colorbar(filled, ax=axes, pad=0.02, aspect=30, ticks=MaxNLocator(7))
        bar.outline.set_visible(False)
        bar.set_label(shortened(target, 220, 13), parse_math=False)
        _framed(axes, x, y, names)
        legend(axes, _marks(dots), [part.name for part in dots])

    return drawn(draw, size=SQUARE)


def regions(
    x: Floats,
    y: Floats,
    answers: NDArray[np.int64],
    borders: Lines,
    dots: Sequence[Dots],
    *,
    names: tuple[str, str],
    classes: Sequence[str],
    margins: Floats,
) -> str:
    """Draw which class is answered where, and the border between them; points have their true class's color.

    Args:
        answers: the class of each place, (A, B), over x (A,) and y (B,).
        borders: lines (n, 2) along which the answer changes.
        margins: by how much each class leads, (A, B, K); at least 0 where it is the answer.
    """

    def draw(axes: Any) -> None:
        for label in np.unique(answers):
            area = np.ma.masked_invalid(drawable(margins[..., label].T))
            if not area.count():
                continue
            if float(area.min()) >= 0 and area.count() == area.size:
                axes.axvspan(x[0], x[-1], color=_color(label), alpha=0.2, linewidth=0)
            else:
                axes.contourf(
                    x, y, area, levels=[0.0, max(1.0, 2 * float(area.max()))], colors=[_color(label)], alpha=0.2
                )
        for line in borders:
            axes.plot(line[:, 0], line[:, 1], color=INK, linewidth=2, gid="border", zorder=3)
        for at, part in enumerate(dots):
            for label in np.unique(part.targets):
                mine = drawable(part.inputs[part.targets == label])
                axes.plot(
                    mine[:, 0],
                    mine[:, 1],
                    MARKS[at],
                    color=_color(label),
                    markersize=5.5,
                    markeredgecolor="#ffffff",
                    markeredgewidth=0.7,
                    alpha=0.9,
                    zorder=4,
                )
        _framed(axes, x, y, names)
        signs, words = _of_classes(classes)
        if not signs:
            _name_places(axes, classes, dots)
        legend(axes, signs + _marks(dots), [*words, *(part.name for part in dots)])

    return drawn(draw, size=SQUARE)


def probabilities(
    x: Floats,
    shares: Floats,
    turns: Sequence[float],
    dots: Sequence[Dots],
    *,
    names: tuple[str, str],
    classes: Sequence[str],
) -> str:
    """Draw each class's probability over one input, (M, K), and the data beneath, a row for each class.

    Args:
        turns: where the answer changes.
        names: of the input and of the probability.
    """

    def draw(axes: Any) -> None:
        count = shares.shape[1]
        step = 0.09 if count <= 4 else 0.36 / count
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for turn in turns:
            axes.axvline(turn, color=INK, linewidth=1.4, linestyle=(0, (2, 3)))
        for label in range(count):
            style = STYLES[label // len(SERIES) % len(STYLES)]
            axes.plot(x, drawable(shares[:, label]), style, color=_color(label), linewidth=2.4, gid=f"class-{label}")
            for at, part in enumerate(dots):
                mine = drawable(part.inputs[part.targets == label, 0])
                axes.plot(
                    mine,
                    np.full(len(mine), -step * (label + 1)),
                    MARKS[at],
                    color=_color(label),
                    markersize=4.5,
                    alpha=0.5,
                    markeredgewidth=0,
                )
        axes.set_ylim(-step * (count + 1), 1.04)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        _named(axes, names)
        signs, words = _of_classes(classes)
        if not signs and count <= KNOWN:
            words = list(classes)
            signs = [Line2D([], [], color=_color(label), linewidth=2.4) for label in range(count)]
            for label, sign in enumerate(signs):
                sign.set(linestyle=STYLES[label // len(SERIES)])
        legend(axes, signs + _marks(dots), [*words, *(part.name for part in dots)])

    return drawn(draw, size=(SIZE[0], 4.2))


def _color(label: int) -> str:
    """Return a class's color; after six they come again."""
    return SERIES[int(label) % len(SERIES)]


def _of_classes(classes: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return a patch of color and a name for each class, none where there are more classes than colors."""
    named = classes if len(classes) <= len(SERIES) else ()
    signs = [Line2D([], [], linestyle="", marker="s", color=_color(label), markersize=9) for label in range(len(named))]
    return signs, list(named)


def _name_places(axes: Any, classes: Sequence[str], dots: Sequence[Dots]) -> None:
    """Write each class's name where its points lie, for classes that share a color with others."""
    inputs, targets = np.concatenate([part.inputs for part in dots]), np.concatenate([part.targets for part in dots])
    seen = np.isfinite(drawable(inputs)).all(1)
    inputs, targets = inputs[seen], targets[seen]
    for label in np.unique(targets):
        x, y = np.median(inputs[targets == label], 0)
        name = shortened(classes[int(label)], 80, 11).replace("$", r"\$")
        box = {"facecolor": "#ffffff", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
        axes.text(x, y, name, fontsize=11, ha="center", va="center", zorder=6, bbox=box, clip_on=True)


def _marks(dots: Sequence[Dots]) -> list[Any]:
    """Return each part's mark, without a color's meaning."""
    return [Line2D([], [], linestyle="", marker=MARKS[at], color=MUTED, markersize=6) for at in range(len(dots))]


def _named(axes: Any, names: tuple[str, str]) -> None:
    """Name the axes."""
    axes.set_xlabel(shortened(names[0], 280, 13), parse_math=False)
    axes.set_ylabel(shortened(names[1], 200, 13), parse_math=False)


def _framed(axes: Any, x: Floats, y: Floats, names: tuple[str, str]) -> None:
    """Keep to the range, without a grid over the colors."""
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_ylim(float(y[0]), float(y[-1]))
    axes.grid(False)
    _named(axes, names)


def legend(axes: Any, signs: Sequence[Any], words: Sequence[str], *, row: float = ROW) -> None:
    """Name the signs beneath the drawing, in rows as long as its width, ``row`` in points, allows."""
    words = [shortened(word, NAME, LEGEND).replace("$", r"\$") for word in words]
    wide = [width_of(word, LEGEND) + 34 for word in words]
    # what is measured is a font of ours, in which East Asian characters are narrower than the reader's
    extra = max((width_of(w, LEGEND) - width_of("x" * len(w), LEGEND) for w in words), default=0.0) / LEGEND
    columns = len(words) if sum(wide) <= row else max(1, int(row // max(wide)))
    order = [
        at for column in range(columns) for at in range(column, len(words), columns)
    ]  # columns are filled first, rows are read first
    axes.figure.legend(
        [signs[at] for at in order],
        [words[at] for at in order],
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.4,
        columnspacing=1.2 + extra,
        handlelength=1.4,
        borderaxespad=0.2,
        labelspacing=0.35,
    )
