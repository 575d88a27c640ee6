"""Maps of many points in two dimensions, side by side, by class: color and mark together, with names at the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from layerwise.plotting.charts import MARKS, render_figure
from layerwise.plotting.functions import draw_legend
from layerwise.plotting.svg import GRID, INK, SERIES, estimate_width, shorten

MAX_NAMED = 24  # classes up to which there are a legend and names in the map
ROW = 620.0  # width of a row of the legend, in points
TEXT, MAX_NAME_WIDTH = 11.0, 100.0  # a name's font size and width in a map, in points
MAP_WIDTH, MAP_HEIGHT = 340.0, 330.0  # in points


class Panel(NamedTuple):
    """One map: its title and its points (N, 2)."""

    title: str
    points: NDArray[np.float64]


def get_marker(label: int) -> tuple[str, str]:
    """Return a class's color and mark: 36 pairs, neighbors differing in both; then they come again."""
    round_number = label // len(SERIES)
    return SERIES[label % len(SERIES)], MARKS[(label + round_number) % len(MARKS)]


def spread_labels(middles: NDArray[np.float64], widths: Sequence[float]) -> NDArray[np.float64]:
    """Move names that would lie over each other down or up: middles (n, 2) and widths in points; their order from top
    to bottom stays."""
    placed: list[int] = []
    positions = np.array(middles, dtype=np.float64)
    step = 1.35 * TEXT
    for index in np.argsort(-positions[:, 1], kind="stable"):
        for other in placed:
            overlaps = abs(positions[index, 0] - positions[other, 0]) < (widths[index] + widths[other]) / 2
            if overlaps and positions[other, 1] - positions[index, 1] < step:
                positions[index, 1] = positions[other, 1] - step
        placed.append(int(index))
    lowest = float(positions[:, 1].min(initial=TEXT))
    positions[:, 1] += max(0.0, TEXT - lowest)
    return positions


def _draw_class_names(
    axes: Any, points: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Write each class's name where its points lie, no name over another."""
    present = [int(label) for label in np.unique(labels)]
    names = [shorten(classes[k], MAX_NAME_WIDTH, TEXT) for k in present]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    corner, size = np.array([left, low]), np.array([right - left, high - low])
    map_size = np.array([MAP_WIDTH, MAP_HEIGHT])
    middles = np.array([np.median(points[labels == k], 0) for k in present])
    widths = [estimate_width(name, TEXT) for name in names]
    for name, (x, y) in zip(names, spread_labels((middles - corner) / size * map_size, widths) / map_size, strict=True):
        box = {"facecolor": "#ffffff", "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.1"}
        style: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes, "zorder": 6}
        axes.text(x, y, name, fontsize=TEXT, color=INK, bbox=box, parse_math=False, **style)


def plot_maps(panels: Sequence[Panel], labels: NDArray[np.int64], classes: Sequence[str]) -> str:
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
                color, mark = get_marker(label)
                own_points = panel.points[labels == label]
                axes.plot(
                    own_points[:, 0], own_points[:, 1], mark, color=color, markersize=4.2, alpha=0.7, markeredgewidth=0
                )
            if len(present) <= MAX_NAMED:
                _draw_class_names(axes, panel.points, labels, classes)
            axes.set_title(panel.title, loc="left", fontsize=13, parse_math=False)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            for side in ("top", "right", "left", "bottom"):
                axes.spines[side].set(visible=True, color=GRID)
        if len(present) <= MAX_NAMED:
            markers = [
                Line2D([], [], linestyle="", marker=get_marker(k)[1], color=get_marker(k)[0], markersize=7)
                for k in present
            ]
            draw_legend(grid[0], markers, [classes[k] for k in present], row=ROW)

    return render_figure(draw, size=(5.0 * len(panels), 5.4))
