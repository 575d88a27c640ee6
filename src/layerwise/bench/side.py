"""One side of a case, measured once in a process of its own.

``python -m layerwise.bench.side CASE SIDE`` reads a spec as JSON from standard input and prints a measurement as JSON
on its last line.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec

from layerwise import bench
from layerwise.errors import LayerwiseError
from layerwise.runtime import strict_json


class Measurement(msgspec.Struct, frozen=True):
    """One measurement of a side: ``value`` in the case's unit, the ``quality`` of the result, further ``facts``."""

    value: float
    quality: dict[str, float] = {}
    facts: dict[str, Any] = {}


class BenchError(LayerwiseError):
    """A side of a benchmark failed."""


def measure_side(case: str, side: str, spec: dict[str, Any], *, timeout: float) -> Measurement:
    """Run ``python -m layerwise.bench.side CASE SIDE`` with the spec on standard input and return the measurement.

    Raises `BenchError` if it fails or takes longer than ``timeout`` seconds.
    """
    command = [sys.executable, "-m", "layerwise.bench.side", case, side]
    try:
        process = subprocess.run(
            command, input=strict_json.dumps(spec), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{case}: {side} did not end", expected=f"an answer within {timeout:g} s") from error
    if process.returncode != 0:
        raise BenchError(
            f"{case}: {side} failed with exit code {process.returncode}",
            received=process.stderr.strip()[-2000:] or "nothing on standard error",
            do=f"see all of it with: echo '{strict_json.dumps(spec)}' | {' '.join(command[2:])}",
        )
    return msgspec.json.decode(process.stdout.strip().splitlines()[-1], type=Measurement)


def main(case: str, side: str) -> None:
    """Measure one side of a case once."""
    measurement = bench.find(case).sides[side](strict_json.loads(sys.stdin.read()))
    print(msgspec.json.encode(measurement).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
