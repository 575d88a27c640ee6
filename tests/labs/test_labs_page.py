"""The tool that writes the pages of the labs: sections are renewed, the rest stays."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.figure import Figure

from layerwise import labs
from layerwise.labs.base import Check, Column, Findings, Lab, Mode, Table, Text, run_lab

ROOT = Path(__file__).resolve().parents[2]
HAND = "# Labs\n\nBy hand, {}.\n\n"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("labs_page", ROOT / "tools" / "labs_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["labs_page"] = module
    spec.loader.exec_module(module)
    return module


def make_result(name: str, claim: str) -> labs.Result:
    """The result of a lab that measures nothing."""
    text = Text("words", "文字")

    def draw(lang: labs.Lang) -> Figure:
        figure = Figure(figsize=(1, 1))
        figure.text(0, 0, Text("seen", "所见").of(lang))
        return figure

    def experiment(mode: Mode) -> Findings:
        return Findings((1.0, 1.1), 0.0, (Check(text, True),), Table((Column(text),), (("cell",),)), draw)

    return run_lab(
        Lab(name, claim, text, text, text, text, text, text, text, experiment), mode="normal", out=None, lang="en"
    )


def test_sections_come_in_the_order_of_claims_and_hand_written_parts_stay(tool: ModuleType) -> None:
    page = HAND.format("first") + f"{tool.BEGIN}\n\n{tool.END}\n\n## Last words\n"
    for name, claim in (("later", "C09"), ("sooner", "C02")):
        page = tool.update_page(page, [make_result(name, claim)], "en")
    assert page.startswith(HAND.format("first"))
    assert page.endswith(f"{tool.END}\n\n## Last words\n")
    assert page.index("## `sooner` · C02: words") < page.index("## `later` · C09: words")
    assert "![seen](figures/later.svg)\n\n```\n$ layerwise lab later\nlater · C09 · words\n═" in page
    assert re.search(r"\n  labs/later\.svg \(\d+\.\d s, normal\)\n```\n", page)


def test_a_description_by_hand_is_kept_and_the_output_is_not(tool: ModuleType) -> None:
    page = tool.update_page(f"{tool.BEGIN}\n{tool.END}\n", [make_result("one", "C01")], "zh")
    assert "## `one` · C01：文字\n\n![所见](figures/one.zh-CN.svg)\n\n```\n$ layerwise lab one --lang zh\n" in page
    changed = page.replace("![所见]", "![手写]").replace("\n  文字\n", "\n  旧\n")
    assert changed != page.replace("![所见]", "![手写]")
    again = tool.update_page(changed, [make_result("one", "C01")], "zh")
    timeless = [re.sub(r"\d+\.\d 秒", "", text) for text in (again, page.replace("![所见]", "![手写]"))]
    assert timeless[0] == timeless[1]
    with pytest.raises(ValueError, match="the page needs one line"):
        tool.update_page("# nothing\n", [make_result("one", "C01")], "zh")


@pytest.mark.parametrize("ending", ["md", "zh-CN.md"])
def test_pages_have_the_marks_and_only_labs_that_there_are(tool: ModuleType, ending: str) -> None:
    page = (ROOT / "docs" / f"labs.{ending}").read_text(encoding="utf-8")
    assert page.count(tool.BEGIN) == page.count(tool.END) == 1
    names = [match[1] for match in tool.SECTION.finditer(page)]
    assert names
    assert set(names) <= set(labs.list_labs())
    assert [labs.find(name).claim_id for name in names] == sorted(labs.find(name).claim_id for name in names)
