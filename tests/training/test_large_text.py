"""A text of 4 GB is learned in little memory: it is never held, nor are its tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

WORDS, DIM = 30_000, 100
ALLOWED = 300e6  # bytes of anonymous memory beside the tables
SIZE = int(os.environ.get("LAYERWISE_SOAK_BYTES", 4_000_000_000))


def written(path: Path, size: int) -> None:
    """Write lines of twenty words, drawn by Zipf's law, until the file is as large."""
    draw = np.random.default_rng(0)
    share = 1 / np.arange(1, WORDS + 1)
    edges = np.cumsum(share / share.sum())
    names = np.array([f"word{n:x}" for n in range(WORDS)])
    with path.open("w", encoding="ascii") as file:
        while file.tell() < size:
            lines = names[np.searchsorted(edges, draw.random((100_000, 20)))]
            file.writelines(" ".join(line) + "\n" for line in lines)


def training(text: Path, out: str) -> list[str]:
    """Return the command that learns from a text, beside which its cache lies."""
    settings = [f"model.dim={DIM}", f"data.cache={text.parent / 'cache'}", "data.cache_gib=40", "train.memory_mib=64"]
    command = [
        sys.executable,
        "-m",
        "layerwise",
        "train",
        "skipgram",
        "--data",
        str(text),
        "--epochs",
        "1",
        "--out",
        out,
    ]
    return command + [part for setting in settings for part in ("--set", setting)]


@pytest.mark.soak
def test_four_gigabytes_train_in_little_memory(tmp_path: Path) -> None:
    """The command in a process of its own, whose anonymous memory is looked at ten times a second.

    A small text before it has the kernels compiled, once for an installation: LLVM's own memory, some 90 MB, is not
    what this is about.
    """
    small, text = tmp_path / "small.txt", tmp_path / "text.txt"
    written(small, 2_000_000)
    subprocess.run(training(small, "small"), cwd=tmp_path, check=True, capture_output=True)
    written(text, SIZE)
    peak, printed, began = 0, 0, time.monotonic()
    with subprocess.Popen(
        training(text, "run"), cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            anonymous = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
            peak = max(peak, *(1024 * n for n in anonymous), 0)
            if peak > printed + 4e6:  # which phase it is, if it is too much
                printed = peak
                print(f"{time.monotonic() - began:.0f} s: {peak / 1e6:.0f} MB", flush=True)
            time.sleep(0.1)
    assert process.returncode == 0
    words = json.loads((tmp_path / "run/task.json").read_text())["inputs"]["words"]
    tables = 2 * len(words) * DIM * 4
    print(
        f"{text.stat().st_size / 1e9:.2f} GB, {len(words)} words: {peak / 1e6:.0f} MB anonymous, "
        f"{tables / 1e6:.0f} MB of it tables"
    )
    assert peak < ALLOWED + tables
