"""``layerwise bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerwise import bench
from layerwise.cli.common import Json, print_json, print_table
from layerwise.runtime.write_checks import check_target
from layerwise.text_display import write_line


def run_bench(
    *cases: str,
    runs: int = 3,
    all_cases: Annotated[bool, Parameter(name="--all", negative="")] = False,
    out: Path | None = None,
    as_json: Json = False,
) -> int:
    """Time Layerwise beside its peers: ratios of medians over alternating runs, each side in its own process.

    Parameters
    ----------
    cases
        the cases to run; without a name, list them
    runs
        timed runs of each side
    all_cases
        run every case
    out
        also write the results as JSON lines here
    """
    if not cases and not all_cases:
        write_line("\n".join(bench.list_cases()))
        return 0
    chosen = bench.list_cases() if all_cases else cases
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
    if as_json:
        print_json(results=[result.to_json() for result in results])
        return 0
    columns = ("case", "peer", "ours", "theirs", "unit", "ratio", "runs")
    print_table(columns, [[_format_value(result.to_json()[c]) for c in columns] for result in results])
    return 0


def _format_value(value: object) -> object:
    """Return a value as a table cell: – if nothing was measured."""
    return "–" if value is None else value
