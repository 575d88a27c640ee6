"""``layerwise eval``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from layerwise.cli.common import Imports, Json, put_json, take_imports


def eval_(
    run: Path,
    *,
    data: str | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Measure a run's best weights.

    Parameters
    ----------
    run
        a run directory
    data
        other data than the run was trained on
    split
        which part: test (the default), val, train, or all (the default with --data)
    """
    take_imports(imports)
    from layerwise.evaluate import measure

    found = measure(run, data=data, split=split)
    if json:
        put_json(run=str(run), split=found.split, metrics=found.metrics, notes=list(found.notes))
        return 0
    for note in found.notes:
        print(f"layerwise: {note}", file=sys.stderr)
    for name, value in found.metrics.items():
        print(f"{found.split}/{name}\t{value:.4f}")
    return 0
