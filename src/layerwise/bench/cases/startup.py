"""Starting up: whole processes, from the shell's point of view."""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.process import Measure

LIMIT = 0.3


def process(arguments: Sequence[str], *, code: int) -> Measure:
    """Return the seconds of a whole ``layerwise`` process that must end with this exit code. One before it warms the
    disk cache."""
    import subprocess
    import sys
    import time
    from pathlib import Path

    script = Path(sys.executable).with_name("layerwise")
    command = [str(script)] if script.is_file() else [sys.executable, "-m", "layerwise"]
    for _ in range(2):
        began = time.perf_counter()
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode != code:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}, not {code}: {done.stderr}")
    return Measure(seconds, facts={"command": [*command, *arguments]})


def help_(_: Spec) -> Measure:
    """Time ``layerwise --help``."""
    return process(["--help"], code=0)


def typo(_: Spec) -> Measure:
    """Time the refusal of a name that is not there."""
    return process(["train", "lenet6"], code=2)


CASE = Case(
    name="startup",
    unit="s",
    spec={},
    sides={"help": help_, "typo": typo},
    rows=(
        Row("limit of 0.3 s: layerwise --help", LIMIT, Bound(1.0, "at most"), ours="help"),
        Row("limit of 0.3 s: layerwise train lenet6", LIMIT, Bound(1.0, "at most"), ours="typo"),
    ),
    least=7,
    note="wall time of the whole process, the second of two in a row (the first reads the files from the disk)",
)
