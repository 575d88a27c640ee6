"""Text for output: to a terminal, which obeys control characters, and to a spreadsheet, which runs formulas.

Names of classes, columns and files come from strangers. The program keeps them as they are; the functions here make
them harmless.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

# Control characters but newline and tab (C0, DEL, C1), marks and overrides of direction, separators of lines and
# paragraphs, deprecated format characters, annotations, and lone surrogates. Joiners stay: Indic scripts, Persian and
# emoji need them.
_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff"
_CONTROL = re.compile(f"[{_UNSAFE}]")
_CONTROL_OR_BREAK = re.compile(f"[{_UNSAFE}\t\n]")
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-(\[\d+\])?"
)  # also "-" and "-[3]": standard input and a row of it
_PLAIN = re.compile(
    r"[\w.\[\]/\0]+"
)  # letters, digits and what paths are made of, with NUL between: no formulas, nothing to quote
_QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$')  # a semicolon ends a cell where a comma is the decimal mark


def escape_control(text: str, *, single_line: bool = False) -> str:
    """Return text that a terminal shows as it is: control characters become ``\\x1b``, ``\\u202e`` and the like.

    Newlines and tabs stay, unless it is to be ``single_line``. What is escaped once is not changed by escaping it
    again.
    """
    return (_CONTROL_OR_BREAK if single_line else _CONTROL).sub(_escape_character, text)


def escape_json(text: str) -> str:
    """Return JSON text of the same meaning without characters that direct a terminal."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape_character(match: re.Match[str]) -> str:
    """Return a character as Python writes it."""
    return match[0].encode("unicode_escape").decode("ascii")


def write_line(*parts: object, stream: TextIO | None = None) -> None:
    """Write parts with blanks between them as a line to standard output, or to another stream, without control
    characters."""
    print(escape_control(" ".join(map(str, parts))), file=stream or sys.stdout)


def write_note(text: object) -> None:
    """Write a note or an error of the command to standard error, without control characters."""
    write_line(f"layerwise: {text}", stream=sys.stderr)


@contextmanager
def show_byte_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error if it is a terminal. Yield ``update(done, total)`` in bytes; a total of 0
    means unknown."""
    if not sys.stderr.isatty():
        yield lambda _done, _size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape_control(description), total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size or None)


def guard_formula(cell: str) -> str:
    """Return a cell that no spreadsheet runs: one that begins like a formula gets an apostrophe, as spreadsheets mark
    text.

    A cell begins like a formula with ``=``, ``+``, ``-``, ``@`` (also the full-width forms), a tab or a line break.
    Plain numbers stay.
    """
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def unguard_formula(cell: str) -> str:
    """Return a cell as it was before `guard_formula`."""
    return cell[1:] if cell.startswith("'") and guard_formula(cell[1:]) == cell else cell


def format_row(cells: Iterable[object], delimiter: str = ",") -> str:
    """Return cells as a row of a table with its newline (RFC 4180); cells that are text go through `guard_formula`.

    With a tab as ``delimiter`` cells are not quoted: tabs, line breaks and control characters in them are escaped.
    """
    row = list(cells)
    plain = "\0".join(map(str, row))
    # nearly all rows are plain, and a million rows take one match each
    if _PLAIN.fullmatch(plain) and None not in row and plain.count("\0") == len(row) - 1:
        return plain.replace("\0", delimiter) + "\n"
    return delimiter.join([_format_cell(cell, delimiter) for cell in row]) + "\n"


def _format_cell(cell: object, delimiter: str) -> str:
    """Return a cell as a row contains it."""
    text = guard_formula(cell) if isinstance(cell, str) else "" if cell is None else str(cell)
    if delimiter == "\t":
        return escape_control(text, single_line=True)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
