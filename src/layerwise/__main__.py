"""``python -m layerwise`` and the ``layerwise`` command."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from layerwise.runtime.openmp import limit_spinning


def handle_interrupt(number: int, frame: FrameType | None) -> None:
    """Handle Ctrl-C: raise `KeyboardInterrupt`, for the command to clean up.

    Inside an import, end the process at once: libraries turn the exception into others there, and no file of the user's
    is open yet.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"layerwise: interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line and return its exit code."""
    signal.signal(signal.SIGINT, handle_interrupt)
    limit_spinning()  # before torch is imported, and for every process that the command starts
    from layerwise import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
