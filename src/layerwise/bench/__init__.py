"""Benchmarks: Layerwise beside its peers, as ratios. Each side runs in a process of its own, with its own defaults.

A case is a file of ``cases/``, found by its name: ``mlp_sklearn.py`` is ``mlp-sklearn``. Listing the names does
not import torch, and a case's file imports what it measures only inside its sides.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from layerwise.errors import make_unknown_name_error
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import make_folder
from layerwise.runtime.folder_io import remove_new_folders_on_error
from layerwise.runtime.in_place_io import append_line

if TYPE_CHECKING:
    from layerwise.bench.base import Case, Result

FOLDER = Path(__file__).parent / "cases"


def list_cases() -> list[str]:
    """Return the names of all cases, sorted."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem != "__init__")


def find(name: str) -> Case:
    """Import the case of this name. Raises `UsageError` for an unknown one, with the nearest name."""
    if name not in list_cases():
        raise make_unknown_name_error("benchmark", name, list_cases())
    case: Case = importlib.import_module(f"layerwise.bench.cases.{name.replace('-', '_')}").CASE
    return case


def run(name: str, *, runs: int) -> list[Result]:
    """Measure a case, each side ``runs`` times (at least the case's ``min_runs``), and return a result for each peer.

    Progress goes to standard error, a line for each measurement. Raises `UsageError` for an unknown name or fewer
    than one run and `BenchError` if a side fails.
    """
    from layerwise.bench import base

    return base.run_case(find(name), runs=runs)


def append(path: Path, result: Result) -> None:
    """Add a result to a file of JSON lines, made with its folders if it is not there. Raises what `append_line`
    does."""
    with remove_new_folders_on_error(path.parent):
        make_folder(path.parent)
        append_line(path, (strict_json.dumps(result.to_json()) + "\n").encode(), root=path.parent)
