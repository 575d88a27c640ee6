"""Spoil valid files and read them: helpers for short runs under hypothesis, and for soaks that end by the clock.

A case is a function of a random generator: it makes a spoiled file, reads it, and lets only what it accepts pass. A
failing case is
repeated by its seed: ``case(random.Random(SEED))``.
"""

from __future__ import annotations

import os
import random
import re
import resource
import time
from collections.abc import Callable

Case = Callable[[random.Random], None]
INTERESTING = (0, 1, 7, 127, 128, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
ODD = (
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\r",
    b'"',
    b"\x1b[31m",
    "\u202e".encode(),
    b"[" * 200,
    b"{" * 200,
    b" ",
    b"../",
    b"\xed\xa0\x80",
)
GROWTH = 1 << 30  # bytes by which a process may grow while it reads spoiled small files


def get_soak_seconds() -> float:
    """Return how long a soak runs a fuzzer, all its cases together: LAYERWISE_FUZZ_SECONDS, an hour if it says
    nothing."""
    return float(os.environ.get("LAYERWISE_FUZZ_SECONDS", 3600))


def fuzz(seconds: float, case: Case) -> int:
    """Run a case with fresh seeds for so many seconds; return how often. A failure prints its seed."""
    before, end, count = _get_peak_memory(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        run_seed(random.SystemRandom().getrandbits(48), case)
        count += 1
    assert _get_peak_memory() - before < GROWTH, f"memory grew by {_get_peak_memory() - before:,} bytes"
    return count


def run_seed(seed: int, case: Case) -> None:
    """Run a case once. A failure prints its seed."""
    try:
        case(random.Random(seed))
    except BaseException:
        print(f"failing seed: {seed}")
        raise


def _get_peak_memory() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutate(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Return data spoiled in one to four places: flipped, cut, repeated, spliced with other data, numbers made large or
    negative."""
    for _ in range(draw.randint(1, 4)):
        data = draw.choice(MUTATIONS)(data, draw, other or data)
    return data


def _flip(data: bytes, draw: random.Random, other: bytes) -> bytes:
    if not data:
        return b"\0"
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def _truncate(data: bytes, draw: random.Random, other: bytes) -> bytes:
    return data[: draw.randint(0, len(data))]


def _cut(data: bytes, draw: random.Random, other: bytes) -> bytes:
    a, b = sorted(draw.randint(0, len(data)) for _ in range(2))
    return data[:a] + data[b:]


def _splice(data: bytes, draw: random.Random, other: bytes) -> bytes:
    a, b = sorted(draw.randint(0, len(other)) for _ in range(2))
    at = draw.randint(0, len(data))
    return data[:at] + other[a:b][:4096] + data[at:]


def _write_number(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Write a binary number over some bytes."""
    width = draw.choice((1, 2, 4, 8))
    value = draw.choice(INTERESTING) % (1 << 8 * width)
    at = draw.randint(0, min(len(data), 64) if draw.random() < 0.5 else len(data))
    return data[:at] + value.to_bytes(width, draw.choice(("little", "big"))) + data[at + width :]


def _replace_digits(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Write another decimal number in the place of one."""
    numbers = list(re.finditer(rb"-?\d+", data))
    if not numbers:
        return data
    number = draw.choice(numbers)
    value = draw.choice((*INTERESTING, -1, 10**30, "1" * 5000, "nan", "1e999", "-0"))
    return data[: number.start()] + str(value).encode() + data[number.end() :]


def _insert_odd(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Put in something that parsers stumble over."""
    at = draw.randint(0, len(data))
    return data[:at] + draw.choice(ODD) + data[at:]


MUTATIONS = (_flip, _truncate, _cut, _splice, _write_number, _replace_digits, _insert_odd)
