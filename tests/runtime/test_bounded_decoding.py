"""Decoding with limits: depth and size are checked first; what is within the limits decodes as the plain parsers decode
it."""

from __future__ import annotations

import json
import re
import time
import tomllib
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.errors import DamagedError, DataError
from layerwise.runtime.bounded_decoding import (
    _JSON_RUNS,
    _TOML_RUNS,
    _measure_nesting,
    decode_json,
    decode_toml,
    measure_depth,
)

DEEP = 100_000
TEXT = st.text(st.sampled_from("ab\"\\[]{}\n'#,:é\t"), max_size=8)
VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-9, 9), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=12,
)


class File(msgspec.Struct):
    name: str
    size: int


@pytest.mark.parametrize(
    "text", ["[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP, '[{"a":' * DEEP]
)
def test_deep_json_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(
        DamagedError, match=r"^run.json is nested too deep, and was not decoded\n  expected: at most 64 levels"
    ):
        decode_json(text.encode(), what="run.json", error=DamagedError)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * DEEP + "]" * DEEP,
        "a = " + "{a = " * DEEP + "1" + "}" * DEEP,
        ".".join(["a"] * DEEP) + " = 1",
        "[" + " . ".join(['"a"'] * DEEP) + "]",
        "a = [" + '"""a"""", ' + "[" * DEEP,
        "a = ['''a'''', " + "[" * DEEP,
        "".join("{" + ".".join(["a"] * 60) + " = " for _ in range(60)).join(["a = ", ""]) + "1" + "}" * 60,
    ],
)
def test_deep_toml_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(DataError, match=r"^recipe.toml is nested too deep"):
        decode_toml(text.encode(), what="recipe.toml")
    assert time.process_time() - started < 10


@given(VALUES)
def test_json_within_the_limits_is_what_was_encoded(value: Any) -> None:
    assert decode_json(json.dumps(value).encode(), what="x", max_depth=max(measure_depth(value), 1)) == value


@given(VALUES)
def test_json_one_level_deeper_than_allowed_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="nested too deep"):
        decode_json(json.dumps([value]).encode(), what="x", max_depth=measure_depth(value))


def toml_text(value: Any) -> str:
    """Return a value as inline TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_text(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@given(VALUES)
def test_toml_within_the_limits_is_what_was_encoded(value: Any) -> None:
    text = f"a = {toml_text(value)}"
    assert (
        decode_toml(text.encode(), what="x", max_depth=measure_depth(value) + 1) == tomllib.loads(text) == {"a": value}
    )


@settings(max_examples=300)
@given(st.text(st.sampled_from("a.[]{}='\"\\#\n, 1"), max_size=40), st.integers(1, 6))
def test_any_toml_is_decoded_or_refused_and_never_deeper_than_allowed(text: str, limit: int) -> None:
    try:
        table = decode_toml(text.encode(), what="x", max_depth=limit)
    except DataError as error:
        if "nested too deep" not in str(error):
            with pytest.raises(tomllib.TOMLDecodeError):
                tomllib.loads(text)
        return
    assert table == tomllib.loads(text)
    assert measure_depth(table) <= limit


def test_sizes_are_checked_before_anything_else() -> None:
    with pytest.raises(DataError, match=r"^x is too large\n  expected: at most 3 bytes\n  received: 4 bytes"):
        decode_json(b"[[[[", what="x", max_bytes=3)


def test_a_field_of_another_type_is_named() -> None:
    assert decode_json(b'{"name":"a","size":1}', what="x", as_type=File) == File("a", 1)
    with pytest.raises(
        DataError, match=r"(?s)^cannot read x: other fields than expected.*int.*str.*\$\.size.*do this:  write it again"
    ):
        decode_json(b'{"name":"a","size":"1"}', what="x", as_type=File, do="write it again")


@pytest.mark.parametrize("data", [b"", b"\xff", b'"\xff"', b'"\\ud800"', b"[1", b"1e", b"NaN"])
def test_what_is_not_json_is_one_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^cannot read x: not valid JSON"):
        decode_json(data, what="x")


@pytest.mark.parametrize(
    "data", [b"a", b"a = \xff", b"a = 1" + b"0" * 5000, b"a = 2020-13-01", b"\xef\xbb\xbfa = 1", b'a = "']
)
def test_what_is_not_toml_is_one_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^cannot read x: not valid TOML"):
        decode_toml(data, what="x")


UNENDING = {
    "escapes": b'"' + b'\\"' * 2**18,
    "backslashes": b'"\\' * 2**18,
    "quotes": b'"' * 2**19,
    "brackets": b"[]1" * 2**17,
    "long": b'"""' + b'a"' * 2**18,
    "literal": b"'''" + b"a'" * 2**18,
    "string": b'"' + b"a" * 2**19,
}


@pytest.mark.parametrize("data", UNENDING.values(), ids=UNENDING)
@pytest.mark.parametrize("runs", [_JSON_RUNS, _TOML_RUNS])
def test_counting_is_linear_and_takes_no_memory(runs: re.Pattern[bytes], data: bytes) -> None:
    data = b"[]" * 65 + data
    started = time.process_time()
    assert _measure_nesting(data, runs, 64) <= 64
    assert time.process_time() - started < 10  # half a second on a slow machine; hours if anything is scanned twice
    tracemalloc.start()
    try:
        assert _measure_nesting(data, runs, 64) <= 64
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()


def test_depth_is_of_lists_and_tables_alone() -> None:
    assert [measure_depth(value) for value in (1, "[[", [], [[1]], {"a": [{}]})] == [0, 0, 1, 2, 3]
    assert measure_depth([[[[[1]]]]], limit=2) == 3
