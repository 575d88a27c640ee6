"""The pages stay true: links lead somewhere, both languages have the same pages, commands parse, options are those of
the code."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError

from layerwise import bench, labs, recipe, registry
from layerwise import inspection as views
from layerwise.cli import make_app
from layerwise.data.download import datasets

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PHOTOS = ("photos", "cells")  # the folders of images that the pages make up
OWN = {"square-net"}  # the network that CONTRIBUTING.md makes up


def get_page_names(pages: list[Path]) -> list[str]:
    """Return the pages' paths within the repository, as test ids."""
    return [page.relative_to(ROOT).as_posix() for page in pages]


def read_page(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def strip_code(page: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", read_page(page))


def find_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", strip_code(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=get_page_names(PAGES))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", strip_code(page)):
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in find_anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=get_page_names(PAGES))
def test_no_path_of_the_machine_is_told(page: Path) -> None:
    assert not re.findall(r"(?<![\w.…])/(?:tmp|work|home|root)/\S*", read_page(page))


def test_every_page_exists_in_both_languages() -> None:
    """Each page has its twin, the twins link to each other, and their headings and code blocks are as many."""
    english = {
        p for p in PAGES if not p.name.endswith(".zh-CN.md") and p.name not in ("CONTRIBUTING.md", "CHANGELOG.md")
    }
    chinese = {p for p in PAGES if p.name.endswith(".zh-CN.md")}
    assert {p.with_name(p.name.replace(".md", ".zh-CN.md")) for p in english} == chinese
    for page in english:
        twin = page.with_name(page.name.replace(".md", ".zh-CN.md"))
        assert f"]({twin.name})" in read_page(page)
        assert f"]({page.name})" in read_page(twin)
        assert re.search(r"[\u4e00-\u9fff]", strip_code(twin))


TOPICS = (
    "README history feed-forward boltzmann convolutional residual data your-table your-images formulas "
    "recipes regularization inspect "
    "runs weights vectors word-vectors export machine"
).split()
GUIDES = [ROOT / "docs" / f"{name}.md" for name in TOPICS]


@pytest.mark.parametrize("page", GUIDES, ids=get_page_names(GUIDES))
def test_twins_have_the_same_outline_and_the_same_code(page: Path) -> None:
    twin = page.with_name(page.name.replace(".md", ".zh-CN.md"))
    levels = [[len(mark) for mark in re.findall(r"^(#+) ", strip_code(p), re.MULTILINE)] for p in (page, twin)]
    assert levels[0] == levels[1]
    for (kind, english), (_, chinese) in zip(
        FENCE.findall(read_page(page)), FENCE.findall(read_page(twin)), strict=True
    ):
        shown = [[line for line in block.splitlines() if line.startswith("$ ")] for block in (english, chinese)]
        assert (english == chinese) if kind else (shown[0] == shown[1])


def test_every_view_stands_on_its_page() -> None:
    for page in ("inspect.md", "inspect.zh-CN.md"):
        listed = re.findall(r"\[`([a-z-]+)`\]", read_page(ROOT / "docs" / page).split("\n## ")[0])
        assert sorted(listed) == sorted(views.VIEWS)


# -- commands ----------------------------------------------------------------------------------------------------------


def find_commands(page: Path) -> list[str]:
    """Return the ``layerwise …`` command lines that a page quotes, in blocks and in running text."""
    found = []
    for _, block in FENCE.findall(read_page(page)):
        found += re.findall(r"^(?:\$ |torchrun .*-m )?layerwise +([^#\n]+)", block, re.MULTILINE)
        found += re.findall(r"^\$ torchrun .*-m layerwise +([^#\n]+)", block, re.MULTILINE)
    found += re.findall(r"`layerwise +([^`]+)`", strip_code(page))
    return [line.strip() for line in found if "…" not in line and not line.startswith("[")]


@cache
def get_app() -> App:
    """Return the command line, once."""
    return make_app()


