"""Stanford's GloVe in C, as the cases on co-occurrences run it: four programs that a user builds from its source.

`find_programs` looks in the folder that ``LAYERWISE_GLOVE`` names, and where the package glovpy builds them.
The source: github.com/stanfordnlp/GloVe; ``make`` leaves the programs in ``build``.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from layerwise.bench.base import Spec
from layerwise.runtime.in_place_io import open_in_place

PROGRAMS = ("vocab_count", "cooccur", "shuffle", "glove")
VARIABLE = "LAYERWISE_GLOVE"
RECORD = 16  # bytes: two int32 and a float64


def find_programs() -> Path | None:
    """Return the folder of the programs, None if there is none."""
    folder = os.environ.get(VARIABLE)
    folders = [Path(folder)] if folder else [Path.home() / ".glopy" / "build"]
    return next((path for path in folders if all((path / name).is_file() for name in PROGRAMS)), None)


def get_skip_reason() -> str:
    """Return what is missing for the comparison with the C program; empty: nothing."""
    from layerwise.data.download import datasets

    if not datasets.is_available("kjv"):
        return "the text kjv is not here"
    return (
        ""
        if find_programs()
        else f"Stanford's GloVe is not here: build it and name the folder of {', '.join(PROGRAMS)} in {VARIABLE}"
    )


@dataclass(frozen=True)
class Programs:
    """The programs on one text, with their files in a folder."""

    text: Path
    work: Path
    spec: Spec

    def _run(self, name: str, *arguments: object, source: Path, sink: str) -> float:
        """Run a program from a file into a file; return the seconds it took."""
        programs = find_programs()
        assert programs is not None  # by `get_skip_reason`
        with source.open("rb") as stdin, open_in_place(self.work / sink, root=self.work) as stdout:
            start = time.perf_counter()
            subprocess.run(
                [programs / name, "-verbose", "0", *map(str, arguments)],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                cwd=self.work,
                check=True,
            )
            return time.perf_counter() - start

    def count_words(self) -> float:
        """Count the words."""
        return self._run("vocab_count", "-min-count", self.spec["min_count"], source=self.text, sink="vocab.txt")

    def count_pairs(self) -> float:
        """Count the pairs."""
        return self._run(
            "cooccur",
            "-window-size",
            self.spec["window"],
            "-vocab-file",
            "vocab.txt",
            source=self.text,
            sink="pairs.bin",
        )

    def shuffle(self) -> float:
        """Bring the pairs into random order."""
        return self._run("shuffle", source=self.work / "pairs.bin", sink="shuffled.bin")

    @property
    def records(self) -> int:
        """How many pairs there are, both orders counted."""
        return (self.work / "pairs.bin").stat().st_size // RECORD

    def train(self) -> tuple[float, list[float]]:
        """Train; return pairs per second from the end of the first iteration to that of the last, and the losses of the
        iterations.

        A loss is Σ f·diff² / pairs: twice what the program prints.
        """
        programs = find_programs()
        assert programs is not None
        spec = self.spec
        options = {
            "input-file": "shuffled.bin",
            "vocab-file": "vocab.txt",
            "save-file": "vectors",
            "vector-size": spec["dim"],
            "binary": 1,
            "threads": spec["threads"],
            "iter": spec["epochs"],
            "eta": spec["lr"],
            "x-max": spec["x_max"],
            "alpha": spec["alpha"],
            "seed": spec["seed"] + 1,
        }
        command = [
            str(programs / "glove"),
            *(str(part) for name, value in options.items() for part in (f"-{name}", value)),
        ]
        times, losses = [], []
        with subprocess.Popen(
            command, cwd=self.work, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if match := re.search(r"iter: \d+, cost: ([-\d.naif]+)", line):
                    times.append(time.perf_counter())
                    losses.append(2 * float(match[1]))
        if process.returncode or len(losses) != spec["epochs"]:
            raise RuntimeError(f"glove ended with {process.returncode} after {len(losses)} iterations")
        return self.records * (len(losses) - 1) / (times[-1] - times[0]), losses
