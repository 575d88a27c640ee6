"""Functions of one or two numbers, with the data they were fitted to: a curve, a surface, classes' probabilities and
regions.

Shape letters: ``M`` points along one axis, ``A`` and ``B`` along two, ``K`` classes, ``N`` points. Names are shown as
    they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from layerwise.plotting.charts import MARKS, SIZE, STYLES, render_axes
from layerwise.plotting.svg import INK, MUTED, SERIES, estimate_width, mask_undrawable, shorten

Floats = NDArray[np.float64]
Lines = Sequence[Floats]
SQUARE = (5.0, 4.9)  # inches: for two axes of equal rank, a color bar, and a legend beneath
NAME, ROW, LEGEND = 120.0, 345.0, 13.0  # the width of a name in a legend, of a row of names, and their font size
LEVELS = 14
MAX_NAMED = 12  # classes up to which a legend names curves


class PointSet(NamedTuple):
    """A part's data: its name, inputs (N, D) with D 1 or 2, and targets (N,): numbers, or labels."""

    name: str
    inputs: Floats
    targets: NDArray[Any]


def plot_function(x: Floats, y: Floats, parts: Sequence[PointSet], *, names: tuple[str, str], label: str) -> str:
    """Draw a function y(x), (M,), and the points of each part.

    Args:
        names: of x and y.
        label: the curve's name in the legend.
    """

    def draw(axes: Any) -> None:
        for at, part in enumerate(parts):
            a, b = mask_undrawable(part.inputs[:, 0]), mask_undrawable(part.targets)
            axes.plot(a, b, MARKS[at], color=SERIES[at], markersize=5, alpha=0.6, markeredgewidth=0)
        axes.plot(x, mask_undrawable(y), color=INK, linewidth=2.6, gid="function", zorder=5)
        _label_axes(axes, names)
        markers = [Line2D([], [], color=INK, linewidth=2.6)]
        markers += [
            Line2D([], [], linestyle="", marker=MARKS[at], color=SERIES[at], markersize=6) for at in range(len(parts))
        ]
        draw_legend(axes, markers, [label, *(part.name for part in parts)])

    return render_axes(draw, size=(SIZE[0], 3.7))


