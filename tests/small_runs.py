"""A small network trained on the digits, for tests that spoil or resume its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerwise import api

ONE_THREAD = {"train.threads": 1}
SMALL = {**ONE_THREAD, "model.hidden": [16], "model.dropout": 0}
LONG = ["train", "mlp", "--data", "digits", "--epochs", 8, "--batch", 64, "--seed", 5, "--out", "run", "--set", "train.threads=1",
        "--set", "train.log_every=2"]  # fmt: skip


def fit(out: Path, name: str = "mlp", **more: Any) -> api.Run:
    """Train a small network on the digits."""
    options = {**SMALL, **more.pop("options", {})}
    keys = {"data": "digits", "epochs": 2, "batch": 64, "seed": 5, **more}
    return api.train(name, out=out, options=options, **keys)
