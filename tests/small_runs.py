"""Small trainings: a network on the digits, for tests that spoil or resume its run, and the small form of any model."""

from __future__ import annotations

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
    "--batch",
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
BATCH = {"hopfield": 2, "glove": 1}  # of the ten patterns that it stores; the others learn from many examples
OF_THE_DATA = {"features", "classes", "outputs", "size", "words"}


def fit(out: Path, name: str = "mlp", **more: Any) -> api.Run:
    """Train a small network on the digits."""
    options = {**SMALL, **more.pop("options", {})}
    keys = {"data": "digits", "epochs": 2, "batch": 64, "seed": 5, **more}
    return api.train(name, out=out, options=options, **keys)


def small_form(name: str, *, examples: int) -> dict[str, Any]:
    """Return the options of a model's small form; with so many examples, of its small form's size, where that says the
    images'."""
    spec = registry.find(name)
    options = {f"model.{key}": value for key, value in spec.small.items() if key not in OF_THE_DATA}
    if "size" in spec.small:
        options |= {"task.size": spec.small["size"][0], "examples": examples}
    if spec.family == "word-vectors":
        options["task.min_count"] = 1
    return options


def run_info(**more: Any) -> dict[str, Any]:
    """Return what run.json must hold at least, and more."""
    least = {
        "status": "training",
        "data": "d",
        "fingerprint": "f",
        "examples": {},
        "notes": [],
        "columns": [],
        "world": 1,
    }
    return {**least, "model": {"name": "mlp", "arguments": {}}, **more}


def written(path: Path) -> str:
    """Write a text in which three groups of three hundred words keep to themselves, and return its path."""
    draw = np.random.default_rng(0)
    groups = [[f"{letter}{number}" for number in range(300)] for letter in "abc"]
    lines = (" ".join(draw.choice(groups[n % 3], size=20)) for n in range(4000))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def digit_folders(place: Path, count: int, *, classes: int = 10, side: int = 8) -> Path:
    """Write the first ``count`` digits as images of ``side`` × ``side`` into folders by digit modulo ``classes``;
    return the place."""
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:count], labels, strict=False)):
        folder = place / f"class {label % classes}"
        folder.mkdir(exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype(np.uint8)).resize((side, side)).save(
            folder / f"{number:04}.png"
        )
    return place


LINEAR = """
import torch
from torch import nn
from layerwise.catalog import register


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
def made(*, features: int, classes: int):
    return Linear(features, classes)
"""


def linear_model(path: Path, outputs: str) -> None:
    """Write a file with one model, named as the file: a linear layer ``self.linear`` for iris, whose outputs of rows
    ``x`` (N, 4) are this expression."""
    path.write_text(LINEAR.format(name=path.stem, outputs=outputs), encoding="utf-8")
