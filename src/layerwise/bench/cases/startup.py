"""Startup time of whole ``layerwise`` processes."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.side import Measurement

LIMIT = 0.3


def time_process(arguments: Sequence[str], *, code: int) -> Measurement:
    """Return the seconds of a whole ``layerwise`` process that must end with this exit code. An earlier one warms the
    disk cache."""
    import subprocess
    import sys
    import time
    from pathlib import Path

    script = Path(sys.executable).with_name("layerwise")
    command = [str(script)] if script.is_file() else [sys.executable, "-m", "layerwise"]
    for _ in range(2):
        start = time.perf_counter()
        process = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if process.returncode != code:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}, not {code}: {process.stderr}")
    return Measurement(seconds, facts={"command": [*command, *arguments]})


def time_help(_: Spec) -> Measurement:
    """Time ``layerwise --help``."""
    return time_process(["--help"], code=0)


def time_unknown_model(_: Spec) -> Measurement:
    """Time the error message for an unknown model."""
    return time_process(["train", "lenet6"], code=2)


CASE = Case(
    name="startup",
    unit="s",
    spec={},
    sides={"help": time_help, "typo": time_unknown_model},
    rows=(
        Row("limit of 0.3 s: layerwise --help", LIMIT, Bound(1.0, "at most"), ours="help"),
        Row("limit of 0.3 s: layerwise train lenet6", LIMIT, Bound(1.0, "at most"), ours="typo"),
    ),
    min_runs=7,
    note="wall time of the whole process, the second of two in a row (the first reads the files from the disk)",
)
