"""``python -m layerwise`` and the ``layerwise`` command."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from layerwise.runtime.waiting import wait_briefly


def interrupted(number: int, frame: FrameType | None) -> None:
    """Answer Ctrl-C. Inside an import the process ends at once, as libraries turn the exception into others there and
    nothing of the user's is open; elsewhere it is raised, for the command to clean up."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"layerwise: interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line and return its exit code."""
    signal.signal(signal.SIGINT, interrupted)
    wait_briefly()  # before torch is imported, and for every process that the command starts
    from layerwise.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
