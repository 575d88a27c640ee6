"""The style of the labs' figures: two panels wide, one set of colors, with text as SVG text.

A lab draws a `Figure` in a language; `save_svg` restores matplotlib's settings. The same drawing gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.labs.base import Lang, Text
from layerwise.plotting.charts import NO_DATES, STYLE
from layerwise.plotting.svg import FONT, INK, MUTED
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.folder_io import remove_new_folders_on_error

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # Okabe & Ito 2008
SIZE = (10.0, 5.2)  # inches: 720 × 374 points
SLIDE: dict[str, Any] = {
    "font.size": 14,
    "axes.labelsize": 14,
    "xtick.labelsize": 13,
    "ytick.labelsize": 13,
    "axes.labelcolor": INK,
}


def save_svg(draw: Callable[[Lang], Figure], lang: Lang, *, path: Path) -> Path:
    """Draw a figure in a language and write it as SVG. Returns the path; missing folders are created."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE | SLIDE), warnings.catch_warnings():
        # matplotlib only measures the text; the reader's fonts have the Chinese glyphs
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        draw(lang).savefig(buffer, format="svg", metadata=NO_DATES)
    text = re.sub(r"'DejaVu Sans'(, ?[^;\"]*)?(?=[;\"])", FONT, buffer.getvalue())
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    with remove_new_folders_on_error(path.parent):
        make_folder(path.parent)
        write_file(path, text.encode())
    return path


def add_headline(figure: Figure, title: Text, subtitle: Text, *, lang: Lang) -> None:
    """Write the title at the figure's top left, and the subtitle below it."""
    figure.text(0.025, 0.945, title.of(lang), fontsize=19, fontweight="bold", va="center")
    figure.text(0.025, 0.878, subtitle.of(lang), fontsize=13.5, color=MUTED, va="center")


def add_label(axes: Axes, at: tuple[float, float], text: str, *, color: str, align: str = "left") -> None:
    """Write a label beside what it names, in the same color, in data coordinates."""
    axes.text(*at, text, color=color, fontsize=13.5, fontweight="bold", ha=align, va="center", linespacing=1.35)
