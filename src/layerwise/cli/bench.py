"""``layerwise bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerwise import bench
from layerwise.cli.common import Json, put_json, put_table
from layerwise.runtime.atomic_io import check_target
from layerwise.text_display import write_line


def bench_(
    *cases: str,
    runs: int = 3,
    all: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
    json: Json = False,
) -> int:
    """Time Layerwise beside its peers: ratios of medians, alternating, each side in a process of its own.

    Parameters
    ----------
    cases
        the cases to run; without one, what there is
    runs
        timed runs of each side
    all
        run every case
    out
        also write the results as JSON lines here
    """
    if not cases and not all:
        write_line("\n".join(bench.names()))
        return 0
    chosen = bench.names() if all else cases
    for name in chosen:
        bench.find(name)
    if out and (out.exists() or out.is_symlink()):
        check_target(out)  # before minutes of measuring
    results = []
    for name in chosen:
        for result in bench.run(name, runs=runs):
            results.append(result)
            if out:
                bench.append(out, result)
    if json:
        put_json(results=[result.to_json() for result in results])
        return 0
    columns = ("case", "peer", "ours", "theirs", "unit", "ratio", "runs")
    put_table(columns, [[_cell(result.to_json()[c]) for c in columns] for result in results])
    return 0


def _cell(value: object) -> object:
    """Return what a table shows of a value; – where nothing was measured."""
    return "–" if value is None else value
