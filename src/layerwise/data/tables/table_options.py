"""The options for reading a table, and the kinds of tokens of text."""

from __future__ import annotations

from typing import Literal

import msgspec

from layerwise.errors import UsageError

Header = Literal["auto", "yes", "no"]
Tokens = Literal["words", "whitespace", "characters", "jieba"]


class TableOptions(msgspec.Struct, frozen=True):
    """The options for reading a table.

    ``target`` the column to predict, the last if empty. ``header`` whether the first row names the columns. ``drop``
    columns to leave out; ``categories`` columns whose values are names even if they look like numbers; ``missing``
    further marks of missing values; ``dates`` the format of dates that are not ISO 8601, as in strptime. No features
    either: ``id`` names the rows, ``group`` keeps the rows of one value in one part, ``time`` puts later rows into
    later parts, ``weight`` is how much a row counts in training. ``names`` are the columns' names where the file has
    none. ``like`` are the features of a table that was read before, by name and kind, in order: other columns are left
    out, and the content decides nothing.
    """

    target: str = ""
    header: Header = "auto"
    drop: tuple[str, ...] = ()
    encoding: str = "utf-8"
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    dates: str = ""
    id: str = ""
    group: str = ""
    time: str = ""
    weight: str = ""
    names: tuple[str, ...] = ()
    like: tuple[tuple[str, str], ...] = ()

    def get_roles(self) -> dict[str, str]:
        """Return the columns that options name, with the option for each."""
        roles = dict.fromkeys(self.drop, "drop")
        for role in ("id", "group", "time", "weight", "target"):
            column = getattr(self, role)
            if column:
                if column in roles:
                    raise UsageError(
                        f"the column '{column}' is named twice: data.{roles[column]} and data.{role}",
                        do=f"take it out of one of them; the {role} cannot be among the columns to leave out"
                        if roles[column] == "drop"
                        else "take it out of one of them",
                    )
                roles[column] = role
        return roles