def plot_surface(
    x: Floats, y: Floats, z: Floats, parts: Sequence[PointSet], *, names: tuple[str, str], target: str
) -> str:
    """Draw a function z(x, y), (A, B) over x (A,) and y (B,), as color with lines of equal height; points have their
    target's color."""

    def draw(axes: Any) -> None:
        height = np.ma.masked_invalid(mask_undrawable(z.T))
        values = np.concatenate([height.compressed(), *(mask_undrawable(part.targets) for part in parts)])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        size = max(abs(low), abs(high))
        if high - low <= 1e-9 * size:  # the same everywhere
            low, high = low - max(0.5, 1e-3 * size), high + max(0.5, 1e-3 * size)
        levels = np.linspace(low, high, LEVELS + 1)
        filled = axes.contourf(x, y, height, levels=levels, cmap="viridis")
        if height.count() and float(np.ptp(height.compressed())) > 0:
            axes.contour(x, y, height, levels=levels, colors="#ffffff", linewidths=0.6, alpha=0.5)
        for at, part in enumerate(parts):
            axes.scatter(
                *mask_undrawable(part.inputs).T,
                c=mask_undrawable(part.targets),
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
        bar.set_label(shorten(target, 220, 13), parse_math=False)
        _format_axes(axes, x, y, names)
        draw_legend(axes, _make_marker_legend(parts), [part.name for part in parts])

    return render_axes(draw, size=SQUARE)


def plot_decision_regions(
    x: Floats,
    y: Floats,
    labels: NDArray[np.int64],
    borders: Lines,
    parts: Sequence[PointSet],
    *,
    names: tuple[str, str],
    classes: Sequence[str],
    margins: Floats,
) -> str:
    """Draw each class's region, and the borders between them; points have their true class's color.

    Args:
        labels: the predicted class over x (A,) and y (B,), (A, B).
        borders: lines (n, 2) along which the prediction changes.
        margins: by how much each class leads, (A, B, K); at least 0 where it is predicted.
    """

    def draw(axes: Any) -> None:
        for label in np.unique(labels):
            area = np.ma.masked_invalid(mask_undrawable(margins[..., label].T))
            if not area.count():
                continue
            if float(area.min()) >= 0 and area.count() == area.size:
                axes.axvspan(x[0], x[-1], color=_get_color(label), alpha=0.2, linewidth=0)
            else:
                axes.contourf(
                    x, y, area, levels=[0.0, max(1.0, 2 * float(area.max()))], colors=[_get_color(label)], alpha=0.2
                )
        for line in borders:
            axes.plot(line[:, 0], line[:, 1], color=INK, linewidth=2, gid="border", zorder=3)
        for at, part in enumerate(parts):
            for label in np.unique(part.targets):
                points = mask_undrawable(part.inputs[part.targets == label])
                axes.plot(
                    points[:, 0],
                    points[:, 1],
                    MARKS[at],
                    color=_get_color(label),
                    markersize=5.5,
                    markeredgecolor="#ffffff",
                    markeredgewidth=0.7,
                    alpha=0.9,
                    zorder=4,
                )
        _format_axes(axes, x, y, names)
        markers, words = _make_class_legend(classes)
        if not markers:
            _draw_class_names(axes, classes, parts)
        draw_legend(axes, markers + _make_marker_legend(parts), [*words, *(part.name for part in parts)])

    return render_axes(draw, size=SQUARE)


def plot_class_probabilities(
    x: Floats,
    probabilities: Floats,
    boundaries: Sequence[float],
    parts: Sequence[PointSet],
    *,
    names: tuple[str, str],
    classes: Sequence[str],
) -> str:
    """Draw each class's probability over one input, (M, K), and the data beneath, a row for each class.

    Args:
        boundaries: where the prediction changes.
        names: of the input and of the probability.
    """

    def draw(axes: Any) -> None:
        count = probabilities.shape[1]
        step = 0.09 if count <= 4 else 0.36 / count
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for boundary in boundaries:
            axes.axvline(boundary, color=INK, linewidth=1.4, linestyle=(0, (2, 3)))
        for label in range(count):
            style = STYLES[label // len(SERIES) % len(STYLES)]
            axes.plot(
                x,
                mask_undrawable(probabilities[:, label]),
                style,
                color=_get_color(label),
                linewidth=2.4,
                gid=f"class-{label}",
            )
            for at, part in enumerate(parts):
                points = mask_undrawable(part.inputs[part.targets == label, 0])
                axes.plot(
                    points,
                    np.full(len(points), -step * (label + 1)),
                    MARKS[at],
                    color=_get_color(label),
                    markersize=4.5,
                    alpha=0.5,
                    markeredgewidth=0,
                )
        axes.set_ylim(-step * (count + 1), 1.04)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        _label_axes(axes, names)
        markers, words = _make_class_legend(classes)
        if not markers and count <= MAX_NAMED:
            words = list(classes)
            markers = [Line2D([], [], color=_get_color(label), linewidth=2.4) for label in range(count)]
            for label, marker in enumerate(markers):
                marker.set(linestyle=STYLES[label // len(SERIES)])
        draw_legend(axes, markers + _make_marker_legend(parts), [*words, *(part.name for part in parts)])

    return render_axes(draw, size=(SIZE[0], 4.2))


def _get_color(label: int) -> str:
    """Return a class's color; after six they come again."""
    return SERIES[int(label) % len(SERIES)]


def _make_class_legend(classes: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return a patch of color and a name for each class, none where there are more classes than colors."""
    named = classes if len(classes) <= len(SERIES) else ()
    markers = [
        Line2D([], [], linestyle="", marker="s", color=_get_color(label), markersize=9) for label in range(len(named))
    ]
    return markers, list(named)


def _draw_class_names(axes: Any, classes: Sequence[str], parts: Sequence[PointSet]) -> None:
    """Write each class's name where its points lie, for classes that share a color with others."""
    inputs, targets = np.concatenate([part.inputs for part in parts]), np.concatenate([part.targets for part in parts])
    seen = np.isfinite(mask_undrawable(inputs)).all(1)
    inputs, targets = inputs[seen], targets[seen]
    for label in np.unique(targets):
        x, y = np.median(inputs[targets == label], 0)
        name = shorten(classes[int(label)], 80, 11).replace("$", r"\$")
        box = {"facecolor": "#ffffff", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
        axes.text(x, y, name, fontsize=11, ha="center", va="center", zorder=6, bbox=box, clip_on=True)


def _make_marker_legend(parts: Sequence[PointSet]) -> list[Any]:
    """Return each part's marker in a neutral color."""
    return [Line2D([], [], linestyle="", marker=MARKS[at], color=MUTED, markersize=6) for at in range(len(parts))]


def _label_axes(axes: Any, names: tuple[str, str]) -> None:
    """Name the axes."""
    axes.set_xlabel(shorten(names[0], 280, 13), parse_math=False)
    axes.set_ylabel(shorten(names[1], 200, 13), parse_math=False)


def _format_axes(axes: Any, x: Floats, y: Floats, names: tuple[str, str]) -> None:
    """Set the limits to the range of x and y, label the axes, and hide the grid."""
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_ylim(float(y[0]), float(y[-1]))
    axes.grid(False)
    _label_axes(axes, names)


def draw_legend(axes: Any, markers: Sequence[Any], words: Sequence[str], *, row: float = ROW) -> None:
    """Name the markers beneath the drawing, in rows as long as its width, ``row`` in points, allows."""
    words = [shorten(word, NAME, LEGEND).replace("$", r"\$") for word in words]
    widths = [estimate_width(word, LEGEND) + 34 for word in words]
    # matplotlib measures with our font, in which East Asian characters are narrower than in the reader's
    extra = max((estimate_width(w, LEGEND) - estimate_width("x" * len(w), LEGEND) for w in words), default=0.0) / LEGEND
    columns = len(words) if sum(widths) <= row else max(1, int(row // max(widths)))
    # the legend is filled column by column, and read row by row
    order = [at for column in range(columns) for at in range(column, len(words), columns)]
    axes.figure.legend(
        [markers[at] for at in order],
        [words[at] for at in order],
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.4,
        columnspacing=1.2 + extra,
        handlelength=1.4,
        borderaxespad=0.2,
        labelspacing=0.35,
    )
