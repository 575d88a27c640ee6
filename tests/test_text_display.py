"""Names of strangers on their way out: no control character reaches a terminal, no formula a spreadsheet."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import layerwise
from layerwise.cli import main
from layerwise.cli.common import print_json, print_table
from layerwise.errors import DataError
from layerwise.inspection.base import format_table
from layerwise.plotting.svg import escape_text
from layerwise.text_display import (
    escape_control,
    escape_json,
    format_row,
    guard_formula,
    unguard_formula,
    write_line,
    write_note,
)
from layerwise.training.progress import Display

REPORTS = True  # one test reads a report
NAMES = [
    "\x1b[31mred\x1b[0m",
    "[red]x[/red]",
    "safe\u202egnp.exe",
    "bell\x07\r\x08",
    "a\u2066b\u2069",
    "\u200frtl\u061c",
    "\x9b31m",
    "c :smile:",
]
BIDI = {chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
FORMULAS = [
    '=HYPERLINK("http://x","y")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1",
    "-inf",
    "a;=1+1",
    '"=1',
    "=1\n=2",
]
ANY = st.text(
    st.characters()
    | st.sampled_from([*BIDI, "\x1b", "\x9b", "\ud800", "=", "+", "-", "@", "'", '"', ",", ";", "\t", "\n"])
)


def harmful(text: str) -> set[str]:
    """Return what in a text would direct a terminal, told by Unicode's own categories."""
    return {c for c in text if c in BIDI or (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t")}


@given(ANY)
def test_escaped_text_is_harmless_and_what_was_harmless_stays(text: str) -> None:
    found = escape_control(text)
    assert not harmful(found)
    assert escape_control(found) == found
    assert found == text or harmful(text) or re.search("[\u206a-\u206f\ufff9-\ufffb]", text)
    assert not harmful(escape_control(text, single_line=True)) | (
        set("\n\t") & set(escape_control(text, single_line=True))
    )
    found.encode()


def test_it_is_escaped_as_python_writes_it() -> None:
    assert escape_control("\x1b[0m\u202e\ud800\x9b\n\t") == "\\x1b[0m\\u202e\\ud800\\x9b\n\t"
    assert escape_control("\n\t", single_line=True) == "\\n\\t"
    assert escape_control("मन\u200dष \u200c 👩\u200d🚀 \ufeff") == "मन\u200dष \u200c 👩\u200d🚀 \ufeff"


@given(ANY)
def test_json_keeps_its_meaning_without_what_directs_a_terminal(text: str) -> None:
    line = escape_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(line) == {"a": text}
    assert not harmful(line)


@example(["", "\0"])
@given(st.lists(ANY, min_size=2, max_size=4))
def test_a_row_is_read_back_and_no_cell_begins_a_formula(cells: list[str]) -> None:
    found = list(csv.reader(io.StringIO(format_row(cells), newline="")))
    assert [[unguard_formula(cell) for cell in row] for row in found] == [cells]
    harmless = r"[+-]?[\d.]+([eE][+-]?\d+)?|-(\[\d+\])?"
    assert not any(re.match(r"[=+@\t\r\n-]", cell) and not re.fullmatch(harmless, cell) for cell in found[0])
    # the same cells where a spreadsheet divides at semicolons or tabs: quotes still hold them together
    for mark in ";\t":
        for row in csv.reader(io.StringIO(format_row(cells), newline=""), delimiter=mark):
            assert not any(re.match(r"[=@]", cell) for cell in row)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), st.sampled_from(["%s", "%+.3f", "%e"]))
@example(-1.5, "%s")
def test_numbers_stay_numbers(value: float, form: str) -> None:
    assert guard_formula(form % value) == form % value
    assert format_row([value]) == f"{value}\n"


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert text[0] in '"a' or guard_formula(text) == f"'{text}"
    assert "\t" not in format_row([text, 1], "\t").split("\t1\n")[0]


