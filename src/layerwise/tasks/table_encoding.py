"""Tables to encoded rows, a column at a time: this makes predictions for a long file fast."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from layerwise.data.source import Array
from layerwise.data.tables import table_columns
from layerwise.tasks.column_encoders import UNSEEN, CategoryEncoder, ColumnEncoder, DateEncoder
from layerwise.tasks.row_inputs import RowInputs


def parse_table(inputs: RowInputs, table: pa.Table) -> Array | None:
    """Return a table's rows as a source holds them (N, D), by column name, or by position where the file names no
    columns.

    None if some cell is faulty or a column is missing: then the caller reads each row alone, to say which and why.
    """
    names = table.column_names
    if has_default_names(names) and len(names) == len(inputs.encoders):
        table = table.rename_columns(list(inputs.features))
    columns = []
    for encoder in inputs.encoders:
        if encoder.name not in table.column_names:
            return None
        values = _parse_column(encoder, table[encoder.name], inputs)
        if values is None:
            return None
        columns.append(values)
    return np.stack(columns, 1)


def has_default_names(names: list[str]) -> bool:
    """Whether these are the names that columns get in a file without a header."""
    return names == [f"column{number}" for number in range(1, len(names) + 1)]


def find_unseen(inputs: RowInputs, cells: Array) -> dict[int, list[int]]:
    """Return, for each row with categories never seen in training, their columns' positions."""
    positions = [at for at, encoder in enumerate(inputs.encoders) if isinstance(encoder, CategoryEncoder)]
    rows, columns = np.nonzero(cells[:, positions] == UNSEEN)
    out: dict[int, list[int]] = {}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        out.setdefault(row, []).append(positions[column])
    return out


def _parse_column(encoder: ColumnEncoder, cells: pa.ChunkedArray, inputs: RowInputs) -> Array | None:
    """Return a column (N,) as a source holds it, or None if some cell is faulty."""
    cells = table_columns.tidy(cells, table_columns.TEXT_MISSING_MARKS | set(inputs.missing))
    if isinstance(encoder, CategoryEncoder):
        indices = pc.index_in(
            table_columns.convert_to_text(cells), value_set=pa.array(encoder.values, pa.string())
        ).cast(pa.float64())
        missing = cells.is_null().to_numpy()
        values = np.where(missing, np.nan, np.nan_to_num(indices.to_numpy(), nan=UNSEEN))
        return None if encoder.unseen == "refuse" and (values == UNSEEN).any() else values
    if cells.null_count and not encoder.has_missing:
        return None
    try:
        if inputs.dates and isinstance(encoder, DateEncoder) and table_columns.is_text(cells.type):
            # another format raises, and the rows are read alone
            cells = pc.strptime(cells, format=inputs.dates, unit="us")
        kind = pa.timestamp("us") if isinstance(encoder, DateEncoder) else pa.float64()
        cells = cells.cast(pa.int8()) if pa.types.is_boolean(cells.type) else cells.cast(kind)
    except pa.ArrowException:
        return None
    values = (
        cells.cast(pa.int64()).cast(pa.float64(), safe=False)
        if isinstance(encoder, DateEncoder)
        else cells.cast(pa.float64())
    )
    parsed: Array = values.to_numpy() / (table_columns.MICROSECONDS_PER_DAY if isinstance(encoder, DateEncoder) else 1)
    is_valid = np.isfinite(parsed[~cells.is_null().to_numpy()]).all() and not encoder.is_out_of_range(parsed).any()
    return parsed if is_valid else None
