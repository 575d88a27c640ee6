"""Bars: one value with its deviation for each of several names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerwise.plotting.charts import SIZE, render_axes
from layerwise.plotting.svg import INK, SERIES, mask_undrawable, shorten

MAX_NAME_WIDTH = 190.0  # in points
TEXT = 13.0


def plot_bars(names: Sequence[str], values: Sequence[float], deviations: Sequence[float], *, x: str) -> str:
    """Draw a bar for each name, from top to bottom, with a line of one deviation to both sides.

    Args:
        names: what each bar is of; long ones are cut in their middle.
        values, deviations: the bars' lengths, and their deviations.
        x: the axis's name.
    """

    def draw(axes: Any) -> None:
        positions = range(len(names))
        axes.barh(
            positions,
            mask_undrawable(values),
            xerr=mask_undrawable(deviations),
            height=0.62,
            color=SERIES[0],
            ecolor=INK,
            error_kw={"linewidth": 1.4, "capsize": 3},
        )
        axes.set_yticks(positions, [shorten(name, MAX_NAME_WIDTH, TEXT).replace("$", r"\$") for name in names])
        axes.invert_yaxis()
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlabel(x, parse_math=False)

    return render_axes(draw, size=(SIZE[0] + 0.6, 1.1 + 0.31 * max(2, len(names))))


def plot_reliability(
    confidences: Sequence[float], accuracies: Sequence[float], counts: Sequence[int], *, width: float, x: str, y: str
) -> str:
    """Draw accuracy against confidence, in bins, with the line on which the two are equal.

    Args:
        confidences, accuracies: by bin, the predictions' mean probability and the share of correct ones.
        counts: the predictions in each bin: the paler a bar, the fewer.
        width: of a bin.
        x, y: the axes' names.
    """

    def draw(axes: Any) -> None:
        most = max(counts, default=1)
        for a, b, n in zip(mask_undrawable(confidences), mask_undrawable(accuracies), counts, strict=True):
            axes.bar(a, b, width=0.8 * width, color=SERIES[0], alpha=0.25 + 0.75 * (n / most) ** 0.5, linewidth=0)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel(x, parse_math=False)
        axes.set_ylabel(y, parse_math=False)

    return render_axes(draw, size=(4.6, 4.4))
