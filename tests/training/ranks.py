"""What each of two ranks runs: several trainings, one after the other, and afterwards a look at every rank's weights.

Each rank writes NAME.RANK.json: the command's exit code, and a digest of the weights that its own model held at the end
of each stage. In a case whose name ends in ``cut`` rank 1 gets a SIGINT after 21 steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from layerwise.cli import main
from layerwise.training.checkpointing import Checkpointer
from layerwise.training.session import Session
from processes import patch_report

ENDED: list[str] = []
CUT: list[str] = []


def digest(model: torch.nn.Module) -> str:
    """Return a digest of all parameters' bits."""
    hasher = hashlib.sha256()
    for name, tensor in model.named_parameters():
        hasher.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def interrupted(after: Any) -> Any:
    """Send this process a SIGINT after some steps, as a user's Ctrl-C would reach it."""

    def counted(self: Session, *args: Any, **more: Any) -> bool:
        if CUT and self.world.rank == 1 and self.state.steps == 20:
            signal.raise_signal(signal.SIGINT)
        return bool(after(self, *args, **more))

    return counted


def watched(load: Any) -> Any:
    """Note this rank's own weights at the end of each stage, before the best ones are read from the disk."""

    def load_best(self: Checkpointer, number: int) -> None:
        ENDED.append(digest(self.model))
        load(self, number)

    return load_best


def run(cases: dict[str, list[str]], folder: Path, rank: int, port: int) -> None:
    """Be one of two ranks: run each case, and write what came of it to NAME.RANK.json in the folder."""
    os.chdir(folder)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.dup2(os.open(f"stderr.{rank}", os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    Checkpointer.load_best = watched(Checkpointer.load_best)  # type: ignore[method-assign]
    Session._on_step_end = interrupted(Session._on_step_end)  # type: ignore[method-assign]
    for number, (name, arguments) in enumerate(cases.items()):
        ENDED.clear()
        CUT[:] = [name] if name.endswith("cut") else []
        with patch_report(number == 0):
            code = main(arguments)
        Path(f"{name}.{rank}.json").write_text(json.dumps({"code": code, "ended": ENDED}))
