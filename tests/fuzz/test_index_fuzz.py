"""Indexes whose files were spoiled by structure and sealed again: search answers, or one error says what is wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz, run_seed, soak_seconds
from spoiling import digest_of_folder, seal_file, spoil_file

from layerwise.embeddings.embedders import WordEmbedder
from layerwise.embeddings.index import Index, build
from layerwise.embeddings.index_records import ABOUT, FILES
from layerwise.embeddings.passages import Passages
from layerwise.errors import DamagedError, LayerwiseError
from layerwise.runtime.checksums import digest_of
from layerwise.weights.vectors import VectorTable

WORDS = "the of and ark king wine silver bread water son daughter house".split()
TARGETS = (ABOUT, *FILES)


def begin(place: Path) -> Path:
    """Build the small index that is spoiled."""
    place.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    text = place / "texts.txt"
    text.write_text("\n\n".join(" ".join(draw.choice(WORDS, size=5)) for _ in range(30)) + "\n", encoding="utf-8")
    counts = np.arange(len(WORDS), 0, -1) ** 2
    table = VectorTable(list(WORDS), draw.normal(size=(len(WORDS), 8)).astype(np.float32), counts)
    build(Passages(str(text)), WordEmbedder(table), place / "index")
    return place / "index"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begin(tmp_path_factory.mktemp("index"))


def seal_index(folder: Path) -> None:
    """Seal an index again: index.json vouches for what its files hold now."""
    seal_file(folder / ABOUT, files={name: digest_of(folder / name) for name in FILES})


def search(folder: Path) -> None:
    """Open an index, and ask it everything that it answers."""
    found = Index.open(folder)
    hits = found.search(["the king", "wine and bread"], k=5)
    named = [hit.id for mine in hits if isinstance(mine, list) for hit in mine]
    assert all(len(found.text(found.place(name))) >= 0 for name in named)
    if named:
        found.ranks(["the king"], [named[:1]])


def case(draw: random.Random, index: Path, targets: tuple[str, ...] = TARGETS) -> None:
    """Spoil one file of an index, seal it, and search in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(index, Path(name) / "index"))
        spoil_file(folder / draw.choice(targets), draw)
        if draw.random() < 0.9:
            seal_index(folder)
        before = digest_of_folder(Path(name), without="")
        with contextlib.suppress(LayerwiseError):
            search(folder)
        assert digest_of_folder(Path(name), without="") == before


@pytest.mark.parametrize("target", TARGETS)
def test_a_spoiled_index_is_searched_or_refused(target: str, index: Path) -> None:
    for seed in range(20):
        run_seed(seed, lambda draw: case(draw, index, (target,)))
    fuzz(1, lambda draw: case(draw, index, (target,)))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak_of_indexes(index: Path) -> None:
    assert fuzz(soak_seconds(), lambda draw: case(draw, index))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("passages", 2**50, r"index\.json is damaged: .*\$\.passages"),
        ("passages", 10**12, r"vectors\.safetensors is damaged: .*index\.json says F32 1,000,000,000,000×8"),
        (
            "passages",
            31,
            r"vectors\.safetensors is damaged: the tensor 'vectors' is F32 \[30, 8\], and index\.json says F32 31×8",
        ),
        ("dimensions", "x", r"index\.json is damaged: .*\$\.dimensions"),
        (
            "embedder",
            {"kind": "words", "origin": "", "words": 12, "a": 0},
            r"index\.json is damaged: .*\$\.embedder\.a",
        ),
    ],
)
def test_an_index_that_says_otherwise_than_its_files_is_refused_by_field(
    field: str, value: object, said: str, index: Path
) -> None:
    folder = Path(shutil.copytree(index, Path("spoiled")))
    seal_file(folder / ABOUT, **{field: value})
    with pytest.raises(DamagedError, match=f"(?s){said}.*build the index again"):
        Index.open(folder)
