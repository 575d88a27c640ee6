"""One measurement in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec

from layerwise.errors import LayerwiseError
from layerwise.runtime import strict_json


class Measure(msgspec.Struct, frozen=True):
    """What one side measured once: ``value`` in the case's unit, the ``quality`` of what was learned, and what else to
    know."""

    value: float
    quality: dict[str, float] = {}
    facts: dict[str, Any] = {}


class BenchError(LayerwiseError):
    """A side of a benchmark failed."""


def measure(case: str, side: str, spec: dict[str, Any], *, timeout: float) -> Measure:
    """Run ``python -m layerwise.bench.side CASE SIDE`` with the spec on standard input and return what it measured.

    Raises `BenchError` if it fails or takes longer than ``timeout`` seconds.
    """
    command = [sys.executable, "-m", "layerwise.bench.side", case, side]
    try:
        done = subprocess.run(
            command, input=strict_json.dumps(spec), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{case}: {side} did not end", expected=f"an answer within {timeout:g} s") from error
    if done.returncode != 0:
        raise BenchError(
            f"{case}: {side} failed with exit code {done.returncode}",
            received=done.stderr.strip()[-2000:] or "nothing on standard error",
            do=f"see all of it with: echo '{strict_json.dumps(spec)}' | {' '.join(command[2:])}",
        )
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Measure)
