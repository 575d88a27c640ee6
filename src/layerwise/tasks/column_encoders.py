"""Encode table columns as numbers, with one encoder per column, fitted on the training part and saved with the weights.
A missing value becomes 0 in every number, and an indicator of 1.

Shape letters: ``N`` rows, ``W`` the numbers a column becomes. A gap becomes 0 in every number and 1 in a number of
its own, if the training table had missing values in that column: marked, not guessed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, ClassVar, Literal, Self

import numpy as np

from layerwise.data.source import FLOAT32_MAX, Array, Column
from layerwise.data.tables.table_columns import TEXT_MISSING_MARKS
from layerwise.errors import DataError
from layerwise.tasks.records import Unseen as Unseen
from layerwise.tasks.scaling import is_out_of_range, range_scale, standard_scale

Scale = Literal["standard", "unit", "none"]
YEAR, WEEK = 365.2425, 7.0  # days
UNSEEN = -1.0


@dataclass(frozen=True)
class ColumnEncoder(ABC):
    """How one column becomes numbers. ``has_missing``: whether the table that was trained on had cells without a
    value."""

    kind: ClassVar[str]
    name: str
    has_missing: bool

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers the column becomes, W."""

    @property
    @abstractmethod
    def column(self) -> Column:
        """The column's description in a source in this encoder's terms."""

    @abstractmethod
    def encode(self, cells: Array) -> Array:
        """Turn cells (N,) as a source holds them into (N, W) float64; NaN marks a missing value."""

    @abstractmethod
    def parse_cell(self, raw: object) -> float:
        """Turn one raw cell into what a source holds: NaN for a missing value. Raises `DataError` for what the column
        cannot hold."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what must travel with the weights."""

    def recode(self, cells: Array, column: Column) -> Array:
        """Turn another source's cells (N,) of this column into this encoder's terms. Raises `DataError` for another
        kind."""
        if column.kind != self.kind:
            raise DataError(
                f"the column '{self.name}' does not hold what this network was trained on",
                expected=f"a {self.kind}",
                received=f"a {column.kind}",
                do="look at its first faulty cell; --set data.categories, data.missing and data.dates say how "
                "cells are read",
            )
        return cells

    def is_out_of_range(self, cells: Array) -> Array:
        """Return which cells (N,) float32 cannot hold, as they are or once they are encoded."""
        return np.zeros(len(cells), dtype=bool)

    def make_range_error(self, where: str, received: str) -> DataError:
        """Return the error for such a cell."""
        return DataError(
            f"{where}column '{self.name}' is out of range for float32, as it is or scaled as in training",
            expected=f"a {self.kind} of at most {FLOAT32_MAX:.4g} in size, before and after scaling",
            received=received,
            do="correct or remove this row",
        )

    def validate_cell(self, raw: object) -> float:
        """Turn one raw cell into what a source holds, and refuse a missing value where training had none, and what
        float32 cannot hold."""
        value = self.parse_cell(raw)
        if np.isnan(value) and not self.has_missing:
            raise DataError(
                f"column '{self.name}' has no value, and never lacked one in training",
                expected=f"a {self.kind}",
                received=f"{raw!r}",
            )
        if self.is_out_of_range(np.array([value]))[0]:
            raise self.make_range_error("", f"{raw!r}")
        return value

    def add_missing_indicator(self, values: Array, missing: Array) -> Array:
        """Return values (N, W) with zeros in missing rows (N,), and, if training had any, a column that is 1 there."""
        values = np.where(missing[:, None], 0.0, values)
        return np.hstack([values, missing[:, None].astype(np.float64)]) if self.has_missing else values


