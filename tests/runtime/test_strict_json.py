"""JSON is strict everywhere: what is written any reader reads, and NaN or Infinity in a file of ours is an error."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layerwise
from layerwise.cli.common import print_json
from layerwise.errors import DamagedError
from layerwise.run_directory import format_line, parse_line
from layerwise.runtime import strict_json
from layerwise.runtime.checksums import dump_checksummed, load_checksummed

SOURCE = Path(layerwise.__file__).parent
CALLS = {"dumps", "dump", "loads", "load", "JSONEncoder", "JSONDecoder"}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def strictly(text: str | bytes) -> Any:
    """Read JSON by another reader, which knows no NaN."""
    return msgspec.json.decode(text)


def without(content: Any) -> Any:
    """Return content with null for what is not finite: the naive way."""
    if isinstance(content, float) and (content != content or content in (math.inf, -math.inf)):
        return None
    if isinstance(content, dict):
        return {key: without(value) for key, value in content.items()}
    return [without(value) for value in content] if isinstance(content, list) else content


def test_no_other_json_is_written_or_read() -> None:
    """Nothing in the package calls Python's own encoder or decoder but `strict_json`, which never lets it write NaN."""
    names = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = isinstance(node, ast.ImportFrom) and node.module == "json"
            used = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "json"
                and node.attr in CALLS
            )
            if imported or used:
                names.append(path.relative_to(SOURCE).as_posix())
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "json.dumps":
                assert any(k.arg == "allow_nan" and ast.unparse(k.value) == "False" for k in node.keywords), (
                    path,
                    node.lineno,
                )
    assert set(names) == {"runtime/strict_json.py"}


@given(PLAIN)
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_every_reader_reads(content: Any) -> None:
    for indent in (None, 1):
        text = strict_json.dumps(content, indent=indent)
        assert json.loads(text, parse_constant=pytest.fail) == without(content)
        assert strict_json.loads(text) == without(content)


@given(st.dictionaries(st.text().filter(lambda key: key not in ("format", "checksum", "crc")), PLAIN, max_size=5))
@settings(max_examples=200, deadline=None)
def test_sealed_files_and_lines_hold_no_nan(content: dict[str, Any]) -> None:
    data = dump_checksummed(content)
    json.loads(data, parse_constant=pytest.fail)
    assert {**without(content), "format": 1} == load_checksummed(data, Path("x"))
    row = format_line(content)
    json.loads(row, parse_constant=pytest.fail)
    assert parse_line(row.rstrip(b"\n"), Path("x"), 1) == without(content)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
def test_what_is_no_number_in_json_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is not a JSON number"):
        strict_json.loads(f'{{"a": [{word}]}}')
    data = dump_checksummed({"a": 0.25})
    for changed in (data.replace(b"0.25", word.encode()), data.replace(b'"a"', b'"b"')):
        with pytest.raises(DamagedError):
            load_checksummed(changed, Path("x"))
    with pytest.raises(DamagedError, match="line 1 cannot be read"):
        parse_line(format_line({"a": 0.25}).replace(b"0.25", word.encode()).rstrip(b"\n"), Path("x"), 1)


def test_statistics_of_a_task_are_never_silently_null() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps({"shift": math.nan}, non_finite="error")


def test_msgspec_keeps_to_the_same_rules() -> None:
    """The other encoder that is used: null for what is not finite, and no such number read."""
    assert msgspec.json.encode({"a": [math.nan, math.inf, -math.inf]}) == b'{"a":[null,null,null]}'
    for word in (b"NaN", b"Infinity"):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(word)


def test_the_verbs_print_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(metrics={"a": math.nan, "b": math.inf, "c": 0.5}, deep=[[np.float64("nan")]], path=Path("x"))
    assert strictly(capsys.readouterr().out) == {
        "format": 1,
        "metrics": {"a": None, "b": None, "c": 0.5},
        "deep": [[None]],
        "path": "x",
    }


def test_a_row_of_1e300_fails_with_the_reason(tmp_path: Path, command: Any) -> None:
    """Today's case: NaN in JSON with exit code 0."""
    lines = [f"{i % 7}.5,{i / 9:.3f},{i % 5},{'pq'[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    assert command("train", "mlp", "--data", "t.csv", "--epochs", 1, "--out", "r").returncode == 0
    ended = command("predict", "r", "1e300,.5,.5", "1.5,.5,.5", "--json")
    assert ended.returncode == 2
    result = strictly(ended.stdout)
    assert len(result["predictions"]) == 1
    assert "column 'a' is out of range" in result["failed"][0]["error"]
