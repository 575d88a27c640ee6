"""Decode JSON and TOML that a stranger may have written: size and nesting are checked before a parser sees the bytes.

Parsers of nested text recurse, and end in ``RecursionError`` or in a crash when a file nests deeply enough. One pass
over the bytes counts the nesting outside strings first, so a file that nests too deep costs nothing.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec

from layerwise.errors import DataError, LayerwiseError

MAX_BYTES = 2**26  # of JSON: 64 MiB
MAX_TOML_BYTES = 2**20
MAX_DEPTH = 64
# Runs of brackets, and runs of what is skipped between them. Possessive quantifiers: nothing is scanned twice, and no
# memory goes into backtracking.
_JSON_RUNS = re.compile(rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+\\?"?|[^"\[\]{}]++)++|[\[\]{}]++', re.DOTALL)
_TOML_STRING = (  # of the four kinds, or a comment; an open one ends where TOML ends it
    rb'"""(?:[^"\\]|\\.|"(?!""))*+"{0,5}'
    rb"|'''(?:[^']|'(?!''))*+'{0,5}"
    rb'|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?'
    rb"|'[^'\n]*+'?"
    rb"|#[^\n]*+"
)
_TOML_RUNS = re.compile(rb"(?:" + _TOML_STRING + rb"|[^\"'#\[\]{}]++)++|[\[\]{}]++", re.DOTALL)
_OPENING = b"[{"
_BRACKETS = b"[]{}"


def decode_json(
    data: bytes,
    *,
    what: str,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    as_type: Any = Any,
    error: type[LayerwiseError] = DataError,
    do: str = "",
) -> Any:
    """Return what JSON bytes hold, as ``as_type`` (any type that msgspec converts to; plain values if it is not given).

    Args:
        data: UTF-8 text.
        what: the name of what is decoded, for messages: a path, or "row 3 of a.jsonl".
        max_bytes, max_depth: the largest size, and how many lists and objects may lie in one another.
        as_type: the type to convert to; a field of another type is named in the error.
        error, do: the kind of error, and its advice.

    Raises ``error`` for data that are too large, nested too deep, not JSON, or not of the type.
    """
    _check_size(data, what, max_bytes, error)
    check_json_depth(data, what=what, max_depth=max_depth, error=error)
    try:
        return msgspec.json.decode(data, type=as_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as bad:
        kind = "other fields than expected" if isinstance(bad, msgspec.ValidationError) else "not valid JSON"
        raise error(f"cannot read {what}: {kind}", received=str(bad), do=do) from bad


def check_json_depth(
    data: bytes, *, what: str, max_depth: int = MAX_DEPTH, error: type[LayerwiseError] = DataError
) -> None:
    """Raise ``error`` for JSON bytes that nest deeper than ``max_depth``: for parsers that crash on them. Nothing is
    decoded."""
    _check_depth(_measure_nesting(data, _JSON_RUNS, max_depth), what, max_depth, error)


def decode_toml(
    data: bytes,
    *,
    what: str,
    max_bytes: int = MAX_TOML_BYTES,
    max_depth: int = MAX_DEPTH,
    error: type[LayerwiseError] = DataError,
    do: str = "",
) -> dict[str, Any]:
    """Return the table that TOML bytes hold. The arguments and the errors are those of `decode_json`.

    A dotted key nests as a table does: ``a.b.c = 1`` is two tables deep.
    """
    _check_size(data, what, max_bytes, error)
    _check_depth(_measure_nesting(data, _TOML_RUNS, max_depth), what, max_depth, error)
    dotted = (
        rb"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){%d}" % max_depth
    )  # the parser's time grows with the square of a key's parts
    _check_depth(
        max_depth + 1 if re.search(dotted, re.sub(_TOML_STRING, b"s", data, flags=re.DOTALL)) else 0,
        what,
        max_depth,
        error,
    )
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as bad:
        raise error(f"cannot read {what}: not valid TOML", received=str(bad), do=do) from bad
    _check_depth(measure_depth(table, max_depth), what, max_depth, error)
    return table


def measure_depth(value: object, limit: int = MAX_DEPTH) -> int:
    """Return how many lists and tables of a value lie in one another, at most ``limit`` + 1: deeper ones are not
    followed."""
    level, depth = [value], 0
    while depth <= limit and (holders := [one for one in level if isinstance(one, (dict, list))]):
        level = [item for one in holders for item in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def _measure_nesting(data: bytes, runs: re.Pattern[bytes], limit: int) -> int:
    """Return how deep brackets nest outside of strings; counting ends at ``limit`` + 1."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return 0  # it cannot be deeper than that
    depth = deepest = 0
    for run in runs.finditer(data):
        if data[run.start()] not in _BRACKETS:
            continue
        for bracket in run[0]:
            depth = depth + 1 if bracket in _OPENING else max(depth - 1, 0)
            deepest = max(deepest, depth)
        if deepest > limit:
            break
    return deepest


def _check_size(data: bytes, what: str, limit: int, error: type[LayerwiseError]) -> None:
    """Refuse data that are too large."""
    if len(data) > limit:
        raise error(f"{what} is too large", expected=f"at most {limit:,} bytes", received=f"{len(data):,} bytes")


def _check_depth(depth: int, what: str, limit: int, error: type[LayerwiseError]) -> None:
    """Refuse data that nest too deep."""
    if depth > limit:
        raise error(
            f"{what} is nested too deep, and was not decoded",
            expected=f"at most {limit} levels of lists and tables",
            received=f"more than {limit}",
        )
