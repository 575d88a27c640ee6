"""Questions whose answers are known, from a table of two columns."""

from __future__ import annotations

from pathlib import Path

from layerwise.errors import DataError
from layerwise.text_display import unguard_formula


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the questions of a table, each once, in order, and the names of the passages that answer each.

    The first column holds questions, the second names; a question with several answers has several rows. Cells that
    `text_display.format_row` guarded against spreadsheets are read as they were.

    Raises `DataError` for a file that cannot be read, for rows without both, and for an empty one.
    """
    from layerwise.data.tables import table_files  # pyarrow is slow to import

    found: dict[str, list[str]] = {}
    row = 0
    for rows in table_files.rows(path):
        for cells in rows:
            row += 1
            values = [unguard_formula(str(value).strip()) for value in cells.values() if value is not None]
            if len(values) < 2 or not all(values[:2]):
                raise DataError(
                    f"{path} row {row} is no question with an answer",
                    expected="two columns: a question, the name of a passage",
                    received=", ".join(values),
                )
            found.setdefault(values[0], []).append(values[1])
    if not found:
        raise DataError(f"{path} has no questions", expected="two columns: a question, the name of a passage")
    return list(found), [list(dict.fromkeys(names)) for names in found.values()]
