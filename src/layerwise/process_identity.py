"""Which process made a folder, and whether it still runs: what survives a set clock, a container and a number that was given again.

On Linux a process is known by the boot of the kernel, the namespace of its number, the number, and the tick it was started at; elsewhere by
the host's name, the number and the time it was started at.
"""

from __future__ import annotations

import hashlib
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

import psutil

CLOCK_STEP = 2.0  # seconds by which a start may seem to move where only the clock tells it


@cache
def machine_id() -> str:
    """Return what tells apart the places in which numbers of processes mean something: kernels that run, and containers in them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except (OSError, ValueError):
        return socket.gethostname()


def machine_tag() -> str:
    """Return four hexadecimal digits that stand for this machine in names of files."""
    return hashlib.sha256(machine_id().encode()).hexdigest()[:4]


def start_of(process: int) -> float:
    """Return when a process of this machine was started: in ticks since the kernel's start on Linux, in seconds elsewhere.

    Raises `ProcessLookupError` if there is none of this number.
    """
    stat = Path(f"/proc/{process}/stat")
    try:
        return float(stat.read_bytes().rpartition(b")")[2].split()[19])  # proc(5): field 22; the name in brackets may hold anything
    except FileNotFoundError as error:
        if Path("/proc/self/stat").exists():
            raise ProcessLookupError(f"there is no process {process}") from error
    except (OSError, ValueError, IndexError):
        pass
    try:
        return psutil.Process(process).create_time()
    except (psutil.Error, ValueError, OverflowError) as error:
        raise ProcessLookupError(f"there is no process {process}") from error


def describe_process() -> dict[str, str | int | float]:
    """Return what tells this process from all others: its machine, number and start."""
    return {"machine": machine_id(), "process": os.getpid(), "started": start_of(os.getpid())}


def is_running(description: dict[str, Any]) -> bool | None:
    """Return whether the process that `describe_process` described runs; None if it was of another machine, or cannot be told."""
    machine, process, started = (description.get(key) for key in ("machine", "process", "started"))
    if machine != machine_id() or not isinstance(process, int) or not isinstance(started, int | float):
        return None
    try:
        return abs(start_of(process) - started) < CLOCK_STEP
    except ProcessLookupError:
        return False
