"""Small trainings: a network on the digits, for tests that spoil or resume its run, and the small form of any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from layerwise import api, registry

ONE_THREAD = {"train.threads": 1}
SMALL = {**ONE_THREAD, "model.hidden": [16], "model.dropout": 0}
LONG = [
    "train",
    "mlp",
    "--data",
    "digits",
    "--epochs",
    8,
    "--batch-size",
    64,
    "--seed",
    5,
    "--out",
    "run",
    "--set",
    "train.threads=1",
    "--set",
    "train.log_every=2",
]
BATCH_SIZES = {"hopfield": 2, "glove": 1}  # of the ten patterns that it stores; the others learn from many examples
DATA_ARGUMENTS = {"features", "classes", "outputs", "size", "words"}


def fit(out: Path, name: str = "mlp", *, options: Mapping[str, Any] | None = None, **arguments: Any) -> api.Run:
    """Train a small network on the digits."""
    arguments = {"data": "digits", "epochs": 2, "batch_size": 64, "seed": 5, **arguments}
    return api.train(name, out=out, options={**SMALL, **(options or {})}, **arguments)


def get_small_form(name: str, *, examples: int) -> dict[str, Any]:
    """Return the options of a model's small form; with so many examples, of its small form's size, where that says the
    images'."""
    spec = registry.find(name)
    options = {f"model.{key}": value for key, value in spec.small.items() if key not in DATA_ARGUMENTS}
    if "size" in spec.small:
        options |= {"task.size": spec.small["size"][0], "examples": examples}
    if spec.family == "word-vectors":
        options["task.min_count"] = 1
    return options


def make_run_info(**others: Any) -> dict[str, Any]:
    """Return what run.json must hold at least, and others."""
    least = {
        "status": "training",
        "data": "d",
        "fingerprint": "f",
        "examples": {},
        "notes": [],
        "columns": [],
        "world": 1,
    }
    return {**least, "model": {"name": "mlp", "arguments": {}}, **others}


def write_corpus(path: Path) -> str:
    """Write a text in which three groups of three hundred words keep to themselves, and return its path."""
    draw = np.random.default_rng(0)
    groups = [[f"{letter}{number}" for number in range(300)] for letter in "abc"]
    lines = (" ".join(draw.choice(groups[n % 3], size=20)) for n in range(4000))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_digit_folders(parent: Path, count: int, *, classes: int = 10, side: int = 8) -> Path:
    """Write the first ``count`` digits as images of ``side`` × ``side`` into folders by digit modulo ``classes``;
    return the parent folder."""
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:count], labels, strict=False)):
        folder = parent / f"class {label % classes}"
        folder.mkdir(exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype(np.uint8)).resize((side, side)).save(
            folder / f"{number:04}.png"
        )
    return parent


LINEAR = """
import torch
from torch import nn
from layerwise.registry import register


class Linear(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, x):
        x = x.flatten(1)
        return {outputs}


@register("{name}", family="f", tasks=("classification",), rule="backprop", year=2000, paper="2000",
          summary="s", summary_zh="s", parameters=15,
          size={{"features": 4, "classes": 3}}, small={{"features": 4, "classes": 3}},
          recipe={{"stages": [{{"epochs": 1}}]}})
def build(*, features: int, classes: int):
    return Linear(features, classes)
"""


def write_linear_model(path: Path, outputs: str) -> None:
    """Write a file with one model, named as the file: a linear layer ``self.linear`` for iris, whose outputs of rows
    ``x`` (N, 4) are this expression."""
    path.write_text(LINEAR.format(name=path.stem, outputs=outputs), encoding="utf-8")
