"""The parts of a text as corpora."""

from __future__ import annotations

from collections.abc import Mapping

from layerwise.data import cache_folders
from layerwise.data.corpus import Corpus
from layerwise.data.corpus_build import Cutting, opened, shown
from layerwise.data.reading import Tokens
from layerwise.data.texts import Texts

KIND = "corpora"


def read(found: Mapping[str, Texts], tokens: Tokens, *, lower: bool, cache: str, limit: int) -> dict[str, Corpus]:
    """Return a corpus for each part, built into ``cache`` (`cache_folders.place_of`) where it is not there.

    All corpora there take at most ``limit`` bytes.
    """
    place = cache_folders.place_of(cache, KIND)
    parts = {}
    for part, text in found.items():
        with shown(text.origin) as told:
            parts[part] = opened(place, text, Cutting(tokens, lower), limit=limit, told=told)
    return parts
