"""The catalog: cards that other installed packages offer by the entry point group ``layerwise.cards``."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import Command, one_json

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_package_offers_cards(tmp_path: Path, command: Command) -> None:
    """The network of CONTRIBUTING.md, in a package as pip leaves it: listed, found, and its near name offered for a typo."""
    example = re.search(r"<!-- example: model -->\n```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    place = tmp_path / "site"
    (place / "squares-1.0.dist-info").mkdir(parents=True)
    (place / "square_net.py").write_text(example[1], encoding="utf-8")
    (place / "squares-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    (place / "squares-1.0.dist-info" / "entry_points.txt").write_text("[layerwise.cards]\nsquares = square_net\n")
    found = one_json(command("models", "--json", env={"PYTHONPATH": str(place)}))
    assert "square-net" in [card["name"] for card in found["models"]]
    typo = command("train", "square-nte", env={"PYTHONPATH": str(place)})
    assert typo.returncode == 2
    assert "did you mean 'square-net'?" in typo.stderr
    assert "square-net" not in [card["name"] for card in one_json(command("models", "--json", env={"PYTHONPATH": ""}))["models"]]
