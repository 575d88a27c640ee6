"""Maps of many points in two dimensions, side by side, by class: color and mark together, with names where the points
lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from layerwise.plotting.charts import MARKS, composed
from layerwise.plotting.functions import legend
from layerwise.plotting.svg import GRID, INK, SERIES, shortened, width_of

NAMED = 24  # classes up to which a legend stands beneath, and names in the map
ROW = 620.0  # room of a row of the legend, in points
TEXT, ROOM, WIDE, HIGH = (
    11.0,
    100.0,
    340.0,
    330.0,
)  # of a name in a map: its size and room; a map's sides; all in points
SIGNS = len(SERIES) * len(MARKS)


class Panel(NamedTuple):
    """One map: its title and the places (N, 2)."""

    title: str
    places: NDArray[np.float64]


def sign(label: int) -> tuple[str, str]:
    """Return a class's color and mark: 36 pairs, neighbors differing in both; then they come again."""
    turn = label // len(SERIES)
    return SERIES[label % len(SERIES)], MARKS[(label + turn) % len(MARKS)]


def apart(middles: NDArray[np.float64], widths: Sequence[float]) -> NDArray[np.float64]:
    """Move names that would lie over each other down or up: middles (n, 2) and widths in points; their order from top
    to bottom stays."""
    placed: list[int] = []
    found = np.array(middles, dtype=np.float64)
    step = 1.35 * TEXT
    for at in np.argsort(-found[:, 1], kind="stable"):
        for other in placed:
            beside = abs(found[at, 0] - found[other, 0]) < (widths[at] + widths[other]) / 2
            if beside and found[other, 1] - found[at, 1] < step:
                found[at, 1] = found[other, 1] - step
        placed.append(int(at))
    lowest = float(found[:, 1].min(initial=TEXT))
    found[:, 1] += max(0.0, TEXT - lowest)
    return found


def _names(axes: Any, places: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Write each class's name where its points lie, no name over another."""
    present = [int(label) for label in np.unique(labels)]
    names = [shortened(classes[k], ROOM, TEXT) for k in present]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    corner, size = np.array([left, low]), np.array([right - left, high - low])
    room = np.array([WIDE, HIGH])
    middles = np.array([np.median(places[labels == k], 0) for k in present])
    widths = [width_of(name, TEXT) for name in names]
    for name, (x, y) in zip(names, apart((middles - corner) / size * room, widths) / room, strict=True):
        box = {"facecolor": "#ffffff", "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.1"}
        place: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes, "zorder": 6}
        axes.text(x, y, name, fontsize=TEXT, color=INK, bbox=box, parse_math=False, **place)


def maps(panels: Sequence[Panel], labels: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw maps of the same points side by side.

    Args:
        panels: the maps. Their axes have no meaning of their own, so they have no numbers.
        labels: each point's class (N,).
        classes: their names.
    """
    present = [int(label) for label in np.unique(labels)]

    def draw(figure: Any) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            for label in present:
                color, mark = sign(label)
                mine = panel.places[labels == label]
                axes.plot(mine[:, 0], mine[:, 1], mark, color=color, markersize=4.2, alpha=0.7, markeredgewidth=0)
            if len(present) <= NAMED:
                _names(axes, panel.places, labels, classes)
            axes.set_title(panel.title, loc="left", fontsize=13, parse_math=False)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            for side in ("top", "right", "left", "bottom"):
                axes.spines[side].set(visible=True, color=GRID)
        if len(present) <= NAMED:
            signs = [Line2D([], [], linestyle="", marker=sign(k)[1], color=sign(k)[0], markersize=7) for k in present]
            legend(grid[0], signs, [classes[k] for k in present], row=ROW)

    return composed(draw, size=(5.0 * len(panels), 5.4))
