"""A small disk of its own, for tests that fill it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """Yield a file system of 4 MiB in a new folder, or None where mounting is not permitted."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    """Fill a disk to its last page."""
    with open(disk / "ballast", "wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
