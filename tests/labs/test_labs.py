"""The contract of every lab, and the machinery they share."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure

from layerwise import labs
from layerwise.errors import UsageError
from layerwise.labs.base import (
    Check,
    Column,
    Findings,
    Lab,
    Mode,
    Table,
    Text,
    compute_interval,
    format_signed,
    run_lab,
)
from layerwise.labs.figures import save_svg
from layerwise.labs.result_text import WIDTH, format_table, measure_width, wrap_paragraph

# claims that did not hold as they stand; the labs' own tests say in which part
REFUTED = {
    "data-hunger",
    "dbn-pretraining",
    "relu-speed",
    "weight-sharing",
    "residual-depth",
    "residual-gradient",
    "small-filters",
}
CHINESE = re.compile("[\u4e00-\u9fff]")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=labs.list_labs())
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> labs.Result:
    """Each lab, run once in its short form, with its Chinese figure."""
    out: Path = tmp_path_factory.mktemp("labs")
    return labs.run(labs.find(request.param), mode="quick", out=out, lang="zh")


def test_each_lab_holds_in_its_short_form(result: labs.Result) -> None:
    low, high = result.interval
    assert result.held is (result.name not in REFUTED), labs.describe(result)
    assert result.seeds >= 3
    assert low <= result.margin <= high
    assert not result.held or result.findings.bound < low
    assert result.lab.name in labs.list_labs()
    assert re.fullmatch(r"C\d\d|–", result.claim_id)


def test_each_lab_speaks_both_languages(result: labs.Result) -> None:
    lab = result.lab
    texts = [lab.title, lab.claim, lab.method, lab.margin, lab.held, lab.refuted, lab.formula]
    for text in [*texts, *(c.text for c in result.findings.checks)]:
        assert text.en
        assert CHINESE.search(text.zh) or text is lab.formula
        assert not CHINESE.search(text.en)
    for column in result.findings.table.columns:
        assert not CHINESE.search(column.heading.en)


def test_each_lab_answers_as_the_contract_says(result: labs.Result) -> None:
    entry: dict[str, Any] = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"name", "claim", "held", "margin", "seconds", "figure"} <= entry.keys()
    assert entry["held"] is result.held
    assert entry["interval"] == list(result.interval)
    assert len(entry["margins"]) == entry["seeds"]
    assert all(len(row) == len(entry["table"]["columns"]) for row in entry["table"]["rows"])


def test_each_figure_is_svg_with_text(result: labs.Result) -> None:
    assert result.figure is not None
    assert result.figure.name == f"{result.name}.svg"
    root = ET.fromstring(result.figure.read_bytes())
    texts = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    assert any(CHINESE.search(t) for t in texts), texts
    assert "Noto Sans CJK SC" in result.figure.read_text(encoding="utf-8")
    assert result.figure.stat().st_size < 100_000
    english = save_svg(result.findings.draw, "en", path=result.figure.with_name("en.svg")).read_text(encoding="utf-8")
    assert not CHINESE.search(english)
    again = save_svg(result.findings.draw, "en", path=result.figure.with_name("again.svg")).read_text(encoding="utf-8")
    assert again == english


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_each_result_is_told_within_the_terminal(result: labs.Result, lang: labs.Lang) -> None:
    text = labs.describe(result, lang)
    assert result.lab.title.of(lang) in text
    word = {"en": ("held. Margin", "did not hold. Margin"), "zh": ("成立。裕量", "不成立。裕量")}[lang][not result.held]
    assert word in text.replace("\n  ", " " if lang == "en" else "")
    prose = [line for line in text.split("\n") if "  ──" not in line]
    assert max(measure_width(line) for line in prose) <= WIDTH + 12


def test_names_are_answered_without_torch() -> None:
    code = (
        "import sys; from layerwise import labs; print(labs.list_labs()); assert not {'torch', 'matplotlib', "
        "'scipy'} & set(sys.modules)"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"'{name}'" in text for name in ("backprop-cost", "vanishing-depth", "xor"))


def test_an_unknown_lab_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'xor'"):
        labs.find("xorr")
    with pytest.raises(UsageError, match="no lab 'base'"):
        labs.find("base")


def draw(lang: labs.Lang) -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.text(0.5, 0.5, Text("plane", "平面").of(lang))
    return figure


def make_lab(margins: tuple[float, ...], *, passed: bool = True) -> Lab:
    """A lab that finds what it is told."""
    text = Text("something", "某事")

    def experiment(mode: Mode) -> Findings:
        torch.rand(1)
        table = Table((Column(text), Column(text, ".1f")), (("a", -1.0), (text, None)))
        return Findings(margins, 0.0, (Check(text, passed),), table, draw)

    return Lab("toy", "C99", text, text, text, text, text, text, Text("nothing", "没有"), experiment)


@pytest.mark.parametrize(
    ("margins", "passed", "held"),
    [
        ((1.0, 1.1, 0.9), True, True),
        ((1.0, 1.1, 0.9), False, False),  # a check failed
        ((3.0, 0.1, -1.0), True, False),  # mean 0.7, but the interval holds 0
        ((0.0, 0.0, 0.0), True, False),
    ],
)
def test_the_verdict_needs_the_interval_and_every_check(margins: tuple[float, ...], passed: bool, held: bool) -> None:
    result = labs.run(make_lab(margins, passed=passed))
    assert result.held is held
    assert result.figure is None
    for lang, word in (("en", "did not hold"), ("zh", "不成立")):
        text = labs.describe(result, lang)  # type: ignore[arg-type]
        assert (word in text) is not held
        assert ("nothing" in text or "没有" in text) is not held
        assert ("✗" in text) is not passed


def test_an_unknown_mode_or_language_is_refused() -> None:
    with pytest.raises(UsageError, match="no mode 'slow'"):
        run_lab(make_lab((1.0, 1.0)), mode="slow", out=None, lang="en")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="do not speak 'fr'"):
        run_lab(make_lab((1.0, 1.0)), mode="quick", out=None, lang="fr")  # type: ignore[arg-type]


def test_a_lab_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before, threads, settings = torch.get_rng_state(), torch.get_num_threads(), dict(mpl.rcParams)
    labs.run(make_lab((1.0, 1.0)), mode="quick", out=tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert dict(mpl.rcParams) == settings
    assert (tmp_path / "new" / "folder" / "toy.svg").is_file()


def test_the_interval_is_students() -> None:
    mean, low, high = compute_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t(0.975, 2) from the tables, s = 1
    assert mean - low == pytest.approx(high - mean)
    assert compute_interval([0.25] * 4) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="two values"):
        compute_interval([1.0])


def test_tables_align_wide_characters() -> None:
    columns = (Column(Text("name", "名称")), Column(Text("value", "数值"), ".1f"), Column(Text("note", "注"), ">"))
    table = Table(columns, ((Text("one", "一"), -1.25, "x"), (Text("three", "三个字"), 10, None)))
    assert format_table(table, "en").split("\n") == [
        "  name   value  note",
        "  ─────  ─────  ────",
        "  one     −1.2     x",
        "  three   10.0",
    ]
    lines = format_table(table, "zh").split("\n")
    assert lines[2:] == ["  一      −1.2   x", "  三个字  10.0"]
    assert [measure_width(line) for line in lines[:3]] == [18, 18, 18]


def test_chinese_prose_breaks_between_characters_but_not_before_a_comma() -> None:
    text = "反向传播" * 12 + "，" + "梯度 gradient " * 10
    lines = wrap_paragraph(text, "zh").split("\n")
    assert max(measure_width(line) for line in lines) <= WIDTH + 2  # a comma may hang
    assert not any(line.strip().startswith("，") for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_numbers_have_a_true_minus_and_no_negative_zero() -> None:
    assert [format_signed(v, ".1f") for v in (-1.0, -0.01, 2.0)] == ["−1.0", "0.0", "2.0"]
