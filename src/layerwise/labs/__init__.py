"""Labs: each tests one claim of the field on this machine and reports whether it held, with a measured margin.

A lab is a file of this folder, found by its name: ``backprop_cost.py`` is ``backprop-cost``. Listing the names does
not import torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from layerwise.errors import make_unknown_name_error

if TYPE_CHECKING:
    from layerwise.labs.base import Lab as Lab
    from layerwise.labs.base import Lang as Lang
    from layerwise.labs.base import Mode as Mode
    from layerwise.labs.base import Result as Result

FOLDER = Path(__file__).parent
HELPERS = frozenset(
    {"__init__", "base", "figures", "learning_curves", "regularization", "result_text", "training", "valleys"}
)


def list_labs() -> list[str]:
    """Return the names of all labs, sorted."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def find(name: str) -> Lab:
    """Import the lab of this name. Raises `UsageError` for an unknown one, with the nearest name."""
    if name not in list_labs():
        raise make_unknown_name_error("lab", name, list_labs())
    module = importlib.import_module(f"layerwise.labs.{name.replace('-', '_')}")
    lab: Lab = module.LAB
    return lab


def run(lab: Lab, *, mode: Mode = "normal", out: Path | None = None, lang: Lang = "en") -> Result:
    """Run a lab's experiment, and draw its figure as ``out/NAME.svg`` if ``out`` is given.

    ``mode``: ``quick`` takes seconds and fewer seeds, ``normal`` at most two minutes, ``full`` as long as it needs.
    Every mode measures over three seeds or more. torch's random state does not change.
    """
    from layerwise.labs import base  # torch is slow to import

    return base.run_lab(lab, mode=mode, out=out, lang=lang)


def describe(result: Result, lang: Lang = "en") -> str:
    """Return a result as text for a terminal: claim, method, table, verdict."""
    from layerwise.labs import result_text

    return result_text.format_result(result, lang)
