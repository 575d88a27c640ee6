"""A lab's result as text for a terminal, in English or Chinese."""

from __future__ import annotations

import textwrap
import unicodedata

from layerwise.labs.base import Cell, Lang, Result, Table, Text, format_signed

WIDTH = 100
NO_START = "，。；：、！？）」』》”"  # Chinese lines do not begin with these


def measure_width(text: str) -> int:
    """Return how many columns a terminal needs: two for a wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrap_paragraph(text: str, lang: Lang, mark: str = "") -> str:
    """Break a paragraph into indented lines, the first with a mark: between words, in Chinese between
    characters."""
    first, rest = "  " + mark, " " * (2 + len(mark))
    if lang == "en":
        return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest)
    lines, line = [], first
    for piece in _split_at_breaks(text):
        if measure_width(line + piece.rstrip()) > WIDTH and piece not in NO_START:
            lines.append(line.rstrip())
            line = rest
        line += piece.lstrip() if line == rest else piece
    return "\n".join([*lines, line.rstrip()])


def _split_at_breaks(text: str) -> list[str]:
    """Cut a text where a line may break: after each wide character and after each blank."""
    pieces = [""]
    for c in text:
        if measure_width(c) == 2:
            pieces += [c, ""]
        else:
            pieces[-1] += c
            if c == " ":
                pieces.append("")
    return [p for p in pieces if p]


def format_cell(cell: Cell, spec: str, lang: Lang) -> str:
    """Return a cell as text; a number by its column's format, with a true minus sign."""
    if cell is None:
        return ""
    if isinstance(cell, Text):
        return cell.of(lang)
    return cell if isinstance(cell, str) else format(cell, spec) if isinstance(cell, int) else format_signed(cell, spec)


def format_table(table: Table, lang: Lang) -> str:
    """Return a table with aligned columns: numbers to the right, texts to the left."""
    head = [c.heading.of(lang) for c in table.columns]
    body = []
    for row in table.rows:
        body.append([format_cell(value, c.spec, lang) for value, c in zip(row, table.columns, strict=True)])
    widths = [max(measure_width(row[i]) for row in [head, *body]) for i in range(len(head))]
    right = [bool(c.spec) for c in table.columns]

    def format_line(cells: list[str]) -> str:
        gaps = [" " * (w - measure_width(cell)) for cell, w in zip(cells, widths, strict=True)]
        padded = (g + c if r else c + g for c, g, r in zip(cells, gaps, right, strict=True))
        return ("  " + "  ".join(padded)).rstrip()

    rule = ["─" * w for w in widths]
    return "\n".join([format_line(head), format_line(rule), *(format_line(cells) for cells in body)])


def _format_verdict(result: Result, lang: Lang) -> str:
    """Return the sentence with verdict, margin and interval."""
    low, high = (format_signed(v, ".4g") for v in result.interval)
    mean, bound = (format_signed(v, ".4g") for v in (result.margin, result.findings.bound))
    margin_text = result.lab.margin.of(lang)
    if lang == "zh":
        word = "成立" if result.held else "不成立"
        return (
            f"{word}。裕量 {mean}，95 % 区间 [{low}, {high}]，{result.seeds} 个随机种子；须大于 {bound}。裕量 = "
            f"{margin_text}。"
        )
    word = "held" if result.held else "did not hold"
    return (
        f"{word}. Margin {mean}, 95 % interval [{low}, {high}] over {result.seeds} seeds; it must lie above "
        f"{bound}. The margin is {margin_text}."
    )


def format_result(result: Result, lang: Lang) -> str:
    """Return a result as text: title, claim, formula, method, table, checks, verdict, conclusion, figure."""
    lab = result.lab
    headings = {
        "en": ("Claim", "Formula", "Method", "Measured", "Checks", "Verdict", "Meaning", "Figure"),
        "zh": ("论断", "公式", "方法", "测量结果", "检查", "结论", "含义", "图"),
    }[lang]
    claim, formula, method, measured, checks, verdict, so, figure = headings
    title = f"{lab.name} · {lab.claim_id} · {lab.title.of(lang)}"
    checklist = [wrap_paragraph(c.text.of(lang), lang, "✓ " if c.passed else "✗ ") for c in result.findings.checks]
    parts = [
        title + "\n" + "═" * measure_width(title),
        f"{claim}\n{wrap_paragraph(lab.claim.of(lang), lang)}",
        f"{formula}\n{textwrap.indent(lab.formula.of(lang), '  ')}",
        f"{method}\n{wrap_paragraph(lab.method.of(lang), lang)}",
        f"{measured}\n{format_table(result.findings.table, lang)}",
        "\n".join([checks, *checklist]),
        f"{verdict}\n{wrap_paragraph(_format_verdict(result, lang), lang)}",
        f"{so}\n{wrap_paragraph(result.conclusion.of(lang), lang)}",
    ]
    mode = {"quick": "快速", "normal": "标准", "full": "完整"}[result.mode] if lang == "zh" else result.mode
    seconds = f"{result.seconds:.1f} s, {mode}" if lang == "en" else f"{result.seconds:.1f} 秒，{mode}"
    parts.append(f"{figure}\n  {result.figure} ({seconds})" if result.figure else f"({seconds})")
    return "\n\n".join(parts)