def is_placeholder(word: str) -> bool:
    """Whether a word stands for something of the reader's own: RUN, SOURCE, N."""
    return word.isupper()


def is_refused(line: str, page: Path) -> bool:
    """Whether the page quotes the command for the error that follows it."""
    return f"$ layerwise {line}\nlayerwise: " in read_page(page)


QUOTED = [(page, line) for page in PAGES for line in find_commands(page)]


@pytest.mark.parametrize(("page", "line"), QUOTED, ids=[f"{page.name}: {line}" for page, line in QUOTED])
def test_quoted_command_parses(page: Path, line: str) -> None:
    words = ["1" if word == "N" else word for word in shlex.split(line)]
    if words[0].startswith("--"):
        assert words[0] in ("--help", "--version")
        return
    if words == ["doctor", "RUN"] or len(words) > 1:
        command, bound, _ = get_app().parse_args(words, exit_on_error=False, print_error=False)
        given = bound.arguments
        assert command.__name__ == f"run_{words[0]}"
    else:
        assert f"run_{words[0]}" in dir(__import__(f"layerwise.cli.{words[0]}", fromlist=["*"]))
        given = {}
    if not is_refused(line, page):
        check_names(words[0], given)


def check_names(verb: str, given: dict[str, object]) -> None:
    """Check the names a command speaks of: networks, data sets, views, labs, cases, keys."""
    model = str(given.get("model", ""))
    if verb == "train" and not (model.endswith(".toml") or is_placeholder(model) or model in OWN):
        check_settings(registry.find(model), given.get("settings") or [])  # type: ignore[arg-type]
    data = str(given.get("data") or "")
    if data and "." not in data and "/" not in data and not is_placeholder(data) and data not in PHOTOS:
        datasets.find(data)
    if verb == "inspect":
        target = str(given["target"])
        assert is_placeholder(target) or "/" in target or registry.find(target)
        view = str(given.get("view", "summary"))
        if not is_placeholder(view):
            views.check_view_name(view)
    for kind, known in (("lab", labs.list_labs), ("bench", bench.list_cases)):
        if verb == kind:
            asked = given.get("names") or given.get("cases") or ()
            assert {str(name) for name in asked if not is_placeholder(str(name))} <= set(known())  # type: ignore[attr-defined]


def check_settings(spec: registry.ModelSpec, settings: list[str]) -> None:
    """Check the keys of ``--set`` against the model's stages and its builder's parameters."""
    table = recipe.merge({"model": {}, "data": {}, "task": {}, "train": {}, "stages": [{}]}, copy.deepcopy(spec.recipe))
    for setting in settings:
        recipe.assign(table, setting)
    assert set(table["model"]) <= set(get_signature(spec)[1])
    assert set(table["train"]) <= set(recipe.Train.__struct_fields__)
    for stage in table["stages"]:
        assert set(stage) <= set(recipe.Stage.__struct_fields__)


# -- options -----------------------------------------------------------------------------------------------------------


def get_signature(spec: registry.ModelSpec) -> tuple[str, list[str]]:
    """Return a builder's signature without types, and its parameters, read from the source."""
    source = (registry.FOLDER / f"{spec.module.rpartition('.')[2]}.py").read_text(encoding="utf-8")
    function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == spec.builder)
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    shown = [a.arg if d is None else f"{a.arg}={ast.unparse(d)}" for a, d in pairs]
    return f"{spec.builder}(*, {', '.join(shown)})".replace("'", '"'), [a.arg for a in function.args.kwonlyargs]


@pytest.mark.parametrize("spec", registry.list_models(), ids=lambda spec: spec.name)
def test_family_page_states_the_builders_signature(spec: registry.ModelSpec) -> None:
    for ending in ("md", "zh-CN.md"):
        assert f"`{get_signature(spec)[0]}`" in read_page(ROOT / "docs" / f"{spec.family}.{ending}")


