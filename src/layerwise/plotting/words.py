"""Word vectors in two dimensions, words beside their points; and their lengths by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from layerwise.plotting.charts import composed, drawn
from layerwise.plotting.embedding import sign
from layerwise.plotting.functions import legend
from layerwise.plotting.svg import GRID, INK, MUTED, SERIES, shortened, width_of

TEXT, ROOM = 10.0, 110.0  # of a word: its size and room, in points
MAP, NORMS = (690.0, 500.0), (430.0, 235.0)  # the sides of a map and of the norms, in points
DOT, AWAY = 2.6, 4.8  # half a point's mark, and how far from its middle a word begins
DOTS = 4000  # of the norms, at most
Floats = NDArray[np.float64]


class Box(NamedTuple):
    """A rectangle, in points."""

    left: float
    right: float
    low: float
    high: float

    def meets(self, others: NDArray[np.float64]) -> bool:
        """Whether it lies over any of others (n, 4)."""
        return bool(
            (
                (others[:, 0] < self.right)
                & (others[:, 1] > self.left)
                & (others[:, 2] < self.high)
                & (others[:, 3] > self.low)
            ).any()
        )


class Spot(NamedTuple):
    """Where a word is written: the middle of its ``left``, ``right`` or ``center``, in points."""

    x: float
    y: float
    align: str


def laid(points: Floats, words: Sequence[str], room: tuple[float, float]) -> list[Spot | None]:
    """Return where each word goes, over no point and no other word, or None where there is no room; earlier words
    first.

    Args:
        points: in points within the drawing, (n, 2).
        words: what is written beside each.
        room: the drawing's sides.
    """
    half = 0.55 * TEXT
    taken = np.stack([points[:, 0] - DOT, points[:, 0] + DOT, points[:, 1] - DOT, points[:, 1] + DOT], 1)
    found: list[Spot | None] = []
    for (x, y), word in zip(points.tolist(), words, strict=True):
        wide = width_of(word, TEXT)
        steps = [(AWAY, 0.0, "left"), (-AWAY, 0.0, "right")]
        steps += [(0.0, dy, align) for dy in (AWAY + half, -AWAY - half) for align in ("center", "left", "right")]
        for dx, dy, align in steps:
            left = x + dx - wide * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
            box = Box(left, left + wide, y + dy - half, y + dy + half)
            inside = box.left >= 0 and box.right <= room[0] and box.low >= 0 and box.high <= room[1]
            if inside and not box.meets(taken):
                taken = np.concatenate([taken, [box]])
                found.append(Spot(x + dx, y + dy, align))
                break
        else:
            found.append(None)
    return found


def word_map(title: str, places: Floats, words: Sequence[str], groups: NDArray[np.int64], names: Sequence[str]) -> str:
    """Draw words at places (n, 2), colored by group; a word that finds no room is a point alone. Axes have no meaning
    of their own."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        low, high = places.min(0), places.max(0)
        size = np.where(high > low, high - low, 1.0)
        points = (0.04 + 0.92 * (places - low) / size) * np.array(MAP)
        shown = [shortened(word, ROOM, TEXT) for word in words]
        for group in np.unique(groups):
            color, mark = sign(int(group))
            mine = points[groups == group]
            axes.plot(mine[:, 0], mine[:, 1], mark, color=color, markersize=2 * DOT, alpha=0.8, markeredgewidth=0)
        for word, spot, group in zip(shown, laid(points, shown, MAP), groups.tolist(), strict=True):
            if spot is not None:
                color = INK if not names else sign(group)[0]
                axes.text(
                    spot.x, spot.y, word, fontsize=TEXT, color=color, ha=spot.align, va="center", parse_math=False
                )
        axes.set_title(title, loc="left", fontsize=13, parse_math=False)
        axes.set(xticks=[], yticks=[], xlim=(0, MAP[0]), ylim=(0, MAP[1]))
        axes.grid(False)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set(visible=True, color=GRID)
        if names:
            signs = [
                Line2D([], [], linestyle="", marker=sign(k)[1], color=sign(k)[0], markersize=7)
                for k in range(len(names))
            ]
            legend(axes, signs, list(names), row=MAP[0])

    return composed(draw, size=(9.8, 7.6))


def norm_map(
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
        step = max(1, -(-len(x) // DOTS))
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
        for word, spot in zip(
            marked.values(), laid(shares * np.array(NORMS), list(marked.values()), NORMS), strict=True
        ):
            if spot is not None:
                at: Any = {"ha": spot.align, "va": "center", "transform": axes.transAxes}
                axes.text(spot.x / NORMS[0], spot.y / NORMS[1], word, fontsize=TEXT, color=INK, parse_math=False, **at)
        axes.set_xlabel(labels[0], parse_math=False)
        axes.set_ylabel(labels[1], parse_math=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)

    return drawn(draw, size=(7.2, 4.6))
