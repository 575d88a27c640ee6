"""Small trainings: a network on the digits, for tests that spoil or resume its run, and the small form of any card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from layerwise import api, catalog

ONE_THREAD = {"train.threads": 1}
SMALL = {**ONE_THREAD, "model.hidden": [16], "model.dropout": 0}
LONG = ["train", "mlp", "--data", "digits", "--epochs", 8, "--batch", 64, "--seed", 5, "--out", "run", "--set", "train.threads=1",
        "--set", "train.log_every=2"]  # fmt: skip
BATCH = {"hopfield": 2, "glove": 1}  # of the ten patterns that it stores; the others learn from many examples
OF_THE_DATA = {"features", "classes", "outputs", "size", "words"}


def fit(out: Path, name: str = "mlp", **more: Any) -> api.Run:
    """Train a small network on the digits."""
    options = {**SMALL, **more.pop("options", {})}
    keys = {"data": "digits", "epochs": 2, "batch": 64, "seed": 5, **more}
    return api.train(name, out=out, options=options, **keys)


def small_form(name: str, *, examples: int) -> dict[str, Any]:
    """Return the options of a card's small form; with so many examples, of its small form's size, where that says the pictures'."""
    card = catalog.find(name)
    options = {f"model.{key}": value for key, value in card.small.items() if key not in OF_THE_DATA}
    if "size" in card.small:
        options |= {"task.size": card.small["size"][0], "examples": examples}
    if card.family == "word-vectors":
        options["task.min_count"] = 1
    return options


def written(path: Path) -> str:
    """Write a text in which three groups of three hundred words keep to themselves, and return its path."""
    draw = np.random.default_rng(0)
    groups = [[f"{letter}{number}" for number in range(300)] for letter in "abc"]
    lines = (" ".join(draw.choice(groups[n % 3], size=20)) for n in range(4000))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
