"""The catalog: models that other installed packages offer by the entry point group ``layerwise.specs``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import Command, one_json
from layerwise.errors import UsageError
from layerwise.registry import read_specs

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_package_offers_cards(tmp_path: Path, command: Command) -> None:
    """The network of CONTRIBUTING.md, in a package as pip leaves it: listed, found, and its near name offered for a
    typo."""
    example = re.search(
        r"<!-- example: model -->\n```python\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert example is not None
    place = tmp_path / "site"
    (place / "squares-1.0.dist-info").mkdir(parents=True)
    (place / "square_net.py").write_text(example[1], encoding="utf-8")
    (place / "squares-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    (place / "squares-1.0.dist-info" / "entry_points.txt").write_text("[layerwise.models]\nsquares = square_net\n")
    found = one_json(command("models", "--json", env={"PYTHONPATH": str(place)}))
    assert "square-net" in [spec["name"] for spec in found["models"]]
    typo = command("train", "square-nte", env={"PYTHONPATH": str(place)})
    assert typo.returncode == 2
    assert "did you mean 'square-net'?" in typo.stderr
    assert "square-net" not in [
        spec["name"] for spec in one_json(command("models", "--json", env={"PYTHONPATH": ""}))["models"]
    ]


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


def test_cards_of_a_family_share_a_literal_table(tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    path.write_text(FAMILY.replace("TABLE", "SHARED"), encoding="utf-8")
    one, two = read_specs(path, "family")
    assert (one.name, one.family, one.year, one.builder) == ("one", "history", 1900, "one")
    assert (two.summary, two.paper) == ("two", "none, 1900")


def test_a_table_that_is_not_literal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    path.write_text(FAMILY.replace("TABLE", "OTHERS"), encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"line 11: @register cannot be read: \*\*OTHERS is no literal table at the top of this file"
    ):
        read_specs(path, "family")
