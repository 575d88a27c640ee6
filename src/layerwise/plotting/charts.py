"""Charts by matplotlib, as SVG text: curves over epochs, predicted against true, bars and lines by layer.

No pyplot and no global state: a ``Figure`` each, inside ``rc_context``. Text stays text, so that any reader's fonts
    serve.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from layerwise.plotting.svg import FONT, GRID, INK, MAX_DRAWABLE, MUTED, PAPER, SERIES, mask_undrawable
from layerwise.text_display import escape_control

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "layerwise",
    "font.family": ["DejaVu Sans"],
    "font.size": 13,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 13,
    "axes.axisbelow": True,
    "lines.linewidth": 2.2,
    "axes.unicode_minus": True,
}
SIZE = (5.0, 3.1)  # inches: 360 points, a telephone's width, so that text of 13 points stays readable there
STYLES = ("-", "--", ":", "-.")  # tell lines apart without color
MARKS = ("o", "s", "^", "D", "v", "P")
NO_DATES: dict[str, None] = {"Date": None, "Creator": None, "Format": None, "Type": None}


def render_axes(draw: Callable[[Any], None], *, size: tuple[float, float] = SIZE) -> str:
    """Return the SVG text of what ``draw(axes)`` draws. The same drawing gives the same bytes."""
    return render_figure(lambda figure: draw(figure.subplots()), size=size)


def render_figure(draw: Callable[[Figure], None], *, size: tuple[float, float] = SIZE) -> str:
    """Return the SVG text of what ``draw(figure)`` draws: of several axes. The same drawing gives the same bytes."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # matplotlib only measures with our font; the reader's fonts have the glyphs
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=NO_DATES)
    text = re.sub(r"'DejaVu Sans'(, ?[^;\"]*)?(?=[;\"])", FONT, buffer.getvalue())
    return escape_control(re.sub(r"<!--.*?-->\s*", "", text, flags=re.S))


def plot_curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    best: float | None = None,
    best_label: str = "",
    percent: bool = False,
) -> str:
    """Draw lines over epochs.

    Args:
        series: (epoch, value) pairs by the line's name; values that are not finite are left out, and so is a line
            without any (its color stays reserved, so that a name has the same color in every drawing).
        x, y: the axes' names.
        best: an epoch to mark, with its label.
        percent: show values as per cent.
    """

    def draw(axes: Any) -> None:
        values = []
        for number, (name, points) in enumerate(series.items()):
            finite = [(a, b) for a, b in points if abs(b) <= MAX_DRAWABLE]
            if not finite:
                continue
            values += [b for _, b in finite]
            mark = MARKS[number % len(MARKS)] if len(finite) <= 25 else None
            axes.plot(
                [a for a, _ in finite],
                [b for _, b in finite],
                STYLES[number % 4],
                marker=mark,
                markersize=4.5,
                color=SERIES[number % len(SERIES)],
                label=name,
            )
        if best is not None:
            axes.axvline(best, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label=best_label or None)
        if values and min(values) > 0 and max(values) / min(values) > 30 and not percent:
            axes.set_yscale("log")
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_xlabel(x, parse_math=False)
        axes.set_ylabel(y, parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        if values:
            axes.legend(loc="best", handlelength=2.4)

    return render_axes(draw)


def plot_scatter(true: Sequence[float], predicted: Sequence[float], *, x: str, y: str) -> str:
    """Draw predicted against true values, with the line on which they are equal. At most 2,000 evenly spaced points.

    Pairs with a number that is not finite are left out.
    """

    def draw(axes: Any) -> None:
        step = max(1, -(-len(true) // 2000))
        a, b = mask_undrawable(list(true)[::step]), mask_undrawable(list(predicted)[::step])
        known = np.concatenate([a, b])
        known = known[np.isfinite(known)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(a, b, "o", color=SERIES[0], markersize=5, alpha=0.55, markeredgewidth=0)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(x, parse_math=False)
        axes.set_ylabel(y, parse_math=False)

    return render_axes(draw, size=(5.0, 4.4))


def plot_by_layer(series: Mapping[str, Sequence[float]], layers: Sequence[str], *, y: str) -> str:
    """Draw positive magnitudes by layer on a logarithmic axis; zeros are left out.

    Args:
        series: one value for each layer, by the line's name.
        layers: the layers' names, from the input to the output.
        y: the vertical axis's name.
    """

    def draw(axes: Any) -> None:
        for number, (name, values) in enumerate(series.items()):
            at = [i for i, v in enumerate(values) if 1 / MAX_DRAWABLE <= v <= MAX_DRAWABLE]
            axes.plot(
                at,
                [values[i] for i in at],
                STYLES[number % 4],
                marker=MARKS[number % len(MARKS)],
                markersize=6,
                color=SERIES[number % len(SERIES)],
                label=name,
            )
        axes.set_yscale("log")
        axes.set_xticks(range(len(layers)), [name.replace("$", r"\$") for name in layers])
        if len(layers) > 6 or max((len(name) for name in layers), default=0) > 8:
            axes.tick_params(axis="x", labelrotation=60)
        axes.set_ylabel(y, parse_math=False)
        if series:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return render_axes(draw, size=(max(6.0, 2.5 + 0.5 * len(layers)), 3.6))


def draw_histogram(axes: Any, edges: Sequence[float], counts: Sequence[float], *, colors: Sequence[str]) -> None:
    """Draw a histogram's bars, each in its color, as shares of all, without a vertical scale: it compares shapes."""
    total = max(1.0, float(sum(counts)))
    for color in dict.fromkeys(colors):  # one outline a color keeps the file small
        axes.stairs(
            [c / total if own == color else 0.0 for c, own in zip(counts, colors, strict=True)],
            edges,
            fill=True,
            color=color,
        )
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))