def test_tables_on_a_terminal_show_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, where rich obeys markup and colors, and in a pipe."""
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", "200")
        print_table(("name", "[bold]"), [(name, 1) for name in NAMES])
        out = stream.getvalue()
        assert not harmful(out)
        assert all(escape_control(name) in out for name in NAMES)
        assert "[bold]" in out


def test_every_other_way_out_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        write_line(name)
        write_note(name)
        print_json(name=name)
        print(format_table([name], [[name]]))
        print(DataError(name, expected=name, received=name, do=name))
        print(escape_text(name))
    assert not harmful("".join(capsys.readouterr()))


@pytest.mark.parametrize("terminal", [True, False])
def test_training_shows_names_of_stages_notes_and_metrics_as_they_are(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in NAMES:
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
        with Display(quiet=False, stream=stream) as display:
            display.start_stage(name, 4)
            display.show(name)
            display.advance(2)
            display.say(name)
        shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\r", "", stream.getvalue())  # rich's own
        assert not harmful(shown)
        assert shown.count(escape_control(name)) >= (2 if terminal else 1)


def test_commands_print_through_the_one_way_out() -> None:
    """A bare print is left to what writes JSON, and to tables whose cells were escaped."""
    places = [
        *(Path(layerwise.__file__).parent / "cli").glob("*.py"),
        *(Path(layerwise.__file__).parent / "data/download").glob("*.py"),
    ]
    bare = {
        path.name
        for path in places
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert bare == {"common.py"}


def written_table(path: Path) -> Path:
    """Write a table whose classes and columns have hostile names."""
    classes = ['=HYPERLINK("http://x")', NAMES[0], NAMES[1], NAMES[2]]
    rows = [[str(k + n / 50), str(n % 7), classes[k]] for n in range(20) for k in range(4)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["\x1b[32mwidth", "\u202ehtgneh", "[red]kind"], *rows])
    return path


def test_no_command_prints_hostile_names_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written_table(tmp_path / "a\x1b[31m.csv")
    assert (
        main(["train", "mlp", "--data", str(data), "--epochs", "40", "--out", "run", "--set", "model.hidden=[16]"]) == 0
    )
    for words in (
        ["data", str(data)],
        ["data", str(data), "--json"],
        ["data", str(tmp_path / "\x1b[2J")],
        ["eval", "run"],
        ["eval", "run", "--json"],
        ["predict", "run", str(data)],
        ["predict", "run", "x\u202e,1"],
        ["predict", "run", "\x1b.csv"],
        ["inspect", "run", "--view", "mistakes"],
        ["inspect", "run", "--view", "columns"],
        ["train", "\x1b[1m"],
        ["predict", "run", str(data), "--out", "x.csv"],
        ["train", "mlp", "--set", "\x1bx=1", "--data", str(data)],
    ):
        main(words)
    out, err = capsys.readouterr()
    assert not harmful(out + err), harmful(out + err)
    assert "\\x1b[32mwidth" in out
    sheet = list(csv.reader(io.StringIO(Path("x.csv").read_text(encoding="utf-8"), newline="")))
    assert {'\'=HYPERLINK("http://x")', "[red]x[/red]"} < {cell for row in sheet for cell in row}
    report = (Path("run") / "report.html").read_text(encoding="utf-8")
    assert not harmful(report)
    assert "\\u202egnp.exe" in report
    assert not [path for path in Path("run/figures").glob("*.svg") if harmful(path.read_text(encoding="utf-8"))]


def test_a_file_name_that_is_not_utf_8_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b.csv")
    assert main(["data", path]) == 2
    assert "\\udcff\\x1b.csv" in capsys.readouterr().err


def test_drawings_show_names_as_they_are() -> None:
    from layerwise.plotting.charts import render_axes

    svg = render_axes(lambda axes: axes.set_xlabel("safe\u202egnp.exe\u2066"))
    assert not harmful(svg)
    assert "safe\\u202egnp.exe\\u2066" in svg
