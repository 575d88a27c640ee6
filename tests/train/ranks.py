"""What each rank runs under torchrun: several trainings, one after the other, and afterwards a look at every rank's weights.

Usage: torchrun --nproc-per-node 2 ranks.py CASES.json, with {"name": [arguments of layerwise], …}. Each rank writes
NAME.RANK.json: the command's exit code, and a digest of the weights that its own model held at the end of each stage. In a case
whose name ends in ``cut`` rank 1 gets a SIGINT after 21 steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from layerwise.cli import main
from layerwise.train.session import Session

ENDED: list[str] = []
CUT: list[str] = []


def digest(model: torch.nn.Module) -> str:
    """Return a digest of all parameters' bits."""
    made = hashlib.sha256()
    for name, tensor in model.named_parameters():
        made.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return made.hexdigest()


def interrupted(after: Any) -> Any:
    """Send this process a SIGINT after some steps, as a user's Ctrl-C would reach it."""

    def counted(self: Session, *args: Any, **more: Any) -> bool:
        if CUT and self.world.rank == 1 and self.steps == 20:
            signal.raise_signal(signal.SIGINT)
        return bool(after(self, *args, **more))

    return counted


def watched(stage: Any) -> Any:
    """Note this rank's own weights at the end of each stage, before the best ones are read from the disk."""

    def close(self: Session, number: int) -> None:
        ENDED.append(digest(self.model))
        stage(self, number)

    return close


if __name__ == "__main__":
    Session._close = watched(Session._close)  # type: ignore[method-assign]
    Session._after = interrupted(Session._after)  # type: ignore[method-assign]
    for name, arguments in json.loads(Path(sys.argv[1]).read_text()).items():
        ENDED.clear()
        CUT[:] = [name] if name.endswith("cut") else []
        code = main(arguments)
        rank = os.environ["RANK"]
        Path(f"{name}.{rank}.json").write_text(json.dumps({"code": code, "ended": ENDED}))
