"""Word vectors in two dimensions, with words at their points; and their lengths by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from layerwise.plotting.charts import render_axes, render_figure
from layerwise.plotting.embedding import get_marker
from layerwise.plotting.functions import draw_legend
from layerwise.plotting.svg import GRID, INK, MUTED, SERIES, estimate_width, shorten

TEXT, MAX_WORD_WIDTH = 10.0, 110.0  # a word's font size and width, in points
MAP, NORMS = (690.0, 500.0), (430.0, 235.0)  # the sides of a map and of the norms, in points
DOT, LABEL_DISTANCE = 2.6, 4.8  # half a point's mark, and how far from its middle a word begins
MAX_POINTS = 4000  # of the norms, at most
Floats = NDArray[np.float64]


class Box(NamedTuple):
    """A rectangle, in points."""

    left: float
    right: float
    low: float
    high: float

    def overlaps(self, others: NDArray[np.float64]) -> bool:
        """Whether it lies over any of others (n, 4)."""
        return bool(
            (
                (others[:, 0] < self.right)
                & (others[:, 1] > self.left)
                & (others[:, 2] < self.high)
                & (others[:, 3] > self.low)
            ).any()
        )


class LabelPosition(NamedTuple):
    """Where a word is written: the middle of its ``left``, ``right`` or ``center``, in points."""

    x: float
    y: float
    align: str


def place_labels(points: Floats, words: Sequence[str], size: tuple[float, float]) -> list[LabelPosition | None]:
    """Return where each word goes, over no point and no other word, or None where it does not fit; earlier words
    first.

    Args:
        points: in points within the drawing, (n, 2).
        words: the text of each.
        size: the drawing's sides.
    """
    half = 0.55 * TEXT
    occupied = np.stack([points[:, 0] - DOT, points[:, 0] + DOT, points[:, 1] - DOT, points[:, 1] + DOT], 1)
    positions: list[LabelPosition | None] = []
    for (x, y), word in zip(points.tolist(), words, strict=True):
        width = estimate_width(word, TEXT)
        steps = [(LABEL_DISTANCE, 0.0, "left"), (-LABEL_DISTANCE, 0.0, "right")]
        steps += [
            (0.0, dy, align)
            for dy in (LABEL_DISTANCE + half, -LABEL_DISTANCE - half)
            for align in ("center", "left", "right")
        ]
        for dx, dy, align in steps:
            left = x + dx - width * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
            box = Box(left, left + width, y + dy - half, y + dy + half)
            inside = box.left >= 0 and box.right <= size[0] and box.low >= 0 and box.high <= size[1]
            if inside and not box.overlaps(occupied):
                occupied = np.concatenate([occupied, [box]])
                positions.append(LabelPosition(x + dx, y + dy, align))
                break
        else:
            positions.append(None)
    return positions


def plot_word_map(
    title: str, positions: Floats, words: Sequence[str], groups: NDArray[np.int64], names: Sequence[str]
) -> str:
    """Draw words at positions (n, 2), colored by group; a word that does not fit is a point alone. Axes have no meaning
    of their own."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        low, high = positions.min(0), positions.max(0)
        size = np.where(high > low, high - low, 1.0)
        points = (0.04 + 0.92 * (positions - low) / size) * np.array(MAP)
        labels = [shorten(word, MAX_WORD_WIDTH, TEXT) for word in words]
        for group in np.unique(groups):
            color, mark = get_marker(int(group))
            own_points = points[groups == group]
            axes.plot(
                own_points[:, 0], own_points[:, 1], mark, color=color, markersize=2 * DOT, alpha=0.8, markeredgewidth=0
            )
        for word, label_position, group in zip(labels, place_labels(points, labels, MAP), groups.tolist(), strict=True):
            if label_position is not None:
                color = INK if not names else get_marker(group)[0]
                axes.text(
                    label_position.x,
                    label_position.y,
                    word,
                    fontsize=TEXT,
                    color=color,
                    ha=label_position.align,
                    va="center",
                    parse_math=False,
                )
        axes.set_title(title, loc="left", fontsize=13, parse_math=False)
        axes.set(xticks=[], yticks=[], xlim=(0, MAP[0]), ylim=(0, MAP[1]))
        axes.grid(False)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set(visible=True, color=GRID)
        if names:
            markers = [
                Line2D([], [], linestyle="", marker=get_marker(k)[1], color=get_marker(k)[0], markersize=7)
                for k in range(len(names))
            ]
            draw_legend(axes, markers, list(names), row=MAP[0])

    return render_figure(draw, size=(9.8, 7.6))


def plot_norms(
    x: Floats,
    norms: Floats,
    means: Sequence[tuple[float, float]],
    marked: Mapping[int, str],
    *,
    labels: tuple[str, ...],
) -> str:
    """Draw the norms (V,) over frequency (V,) on a logarithmic axis, with the bands' means, and some words by name.

    Args:
        x, norms: of all words; of many, some evenly spaced ones are drawn.
        means: the bands' middles and means.
        marked: words to name, by row.
        labels: of the axes, the means and the points.
    """

    def draw(axes: Any) -> None:
        step = max(1, -(-len(x) // MAX_POINTS))
        axes.plot(
            x[::step], norms[::step], "o", color=SERIES[0], markersize=3, alpha=0.3, markeredgewidth=0, label=labels[3]
        )
        axes.plot(*zip(*means, strict=True), "-s", color=SERIES[1], markersize=5, label=labels[2])
        axes.set_xscale("log")
        low, high, top = x.min() / 1.6, x.max() * 1.6, 1.12 * float(norms.max())
        axes.set(xlim=(low, high), ylim=(0, top))
        rows = np.array(list(marked), dtype=np.int64)
        shares = np.stack([np.log(x[rows] / low) / np.log(high / low), norms[rows] / top], 1)
        axes.plot(x[rows], norms[rows], "o", color=MUTED, markersize=4)
        for word, label_position in zip(
            marked.values(), place_labels(shares * np.array(NORMS), list(marked.values()), NORMS), strict=True
        ):
            if label_position is not None:
                style: Any = {"ha": label_position.align, "va": "center", "transform": axes.transAxes}
                axes.text(
                    label_position.x / NORMS[0],
                    label_position.y / NORMS[1],
                    word,
                    fontsize=TEXT,
                    color=INK,
                    parse_math=False,
                    **style,
                )
        axes.set_xlabel(labels[0], parse_math=False)
        axes.set_ylabel(labels[1], parse_math=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)

    return render_axes(draw, size=(7.2, 4.6))