@dataclass(frozen=True)
class NumberEncoder(ColumnEncoder):
    """A number: (x − shift) / spread, clamped to [0, 1] if ``clamp``."""

    kind = "number"
    shift: float
    spread: float
    clamp: bool

    @classmethod
    def fit(cls, column: Column, cells: Array, scale: Scale) -> Self:
        """Take mean and deviation (``standard``) or range (``unit``) from the training part."""
        known = cells[~np.isnan(cells)]
        shift, spread = _compute_scale(known, scale)
        return cls(column.name, column.has_missing, shift, spread, scale == "unit")

    @property
    def column(self) -> Column:
        """A column of numbers."""
        return Column(self.name, "number", has_missing=self.has_missing)

    @property
    def width(self) -> int:
        """One number, and one for the mark of a missing value."""
        return 1 + self.has_missing

    def is_out_of_range(self, cells: Array) -> Array:
        """Return which numbers (N,) float32 cannot hold; clamped ones need to fit as they are only."""
        return is_out_of_range(cells) if self.clamp else is_out_of_range(cells, shift=self.shift, spread=self.spread)

    def encode(self, cells: Array) -> Array:
        """Return (N, 1) or, with missing values, (N, 2)."""
        scaled = (cells - self.shift) / self.spread
        return self.add_missing_indicator((np.clip(scaled, 0, 1) if self.clamp else scaled)[:, None], np.isnan(cells))

    def parse_cell(self, raw: object) -> float:
        """Read a finite number or a missing value."""
        if _is_missing(raw):
            return np.nan
        try:
            number = float(raw)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = np.inf
        if not np.isfinite(number):
            raise DataError(f"column '{self.name}' is not a number", expected="a finite number", received=f"{raw!r}")
        return number

    def to_json(self) -> dict[str, Any]:
        """Return name and statistics."""
        return {
            "kind": self.kind,
            "name": self.name,
            "has_missing": self.has_missing,
            "shift": self.shift,
            "spread": self.spread,
            "clamp": self.clamp,
        }


@dataclass(frozen=True)
class DateEncoder(ColumnEncoder):
    """A date in days: its position in time, and where in the year, the week and (with ``clock``) the day it lies, each
    as the sine and cosine of its phase, so that 31 December is near 1 January. ``unit`` brings all of them to [0,
    1]."""

    kind = "date"
    shift: float
    spread: float
    clock: bool
    unit: bool

    @classmethod
    def fit(cls, column: Column, cells: Array, scale: Scale) -> Self:
        """Take mean and deviation (or range) from the training part, and whether there are times of day."""
        known = cells[~np.isnan(cells)]
        shift, spread = _compute_scale(known, "standard" if scale == "none" else scale)
        return cls(column.name, column.has_missing, shift, spread, bool((known % 1).any()), scale == "unit")

    def is_out_of_range(self, cells: Array) -> Array:
        """Return which dates (N,) float32 cannot hold."""
        return is_out_of_range(cells) if self.unit else is_out_of_range(cells, shift=self.shift, spread=self.spread)

    @property
    def periods(self) -> tuple[float, ...]:
        """The cycles, in days."""
        return (YEAR, WEEK, 1.0) if self.clock else (YEAR, WEEK)

    @property
    def column(self) -> Column:
        """A column of dates."""
        return Column(self.name, "date", has_missing=self.has_missing)

    @property
    def width(self) -> int:
        """The position, two numbers a cycle, and one for the mark of a missing value."""
        return 1 + 2 * len(self.periods) + self.has_missing

    def encode(self, cells: Array) -> Array:
        """Return (N, W)."""
        position = (cells - self.shift) / self.spread
        angles = 2 * np.pi * np.stack([cells / period for period in self.periods], 1)
        waves = np.hstack([np.sin(angles), np.cos(angles)])
        if self.unit:
            position, waves = np.clip(position, 0, 1), (1 + waves) / 2
        return self.add_missing_indicator(np.hstack([position[:, None], waves]), np.isnan(cells))

    def parse_cell(self, raw: object) -> float:
        """Read a date, a time, or ISO 8601 text, in days since 1970-01-01 UTC."""
        if _is_missing(raw):
            return np.nan
        try:
            parsed = raw if isinstance(raw, date) else datetime.fromisoformat(str(raw).strip())
        except ValueError as error:
            raise DataError(
                f"column '{self.name}' is not a date",
                expected="a date such as 2024-02-29, ISO 8601",
                received=f"{raw!r}",
            ) from error
        if not isinstance(parsed, datetime):
            parsed = datetime(parsed.year, parsed.month, parsed.day)
        moment = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return moment.timestamp() / 86_400

    def to_json(self) -> dict[str, Any]:
        """Return name and statistics."""
        return {
            "kind": self.kind,
            "name": self.name,
            "has_missing": self.has_missing,
            "shift": self.shift,
            "spread": self.spread,
            "clock": self.clock,
            "unit": self.unit,
        }


