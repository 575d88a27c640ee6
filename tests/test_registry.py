"""The registry: models of installed packages (entry point group ``layerwise.models``) and of users' files, which need
no more than a bare ``@register``."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import Command, parse_json_output
from layerwise.errors import UsageError
from layerwise.registry import ModelSpec, read_specs

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_package_offers_models(tmp_path: Path, command: Command) -> None:
    """The network of CONTRIBUTING.md, in a package as pip leaves it: listed, found, and its near name offered for a
    typo."""
    example = re.search(
        r"<!-- example: model -->\n```python\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert example is not None
    site = tmp_path / "site"
    (site / "squares-1.0.dist-info").mkdir(parents=True)
    (site / "square_net.py").write_text(example[1], encoding="utf-8")
    (site / "squares-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    (site / "squares-1.0.dist-info" / "entry_points.txt").write_text("[layerwise.models]\nsquares = square_net\n")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    assert "square-net" in list_names(command("models", "--json", env={"PYTHONPATH": path}))
    typo = command("train", "square-nte", env={"PYTHONPATH": path})
    assert typo.returncode == 2
    assert "did you mean 'square-net'?" in typo.stderr
    assert "square-net" not in list_names(command("models", "--json"))


def list_names(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names that ``layerwise models --json`` printed."""
    return [spec["name"] for spec in parse_json_output(ended)["models"]]


FAMILY = """
SHARED: dict[str, object] = {
    "family": "history",
    "tasks": (),
    "rule": None,
    "year": 1900,
    "paper": "none, 1900",
    "parameters": 0,
}
OTHERS = dict(SHARED)


@register("one", **SHARED, summary="one", summary_zh="一")
def one():
    ...


@register("two", **TABLE, summary="two", summary_zh="二")
def two():
    ...
"""


def test_models_of_a_family_share_a_literal_table(tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    path.write_text(FAMILY.replace("TABLE", "SHARED"), encoding="utf-8")
    one, two = read_specs(path, "family")
    assert (one.name, one.family, one.year, one.builder) == ("one", "history", 1900, "one")
    assert (two.summary, two.paper) == ("two", "none, 1900")


def test_a_table_that_is_not_literal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    path.write_text(FAMILY.replace("TABLE", "OTHERS"), encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"line 18: @register cannot be read: \*\*OTHERS is no literal table at the top of this file"
    ):
        read_specs(path, "family")


# -- what a model may leave out


BARE = """
from torch import nn

import layerwise.registry
from layerwise import registry
from layerwise.registry import register


@register
def tiny_net(*, features: int, classes: int) -> nn.Module:
    \"\"\"One linear layer over the pixels.

    More of it.
    \"\"\"
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


@registry.register
def second(*, features: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))


@layerwise.registry.register
def third(*, features: int) -> nn.Module:
    return nn.Identity()


@register()
def fourth(features, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


@register("fifth-net", family="mine", rule="perceptron", year=2026, summary="the fifth")
def fifth(*, features: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


@register(name="sixth", tasks=("classification",))
def any_name(*, depth: int = 3) -> nn.Module:
    \"\"\"Build it.\"\"\"
    return nn.Identity()


@register(rule=None)
def seventh(*, gate: str = "and") -> nn.Module:
    return nn.Identity()


@third.register
def not_a_model(*, classes: int) -> nn.Module:
    return nn.Identity()
"""


def test_a_model_may_leave_out_whatever_its_builder_says(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text(BARE, encoding="utf-8")
    specs = {spec.name: spec for spec in read_specs(path, "bare")}
    assert {name: spec.tasks for name, spec in specs.items()} == {
        "tiny-net": ("classification",),
        "second": ("classification", "regression"),
        "third": ("reconstruction",),
        "fourth": ("classification",),
        "fifth-net": ("classification",),
        "sixth": ("classification",),
        "seventh": (),
    }
    tiny, fifth = specs["tiny-net"], specs["fifth-net"]
    assert tiny == ModelSpec(
        name="tiny-net",
        tasks=("classification",),
        summary="One linear layer over the pixels",
        summary_zh="One linear layer over the pixels",
        module="bare",
        builder="tiny_net",
    )
    assert (tiny.family, tiny.rule, tiny.year, tiny.paper, tiny.parameters) == ("user", "backprop", None, "", None)
    assert (fifth.family, fifth.rule, fifth.title, fifth.builder) == ("mine", "perceptron", "fifth-net (2026)", "fifth")
    assert fifth.summary == fifth.summary_zh == "the fifth"
    assert specs["sixth"].summary == "Build it"
    assert specs["second"].summary == specs["second"].title == "second"
    assert specs["seventh"].rule is None


def test_tasks_that_the_builder_leaves_open_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text("@register\ndef fixed(*, depth: int = 3):\n    ...\n", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"(?s)bare.py, line 2: the parameters of fixed leave its tasks open.*tasks=\(…\)"
    ):
        read_specs(path, "bare")


def test_two_models_of_one_name_are_refused(tmp_path: Path, command: Command) -> None:
    (tmp_path / "twice.py").write_text(BARE.replace("@third.register", "").replace('"fifth-net"', '"mlp"'))
    ended = command("models", "--import", "twice.py")
    assert ended.returncode == 2
    assert "two models are named 'mlp'" in ended.stderr


def test_a_bare_model_is_listed_trained_and_resumed(tmp_path: Path, command: Command) -> None:
    """``@register`` and a function are enough: by the command, in processes of their own."""
    (tmp_path / "bare.py").write_text(BARE.partition("@registry.register")[0], encoding="utf-8")
    listed = parse_json_output(command("models", "--json", "--import", "bare.py"))["models"]
    assert listed[-1] == {
        "name": "tiny-net",
        "family": "user",
        "year": None,
        "tasks": ["classification"],
        "rule": "backprop",
        "parameters": None,
        "paper": "",
        "summary": "One linear layer over the pixels",
        "summary_zh": "One linear layer over the pixels",
    }
    table = command("models", "--import", "bare.py").stdout.splitlines()
    assert table[-1].split("\t") == ["tiny-net", "–", "user", "backprop", "–", "One linear layer over the pixels"]
    arguments = ("train", "tiny-net", "--import", "bare.py", "--data", "digits", "--epochs", 1, "--lr", 0.05)
    ended = command(*arguments, "--out", "run", "--set", "train.threads=1", "--json")
    assert ended.returncode == 0, ended.stderr
    assert parse_json_output(ended)["metrics"]["test/accuracy"] > 0.5
    ended = command("predict", "run", "nothing.png")
    assert "there is no model 'tiny-net'" in ended.stderr
    ended = command("inspect", "tiny-net", "--import", "bare.py")
    assert ended.returncode == 2
    assert "--data" in ended.stderr
    ended = command("inspect", "tiny-net", "--data", "digits", "--import", "bare.py")
    assert ended.returncode == 0, ended.stderr
