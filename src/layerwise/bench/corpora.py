"""Text for benchmarks: words with blanks between them, a sentence a line, so that every side cuts it the same way."""

from __future__ import annotations

import re
from pathlib import Path

from layerwise.runtime.atomic_io import write_file

WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")


def written(folder: Path, name: str, words: int) -> tuple[Path, int]:
    """Write a named English text, in small letters and without punctuation, again and again until it has about so many
    words.

    Returns the file and the words in it.
    """
    from layerwise.data.download import datasets

    lines = [
        WORD.findall(line.lower())
        for path in sorted(datasets.folder_of(name).iterdir())
        for line in path.open(encoding="utf-8")
    ]
    once = sum(map(len, lines))
    times = max(1, round(words / once))
    path = folder / f"{name}.txt"
    write_file(path, ("".join(" ".join(line) + "\n" for line in lines if line) * times).encode())
    return path, once * times


def lacking(package: str, name: str = "") -> str:
    """Say what is missing of a peer's package and a named text."""
    from importlib.util import find_spec

    from layerwise.data.download import datasets

    if name and not datasets.present(name):
        return f"the text {name} is not here"
    return "" if find_spec(package) else f"the package {package} is not installed"
