"""The parts of a text as corpora."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from layerwise.data import cache_folders
from layerwise.data.cache_folders import GIB, INDEX
from layerwise.data.corpus import Corpus
from layerwise.data.corpus_build import Cutting, opened, whole
from layerwise.data.source import SPLITS
from layerwise.data.texts import Texts
from layerwise.errors import DamagedError, DataError
from layerwise.text_display import show_byte_progress

KIND = "corpora"


def read(found: Mapping[str, Texts], cutting: Cutting, *, cache: str, limit: int) -> dict[str, Corpus]:
    """Return a corpus for each part, built into ``cache`` (`cache_folders.place_of`) where it is not there.

    All corpora there take at most ``limit`` bytes. Phrases are those of the training part everywhere.
    """
    place = cache_folders.place_of(cache, KIND)
    parts: dict[str, Corpus] = {}
    for part in sorted(found, key=SPLITS.index):
        text, train = found[part], parts.get("train")
        with show_byte_progress(f"reading {text.origin}") as told:
            joined = train.phrases if train is not None and cutting.phrases else None
            parts[part] = opened(place, text, cutting, limit=limit, told=told, joined=joined)
    if not all(Path(corpus.folder, INDEX).is_file() for corpus in parts.values()):  # one made room for another
        raise DataError(
            f"there is no room for the tokens of all parts: {', '.join(parts)}",
            received=f"data.cache_gib = {limit / GIB:g}",
            do="raise data.cache_gib",
        )
    return parts


def built(folder: Path) -> Corpus:
    """Return the corpus in a folder that was made before. Raises `DamagedError` if it is not whole."""
    corpus = whole(folder)
    if corpus is None:
        raise DamagedError(
            f"{folder} holds a corpus that is not whole", expected="the files that were written", do="make it anew from its text"
        )
    return corpus
