"""docs/formulas.md leads from every formula to the code that states it and to the test that computes it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("formulas.md", "formulas.zh-CN.md")
IDS = [f"E{number:02}" for number in (*range(1, 19), 30, 31, 32)]
LINK = re.compile(r"\[`?([^]`]+)`?\]\(([^)]+)\)")


class Row(NamedTuple):
    """A formula's number, and the links to its code (name, file) and to its tests."""

    number: str
    code: list[tuple[str, str]]
    tests: list[tuple[str, str]]


def rows(page: str) -> list[Row]:
    """Return the page's table."""
    found = []
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if re.match(r"\| E\d\d \|", line):
            number, _, _, code, tests = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            found.append(Row(number, LINK.findall(code), LINK.findall(tests)))
    return found


def docstring(path: Path, name: str) -> str:
    """Return the docstring of a function or class at the top of a file, empty if there is none. The file is not run."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def numbers(text: str) -> set[str]:
    """Return the formulas a text names, those within ranges (E01–E03) too."""
    found = set(re.findall(r"\bE\d\d\b", text))
    for first, last in re.findall(r"\bE(\d\d)–E(\d\d)\b", text):
        found |= {f"E{number:02}" for number in range(int(first), int(last) + 1)}
    return found


def faults(row: Row) -> list[str]:
    """Return what is wrong with a row: no link, a dead one, code that does not state the formula, a test that does not
    name it."""
    out = [] if row.code and row.tests else ["no link to code, or none to a test"]
    for name, place in row.code:
        path = (DOCS / place).resolve()
        if not path.is_file() or row.number not in numbers(docstring(path, name)):
            out.append(f"{place}: no {name} whose docstring names {row.number}")
    for _, place in row.tests:
        path = (DOCS / place).resolve()
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        tested = any(re.search(rf"\b{name}\b", text) for name, _ in row.code)
        if row.number not in numbers(text) or not tested or "def test_" not in text:
            out.append(f"{place}: it does not name {row.number} and use its code")
    return out


@pytest.mark.parametrize("page", PAGES)
def test_no_formula_is_missing(page: str) -> None:
    assert [row.number for row in rows(page)] == IDS


@pytest.mark.parametrize("row", rows(PAGES[0]), ids=lambda row: row.number)
def test_every_formula_leads_to_its_code_and_its_test(row: Row) -> None:
    assert faults(row) == []


def test_both_languages_lead_to_the_same_places() -> None:
    assert rows(PAGES[0]) == rows(PAGES[1])


def test_the_check_would_notice() -> None:
    good = rows(PAGES[0])[3]
    assert good.number == "E04"
    assert faults(good._replace(number="E05"))  # softmax states another formula
    assert faults(good._replace(code=[("softmix", good.code[0][1])]))
    assert faults(good._replace(tests=[("test_losses.py", "../tests/functional/test_losses.py")]))
    assert faults(good._replace(tests=[]))
    assert numbers("E01–E03 and E07") == {"E01", "E02", "E03", "E07"}