@dataclass(frozen=True)
class CategoryEncoder(ColumnEncoder):
    """A category: one number for each value (one-hot), or, if ``embed``, its index for the network to look a vector up.

    ``values`` are the training part's, sorted; a missing value, if training had any, counts as a value more. What
    training never
    had is unknown: zero in every number, index 0; or refused. Indices of known values begin at 1.
    """

    kind = "category"
    values: tuple[str, ...]
    embed: bool
    unseen: Unseen
    indices: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", {value: at for at, value in enumerate(self.values)})

    @classmethod
    def fit(cls, column: Column, cells: Array, *, embed_above: int, unseen: Unseen) -> Self:
        """Take the values that the training part has; more than ``embed_above`` of them (if not 0) are embedded."""
        used = np.unique(cells[~np.isnan(cells) & (cells >= 0)]).astype(np.int64)
        values = tuple(column.values[at] for at in used)
        return cls(column.name, column.has_missing, values, 0 < embed_above < len(values), unseen)

    @property
    def column(self) -> Column:
        """A column of these values."""
        return Column(self.name, "category", self.values, self.has_missing)

    @property
    def width(self) -> int:
        """One number a value, or one index."""
        return 1 if self.embed else len(self.values) + self.has_missing

    @property
    def vector_count(self) -> int:
        """How many vectors a network needs for it: one a value, one for the unknown, one for missing values."""
        return 1 + len(self.values) + self.has_missing

    def encode(self, cells: Array) -> Array:
        """Return (N, W)."""
        filled = np.where(np.isnan(cells), len(self.values) if self.has_missing else UNSEEN, cells)
        numbers = filled.astype(np.int64) + 1  # (N,), 0 is unknown
        if self.embed:
            return numbers[:, None].astype(np.float64)
        return np.eye(self.width + 1)[numbers][:, 1:]

    def parse_cell(self, raw: object) -> float:
        """Return the index of a value, -1 for an unseen one."""
        if _is_missing(raw):
            return np.nan
        text = str(raw).lower() if isinstance(raw, bool) else str(raw).strip()
        index = self.indices.get(text)
        if index is None and self.unseen == "refuse":
            raise self._make_unseen_error(text)
        return UNSEEN if index is None else float(index)

    def validate_cell(self, raw: object) -> float:
        """Turn one raw cell into what a source holds; a missing value where training had none is unknown like any other
        value."""
        return self.parse_cell(raw)

    def recode(self, cells: Array, column: Column) -> Array:
        """Turn another source's cells into indices of this encoder's values, by name; -1 where it has none."""
        ColumnEncoder.recode(self, cells, column)
        own = np.array([self.indices.get(value, UNSEEN) for value in column.values] or [UNSEEN], dtype=np.float64)
        gap = np.isnan(cells)
        out = np.where(gap, np.nan, own[np.where(gap | (cells < 0), 0, cells).astype(np.int64)])
        out = np.where(~gap & (cells < 0), UNSEEN, out)
        unseen = np.flatnonzero(out < 0)
        if len(unseen) and self.unseen == "refuse":
            raise self._make_unseen_error(column.values[int(cells[unseen[0]])])
        return out

    def count_unseen(self, cells: Array, column: Column) -> dict[str, int]:
        """Return which values of another source's cells training never had, and how often they occur."""
        known = cells[~np.isnan(cells) & (cells >= 0)].astype(np.int64)
        counts = np.bincount(known, minlength=len(column.values))
        return {v: int(n) for v, n in zip(column.values, counts, strict=True) if n and v not in self.indices}

    def _make_unseen_error(self, text: str) -> DataError:
        return DataError(
            f"column '{self.name}' has the value '{text}', which training never had",
            expected=f"one of {', '.join(self.values[:12])}{', …' if len(self.values) > 12 else ''}",
            do="correct it, or train with --set task.unseen=unknown to take such values as unknown",
        )

    def to_json(self) -> dict[str, Any]:
        """Return name and values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "has_missing": self.has_missing,
            "values": list(self.values),
            "embed": self.embed,
            "unseen": self.unseen,
        }


def fit_encoders(
    columns: Sequence[Column], rows: Array, *, scale: Scale, embed_above: int, unseen: Unseen
) -> tuple[ColumnEncoder, ...]:
    """Fit one encoder per column to the training part's rows (N, D)."""
    out: list[ColumnEncoder] = []
    for at, column in enumerate(columns):
        cells = rows[:, at]
        if column.kind == "category":
            out.append(CategoryEncoder.fit(column, cells, embed_above=embed_above, unseen=unseen))
        elif column.kind == "date":
            out.append(DateEncoder.fit(column, cells, scale))
        else:
            out.append(NumberEncoder.fit(column, cells, scale))
    return tuple(out)


def _compute_scale(known: Array, scale: Scale) -> tuple[float, float]:
    """Return what is subtracted and divided by."""
    if scale == "none":
        return 0.0, 1.0
    return standard_scale(known) if scale == "standard" else range_scale(known)


def _is_missing(raw: object) -> bool:
    """Whether a raw cell has no value."""
    return raw is None or (isinstance(raw, str) and raw.strip() in TEXT_MISSING_MARKS)