@pytest.mark.parametrize("ending", ["md", "zh-CN.md"])
def test_recipe_page_has_every_key(ending: str) -> None:
    from layerwise.rules import registry

    page = read_page(ROOT / "docs" / f"recipes.{ending}")
    owners = [recipe.Stage, recipe.Train, *(registry.find_rule(name).options for name in registry.RULES)]
    keys = {key for owner in owners for key in owner.__struct_fields__} - {"rule"}
    assert not {key for key in keys if f"`{key}`" not in page and f"`{key} =" not in page}


@pytest.mark.parametrize("ending", ["md", "zh-CN.md"])
def test_regularization_page_has_every_key(ending: str) -> None:
    from layerwise.functional.augmentation.transforms import AugmentOptions
    from layerwise.tasks.classification import ClassificationOptions
    from layerwise.tasks.regression import RegressionOptions

    page = read_page(ROOT / "docs" / f"regularization.{ending}")
    from layerwise.tasks.input_options import InputOptions

    keys = {
        key for owner in (AugmentOptions, ClassificationOptions, RegressionOptions) for key in owner.__struct_fields__
    }
    assert not {key for key in keys - set(InputOptions.__struct_fields__) if f"`{key}`" not in page}


@pytest.mark.parametrize("ending", ["md", "zh-CN.md"])
def test_data_page_has_every_key(ending: str) -> None:
    from layerwise.data.load import Options

    page = read_page(ROOT / "docs" / f"data.{ending}")
    assert not {key for key in Options.__struct_fields__ if f"| `{key}` |" not in page}


# -- examples ----------------------------------------------------------------------------------------------------------


def test_example_recipe_resolves(tmp_path: Path) -> None:
    from layerwise.planning.resolve import Request, make_plan

    found = re.search(
        r"<!-- example: small.toml -->\n```toml\n(.*?)```", read_page(ROOT / "docs" / "recipes.md"), re.DOTALL
    )
    assert found
    path = tmp_path / "small.toml"
    path.write_text(found[1], encoding="utf-8")
    made = make_plan(Request(model=str(path)))
    assert tuple(made.recipe.model["hidden"]) == (32, 32)
    assert (made.recipe.stages[0].rule["optimizer"], made.recipe.train.seed) == ("adamw", 1)


@pytest.mark.parametrize("page", PAGES, ids=get_page_names(PAGES))
def test_python_examples_compile(page: Path) -> None:
    for kind, block in FENCE.findall(read_page(page)):
        if kind == "python":
            compile(block, str(page), "exec", dont_inherit=True)


def test_gate_example_prints_what_it_says() -> None:
    block = next(b for kind, b in FENCE.findall(read_page(ROOT / "docs" / "history.md")) if kind == "python")
    said = re.search(r"# (tensor.+)$", block, re.MULTILINE)
    assert said
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(block, {})
    assert re.sub(r"\s+", "", shown.getvalue()) == re.sub(r"\s+", "", said[1])


def test_xor_example_writes_the_table(tmp_path: Path) -> None:
    block = next(b for kind, b in FENCE.findall(read_page(ROOT / "docs" / "data.md")) if kind == "python")
    exec(block, {})  # each test runs in a folder of its own
    lines = Path("xor.csv").read_text(encoding="utf-8").splitlines()
    assert (lines[0], len(lines), sum(line.endswith("yes") for line in lines)) == ("x1,x2,y", 41, 20)


def test_helpers_would_notice() -> None:
    """The checks above can fail: a wrong option, key, name and view are refused."""
    from layerwise.errors import UsageError

    with pytest.raises(CycloptsError):
        get_app().parse_args(["train", "mlp", "--epoch", "3"], exit_on_error=False, print_error=False)
    with pytest.raises(UsageError, match=r"lenet5|lenet"):
        check_names("train", {"model": "lenet6"})
    with pytest.raises(UsageError, match="digits"):
        check_names("train", {"model": "mlp", "data": "digit"})
    with pytest.raises(AssertionError):
        check_settings(registry.find("mlp"), ["model.widths=[3]"])
