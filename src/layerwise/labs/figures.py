"""Figures as one would put them on a slide: SVG with text that stays text, and the same bytes each time.

The canvas belongs to the figure: nothing global of matplotlib is touched. Colours are Okabe and Ito's (2008), told apart by the
colour-blind too.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from layerwise.labs.base import Lang

if TYPE_CHECKING:
    from layerwise.labs.base import Text

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, SOFT, FAINT = "#1B1F24", "#59636E", "#D8DEE4"
FONTS = (
    "'Helvetica Neue', Arial, 'Liberation Sans', 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', "
    "'Source Han Sans SC', 'WenQuanYi Micro Hei', 'DejaVu Sans', sans-serif"
)
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "layerwise",
    "font.family": ["DejaVu Sans"],
    "font.size": 14.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": 14.0,
    "axes.titlesize": 15.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 13.0,
    "ytick.labelsize": 13.0,
    "lines.linewidth": 2.4,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house's style inside, and put matplotlib's settings back at the end.

    Text is measured in a font that may lack Chinese glyphs; the reader's own font draws it, so that warning is left out.
    """
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def save_svg(draw: Callable[[Lang], Figure], lang: Lang, *, path: Path) -> Path:
    """Draw a figure in a language and write it as SVG. Returns the path; folders are made as needed."""
    with style():
        figure = draw(lang)
        FigureCanvasSVG(figure)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, transparent=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawn.getvalue().replace("'DejaVu Sans'", FONTS), encoding="utf-8")
    return path


def headline(figure: Figure, title: Text, subtitle: Text, *, lang: Lang) -> None:
    """Write what the figure shows at its top left, and below it what to look at."""
    figure.text(0.02, 0.955, title.of(lang), fontsize=19, fontweight="bold", va="center")
    figure.text(0.02, 0.893, subtitle.of(lang), fontsize=13.5, color=SOFT, va="center")


def label(axes: Axes, at: tuple[float, float], text: str, *, color: str, align: str = "left") -> None:
    """Write a label beside what it names, in the same colour, in data coordinates."""
    axes.text(*at, text, color=color, fontsize=13.5, fontweight="bold", ha=align, va="center", linespacing=1.35)
