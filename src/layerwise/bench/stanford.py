"""Stanford's GloVe in C, as the cases of co-occurrences measure it: four programs that a user builds from its source.

They are looked for in the folder that ``LAYERWISE_GLOVE`` names, and where the package glovpy builds them. The source:
github.com/stanfordnlp/GloVe; ``make`` leaves the programs in ``build``.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from layerwise.bench.base import Spec
from layerwise.runtime.atomic_io import open_own

PROGRAMS = ("vocab_count", "cooccur", "shuffle", "glove")
PLACE = "LAYERWISE_GLOVE"
RECORD = 16  # bytes: two int32 and a float64


def folder() -> Path | None:
    """Return the folder of the programs, None if they are nowhere."""
    named = os.environ.get(PLACE)
    places = [Path(named)] if named else [Path.home() / ".glopy" / "build"]
    return next((place for place in places if all((place / name).is_file() for name in PROGRAMS)), None)


def lacking() -> str:
    """Say what is missing to compare with the C program."""
    from layerwise.data.download import datasets

    if not datasets.present("kjv"):
        return "the text kjv is not here"
    return (
        ""
        if folder()
        else f"Stanford's GloVe is not here: build it and name the folder of {', '.join(PROGRAMS)} in {PLACE}"
    )


@dataclass(frozen=True)
class Programs:
    """The programs on one text, with their files in a folder."""

    text: Path
    work: Path
    spec: Spec

    def _run(self, name: str, *arguments: object, source: Path, sink: str) -> float:
        """Run a program from a file into a file; return the seconds it took."""
        place = folder()
        assert place is not None  # `lacking` said so
        with source.open("rb") as given, open_own(self.work / sink, root=self.work) as out:
            began = time.perf_counter()
            subprocess.run(
                [place / name, "-verbose", "0", *map(str, arguments)],
                stdin=given,
                stdout=out,
                stderr=subprocess.DEVNULL,
                cwd=self.work,
                check=True,
            )
            return time.perf_counter() - began

    def vocabulary(self) -> float:
        """Count the words."""
        return self._run("vocab_count", "-min-count", self.spec["min_count"], source=self.text, sink="vocab.txt")

    def count(self) -> float:
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
        """Train; return pairs a second from the end of the first iteration to that of the last, and the losses of the
        iterations.

        A loss is Σ f·diff² / pairs: twice what the program prints.
        """
        place = folder()
        assert place is not None
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
            str(place / "glove"),
            *(str(part) for name, value in options.items() for part in (f"-{name}", value)),
        ]
        times, losses = [], []
        with subprocess.Popen(
            command, cwd=self.work, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as running:
            assert running.stderr is not None
            for line in running.stderr:
                if found := re.search(r"iter: \d+, cost: ([-\d.naif]+)", line):
                    times.append(time.perf_counter())
                    losses.append(2 * float(found[1]))
        if running.returncode or len(losses) != spec["epochs"]:
            raise RuntimeError(f"glove ended with {running.returncode} after {len(losses)} iterations")
        return self.records * (len(losses) - 1) / (times[-1] - times[0]), losses
