"""Rows: from the cells of a table to what a network takes.

Shape letters: ``N`` rows, ``D`` columns, ``W`` numbers a row becomes, of which the last are the numbers of embedded
    categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Self

import msgspec
import numpy as np
import torch
from torch import Tensor

from layerwise.data.source import Array, ArraySource, Column, Relabeled, Source, Subset, fetch
from layerwise.errors import DataError, make_unknown_name_error
from layerwise.tasks.column_encoders import (
    CategoryEncoder,
    ColumnEncoder,
    DateEncoder,
    NumberEncoder,
    Scale,
    Unseen,
    fit_encoders,
)
from layerwise.tasks.inputs import Inputs
from layerwise.tasks.records import CategoryRecord, DateRecord, NumberRecord, RowInputsRecord

MAX_NAMED = 3  # values that a note names
ENCODERS: dict[type, Callable[..., ColumnEncoder]] = {
    NumberRecord: NumberEncoder,
    DateRecord: DateEncoder,
    CategoryRecord: CategoryEncoder,
}


@dataclass(frozen=True)
class RowInputs(Inputs):
    """Rows of a table, each column by its own encoder; embedded categories come last, in the order of the columns.

    ``missing``, ``dates`` and ``encoding`` say, as in ``[data]``, how the training table was written: raw rows and
    files for predictions are read in the same way.
    """

    kind = "row"
    encoders: tuple[ColumnEncoder, ...]
    missing: tuple[str, ...] = ()
    dates: str = ""
    encoding: str = "utf-8"

    @classmethod
    def fit(cls, source: Source, *, scale: Scale, embed_above: int = 0, unseen: Unseen = "unknown") -> Self:
        """Take each column's statistics or values from the training part.

        Categories with more than ``embed_above`` values (if not 0) are embedded, the others one-hot.
        """
        rows = np.asarray(fetch(source, np.arange(len(source))).inputs, dtype=np.float64)  # (N, D)
        return cls(fit_encoders(source.schema.table, rows, scale=scale, embed_above=embed_above, unseen=unseen))

    @classmethod
    def from_record(cls, saved: RowInputsRecord) -> Self:
        """Make the inputs again from what `to_json` returned, checked."""
        encoders: list[ColumnEncoder] = []
        for column in saved.columns:
            encoders.append(
                ENCODERS[type(column)](**{name: getattr(column, name) for name in column.__struct_fields__})
            )
        return cls(tuple(encoders), saved.missing, saved.dates, saved.encoding)

    def to_json(self) -> dict[str, Any]:
        """Return every column's encoder."""
        return {
            "kind": self.kind,
            "columns": [encoder.to_json() for encoder in self.encoders],
            "missing": list(self.missing),
            "dates": self.dates,
            "encoding": self.encoding,
        }

    @property
    def features(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(encoder.name for encoder in self.encoders)

    @cached_property
    def embedded(self) -> tuple[int, ...]:
        """How many vectors each embedded category needs."""
        return tuple(c.vector_count for c in self.encoders if isinstance(c, CategoryEncoder) and c.embed)

    @cached_property
    def _number_scales(self) -> tuple[Array, Array, Array] | None:
        """Shift, spread and clamp of each column, (D,), if all are numbers without missing values: then one step
        encodes all."""
        plain = [c for c in self.encoders if isinstance(c, NumberEncoder) and not c.has_missing]
        if len(plain) < len(self.encoders):
            return None
        return (
            np.array([c.shift for c in plain]),
            np.array([c.spread for c in plain]),
            np.array([c.clamp for c in plain]),
        )

    def model_args(self) -> dict[str, Any]:
        """Return ``features``, how many numbers a row becomes without the embedded categories, and ``embedded``."""
        return {"features": sum(c.width for c in self.encoders) - len(self.embedded), "embedded": self.embedded}

    def convert_source(self, source: Source) -> Source:
        """Return the source with its cells in these encoders' terms; categories are matched by name.

        Raises `DataError` unless it has the same columns, of the same kinds, in the same order, and float32 holds what
        they become.
        """
        schema = source.schema
        if schema.kind != "row" or schema.features != self.features:
            raise DataError(
                f"{source.name_of(0)} does not hold what this network was trained on",
                expected=f"columns {', '.join(self.features)}",
                received=f"columns {', '.join(schema.features)}" if schema.features else f"{schema.kind}s",
            )
        if isinstance(source, Relabeled | Subset):
            return replace(source, base=self.convert_source(source.base))
        assert isinstance(source, ArraySource)  # tables are in memory
        self._check_gaps(source)
        self._check_range(source)
        if schema.table == self.columns:
            return source
        cells = [c.recode(source.inputs[:, at], schema.table[at]) for at, c in enumerate(self.encoders)]
        converted = msgspec.structs.replace(schema, columns=self.columns)
        return replace(source, schema=converted, inputs=np.stack(cells, 1))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns' descriptions in a source in these encoders' terms."""
        return tuple(c.column for c in self.encoders)

    def notes(self, source: Source) -> tuple[str, ...]:
        """Return which values, never seen in training, are taken as unknown, and how many."""
        schema = source.schema
        if schema.features != self.features or schema.table == self.columns or not isinstance(source, ArraySource):
            return ()
        out = []
        for at, encoder in enumerate(self.encoders):
            if isinstance(encoder, CategoryEncoder) and schema.table[at].kind == "category":
                unseen = encoder.count_unseen(source.inputs[:, at], schema.table[at])
                if unseen:
                    names = ", ".join(f"'{value}'" for value in list(unseen)[:MAX_NAMED])
                    out.append(
                        f"{encoder.name}: {sum(unseen.values())} cell(s) never seen in training are taken as "
                        f"unknown, such as {names}"
                    )
        return tuple(out)

    def tensor(self, inputs: Array | list[Array]) -> Tensor:
        """Turn rows (N, D) as a source holds them into (N, W) float32."""
        rows = np.asarray(inputs, dtype=np.float64)
        if self._number_scales is not None:
            shift, spread, clamp = self._number_scales
            scaled = (rows - shift) / spread
            return torch.from_numpy(np.where(clamp, np.clip(scaled, 0, 1), scaled)).float()
        parts: list[Array] = []
        last: list[Array] = []
        for at, encoder in enumerate(self.encoders):
            embedded = isinstance(encoder, CategoryEncoder) and encoder.embed
            (last if embedded else parts).append(encoder.encode(rows[:, at]))
        return torch.from_numpy(np.hstack([*parts, *last])).float()

    def encode(self, raw: object) -> Tensor:
        """Turn a row into (W,): a mapping by column name, a sequence in column order, or text with commas."""
        return self.tensor(self.parse_row(raw)[None])[0]

    def parse_row(self, raw: object) -> Array:
        """Turn a raw row into what a source holds, (D,). Raises `DataError` naming the column that does not fit."""
        cells = zip(self.encoders, self.order_cells(raw), strict=True)
        return np.array([encoder.validate_cell(self._interpret_cell(encoder, cell)) for encoder, cell in cells])

    def _interpret_cell(self, encoder: ColumnEncoder, cell: object) -> object:
        """Return a raw cell with the training table's own marks of missing values and its own date format
        applied."""
        if not isinstance(cell, str):
            return cell
        if cell.strip() in self.missing:
            return None
        if self.dates and isinstance(encoder, DateEncoder):
            with suppress(ValueError):
                return datetime.strptime(cell.strip(), self.dates)
        return cell

    def order_cells(self, raw: object) -> Sequence[object]:
        """Return a raw row's cells in the order of the columns. Raises `DataError` or `UsageError` where they do not
        fit."""
        if isinstance(raw, str):
            raw = [cell.strip() for cell in raw.split(",")]
        if isinstance(raw, np.ndarray):
            raw = raw.tolist()
        if isinstance(raw, Mapping):
            for column in self.features:
                if column not in raw:
                    raise make_unknown_name_error("column", column, [str(name) for name in raw], where="the row given")
            raw = [raw[column] for column in self.features]
        if not isinstance(raw, Sequence) or len(raw) != len(self.encoders):
            got = f"{len(raw)} values" if isinstance(raw, Sequence) else type(raw).__name__
            what = "numbers" if self._number_scales is not None else "cells"
            raise DataError(
                "this row does not fit the network",
                expected=f"{len(self.encoders)} {what}: {', '.join(self.features)}",
                received=got,
            )
        return raw

    def probe(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw rows (count, W): normal numbers, and numbers of categories where these are embedded."""
        numbers = torch.randn(count, self.model_args()["features"], generator=generator)
        categories = [torch.randint(rows, (count, 1), generator=generator).float() for rows in self.embedded]
        return torch.cat([numbers, *categories], 1)

    def raw(self, tensor: Tensor) -> Tensor:
        """Return encoded rows (N, W) with the numbers (N, W) of columns of numbers in their own units, the others as
        encoded."""
        out = tensor.clone()
        at = 0
        for encoder in self.encoders:
            if isinstance(encoder, CategoryEncoder) and encoder.embed:
                continue
            if isinstance(encoder, NumberEncoder):
                out[:, at] = tensor[:, at] * encoder.spread + encoder.shift
            at += encoder.width
        return out

    @property
    def encoded_names(self) -> tuple[str, ...]:
        """A name for each of the numbers a row becomes, (W,): column, column=value, column (missing)."""
        out: list[str] = []
        last: list[str] = []
        for encoder in self.encoders:
            if isinstance(encoder, CategoryEncoder):
                if encoder.embed:
                    last.append(encoder.name)
                    continue
                out += [f"{encoder.name}={value}" for value in encoder.values]
            else:
                out += [encoder.name] * (encoder.width - encoder.has_missing)
            out += [f"{encoder.name} (missing)"] if encoder.has_missing else []
        return (*out, *last)

    def _check_range(self, source: ArraySource) -> None:
        """Refuse numbers and dates that float32 cannot hold."""
        for at, encoder in enumerate(self.encoders):
            if source.schema.table[at].kind == encoder.kind:
                beyond = np.flatnonzero(encoder.is_out_of_range(source.inputs[:, at]))
                if len(beyond):
                    row = int(beyond[0])
                    raise encoder.make_range_error(
                        f"{source.name_of(row)}: ", f"{source.inputs[row, at]:g} ({len(beyond)} such rows)"
                    )

    def _check_gaps(self, source: ArraySource) -> None:
        """Refuse missing values in columns of numbers and dates that never lacked a value in training."""
        for at, encoder in enumerate(self.encoders):
            missing = np.flatnonzero(np.isnan(source.inputs[:, at]))
            if len(missing) and not encoder.has_missing and not isinstance(encoder, CategoryEncoder):
                raise DataError(
                    f"{source.name_of(int(missing[0]))}: column '{encoder.name}' has no value ({len(missing)} such "
                    "rows), and never "
                    "lacked one in training",
                    expected=f"a {encoder.kind}",
                    do="fill or remove these rows",
                )
