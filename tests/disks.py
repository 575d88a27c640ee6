"""A small disk of its own, for tests that fill it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def mount_small_disk(path: Path) -> Iterator[Path | None]:
    """Yield a file system of 4 MiB in a new folder, or None where mounting is not permitted."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill_disk(disk: Path) -> None:
    """Fill a disk to its last page."""
    with open(disk / "ballast", "wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
