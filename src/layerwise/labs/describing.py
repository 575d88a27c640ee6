"""A lab's result as text for a terminal, in English or Chinese."""

from __future__ import annotations

import textwrap
import unicodedata

from layerwise.labs.base import Cell, Lang, Result, Table, Text, signed

WIDTH = 100
NO_START = "，。；：、！？）」』》”"  # Chinese lines do not begin with these


def width(text: str) -> int:
    """Return how many columns a terminal needs: two for a wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(text: str, lang: Lang, mark: str = "") -> str:
    """Break a paragraph into indented lines, the first with a mark: between words, and in Chinese between characters
    too."""
    first, rest = "  " + mark, " " * (2 + len(mark))
    if lang == "en":
        return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest)
    lines, line = [], first
    for piece in _pieces(text):
        if width(line + piece.rstrip()) > WIDTH and piece not in NO_START:
            lines.append(line.rstrip())
            line = rest
        line += piece.lstrip() if line == rest else piece
    return "\n".join([*lines, line.rstrip()])


def _pieces(text: str) -> list[str]:
    """Cut a text where a line may break: after each wide character and after each blank."""
    pieces = [""]
    for c in text:
        if width(c) == 2:
            pieces += [c, ""]
        else:
            pieces[-1] += c
            if c == " ":
                pieces.append("")
    return [p for p in pieces if p]


def shown(cell: Cell, spec: str, lang: Lang) -> str:
    """Return a cell as text; a number by its column's format, with a true minus sign."""
    if cell is None:
        return ""
    if isinstance(cell, Text):
        return cell.of(lang)
    return cell if isinstance(cell, str) else format(cell, spec) if isinstance(cell, int) else signed(cell, spec)


def grid(table: Table, lang: Lang) -> str:
    """Return a table with aligned columns: numbers to the right, texts to the left."""
    head = [c.heading.of(lang) for c in table.columns]
    body = [[shown(v, c.spec, lang) for v, c in zip(row, table.columns, strict=True)] for row in table.rows]
    widths = [max(width(line[i]) for line in [head, *body]) for i in range(len(head))]
    right = [bool(c.spec) for c in table.columns]

    def line(cells: list[str]) -> str:
        gaps = [" " * (w - width(cell)) for cell, w in zip(cells, widths, strict=True)]
        joined = (g + c if r else c + g for c, g, r in zip(cells, gaps, right, strict=True))
        return ("  " + "  ".join(joined)).rstrip()

    rule = ["─" * w for w in widths]
    return "\n".join([line(head), line(rule), *(line(cells) for cells in body)])


def _verdict(result: Result, lang: Lang) -> str:
    """Return the sentence with verdict, margin and interval."""
    low, high = (signed(v, ".4g") for v in result.interval)
    mean, bound = (signed(v, ".4g") for v in (result.margin, result.findings.bound))
    what = result.lab.margin.of(lang)
    if lang == "zh":
        word = "成立" if result.held else "不成立"
        return (
            f"{word}。裕量 {mean}，95 % 区间 [{low}, {high}]，{result.seeds} 个随机种子；须大于 {bound}。裕量 = "
            f"{what}。"
        )
    word = "held" if result.held else "did not hold"
    return (
        f"{word}. Margin {mean}, 95 % interval [{low}, {high}] over {result.seeds} seeds; it must lie above "
        f"{bound}. The margin is {what}."
    )


def describe(result: Result, lang: Lang) -> str:
    """Return the whole result: title, claim, formula, method, table, checks, verdict, conclusion, figure."""
    lab = result.lab
    say = {
        "en": ("Claim", "Formula", "Method", "Measured", "Checks", "Verdict", "So", "Figure"),
        "zh": ("论断", "公式", "方法", "测量结果", "检查", "结论", "含义", "图"),
    }[lang]
    claim, formula, method, measured, checks, verdict, so, figure = say
    title = f"{lab.name} · {lab.claim_id} · {lab.title.of(lang)}"
    marks = [wrapped(c.text.of(lang), lang, "✓ " if c.passed else "✗ ") for c in result.findings.checks]
    parts = [
        title + "\n" + "═" * width(title),
        f"{claim}\n{wrapped(lab.claim.of(lang), lang)}",
        f"{formula}\n{textwrap.indent(lab.formula.of(lang), '  ')}",
        f"{method}\n{wrapped(lab.method.of(lang), lang)}",
        f"{measured}\n{grid(result.findings.table, lang)}",
        "\n".join([checks, *marks]),
        f"{verdict}\n{wrapped(_verdict(result, lang), lang)}",
        f"{so}\n{wrapped(result.conclusion.of(lang), lang)}",
    ]
    mode = {"quick": "快速", "normal": "标准", "full": "完整"}[result.mode] if lang == "zh" else result.mode
    seconds = f"{result.seconds:.1f} s, {mode}" if lang == "en" else f"{result.seconds:.1f} 秒，{mode}"
    parts.append(f"{figure}\n  {result.figure} ({seconds})" if result.figure else f"({seconds})")
    return "\n\n".join(parts)
