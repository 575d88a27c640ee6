"""What all SVG drawings share: colors, fonts, text widths, and inlining into a page.

A drawing is made on white, to be a file of its own. `inline_svg` fits it into a page: colors become the page's
variables (so that dark pages stay readable) and ids become unique.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.text_display import escape_control

MAX_DRAWABLE = 1e100  # the squares of distances between such numbers still fit in float64
INK, MUTED, GRID, PAPER = "#1d2430", "#59636e", "#d4d9df", "#fefefe"
# Okabe & Ito's palette, which readers with any common color blindness tell apart; yellow left out: too pale on white
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b1568a", "#9a6b00", "#2f8fc4")
RIGHT, WRONG = SERIES[0], SERIES[1]
FAMILIES = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "DejaVu Sans",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "sans-serif",
)
FONT = ", ".join(f"'{name}'" if " " in name else name for name in FAMILIES)

_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "none"} | {
    color: f"var(--s{number})" for number, color in enumerate(SERIES, start=1)
}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def mask_undrawable(values: Any) -> NDArray[np.float64]:
    """Return numbers as an array in which those not finite or beyond ±`MAX_DRAWABLE` are NaN: a gap in the drawing."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(array) <= MAX_DRAWABLE, array, np.nan)


def escape_text(text: object) -> str:
    """Return text safe inside SVG or HTML, with characters that XML forbids shown as a replacement sign, marks of
    direction escaped."""
    return html.escape(escape_control(_CONTROL.sub("\ufffd", str(text))))


def estimate_width(text: str, size: float) -> float:
    """Return about how wide a text is at a font size: East Asian characters take a whole square, others 0.6 of it."""
    return size * sum(
        0.0 if unicodedata.combining(c) else 1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in text
    )


def shorten(text: str, max_width: float, size: float) -> str:
    """Return the text, cut with an ellipsis in its middle so that it fits into ``max_width`` units at a font size."""
    text = escape_control(_CONTROL.sub("\ufffd", text))
    if estimate_width(text, size) <= max_width:
        return text
    keep = len(text)
    while keep > 2:
        keep -= 1
        cut = text[: keep - keep // 2] + "…" + text[len(text) - keep // 2 :]
        if estimate_width(cut, size) <= max_width:
            return cut
    return "…"


def build_svg(body: list[str], width: float, height: float) -> str:
    """Return an SVG file of the given elements."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}"'
            f' font-family="{html.escape(FONT)}">',
            f'<rect width="100%" height="100%" style="fill: {PAPER}"/>',
            *body,
            "</svg>\n",
        ]
    )


def inline_svg(svg: str, prefix: str) -> str:
    """Return an SVG file's drawing as an element for a page: no header, ids under ``prefix``, colors by the page's
    variables."""
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    drawing = re.sub(r'\bid="', f'id="{prefix}-', drawing)
    drawing = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", drawing)
    for color, variable in _VARIABLES.items():
        drawing = re.sub(rf"\b(fill|stroke): ?{color}", rf"\1: {variable}", drawing)
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", drawing, count=1).rstrip()
