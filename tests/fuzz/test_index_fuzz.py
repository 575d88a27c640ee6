"""Indexes whose files were spoiled by structure and sealed again: search answers, or one error says what is wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz, get_soak_seconds, run_seed
from spoiling import compute_folder_digest, seal_file, spoil_file

from layerwise.embeddings.embedders import WordEmbedder
from layerwise.embeddings.index import Index, build_index
from layerwise.embeddings.index_records import FILES, INDEX_FILE
from layerwise.embeddings.passages import Passages
from layerwise.errors import DamagedError, LayerwiseError
from layerwise.runtime.checksums import digest_file
from layerwise.weights.vectors import VectorTable

WORDS = "the of and ark king wine silver bread water son daughter house".split()
TARGETS = (INDEX_FILE, *FILES)


def build_small_index(root: Path) -> Path:
    """Build the small index that is spoiled."""
    root.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    text = root / "texts.txt"
    text.write_text("\n\n".join(" ".join(draw.choice(WORDS, size=5)) for _ in range(30)) + "\n", encoding="utf-8")
    counts = np.arange(len(WORDS), 0, -1) ** 2
    table = VectorTable(list(WORDS), draw.normal(size=(len(WORDS), 8)).astype(np.float32), counts)
    build_index(Passages(str(text)), WordEmbedder(table), root / "index")
    return root / "index"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small_index(tmp_path_factory.mktemp("index"))


def seal_index(folder: Path) -> None:
    """Seal an index again: index.json vouches for what its files hold now."""
    seal_file(folder / INDEX_FILE, files={name: digest_file(folder / name) for name in FILES})


def search(folder: Path) -> None:
    """Open an index, and ask it everything that it answers."""
    index = Index.open(folder)
    hits = index.search(["the king", "wine and bread"], k=5)
    names = [hit.id for row in hits if isinstance(row, list) for hit in row]
    assert all(len(index.text(index.position(name))) >= 0 for name in names)
    if names:
        index.ranks(["the king"], [names[:1]])


def case(draw: random.Random, index: Path, targets: tuple[str, ...] = TARGETS) -> None:
    """Spoil one file of an index, seal it, and search in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(index, Path(name) / "index"))
        spoil_file(folder / draw.choice(targets), draw)
        if draw.random() < 0.9:
            seal_index(folder)
        before = compute_folder_digest(Path(name), without="")
        with contextlib.suppress(LayerwiseError):
            search(folder)
        assert compute_folder_digest(Path(name), without="") == before


@pytest.mark.parametrize("target", TARGETS)
def test_a_spoiled_index_is_searched_or_refused(target: str, index: Path) -> None:
    for seed in range(20):
        run_seed(seed, lambda draw: case(draw, index, (target,)))
    fuzz(1, lambda draw: case(draw, index, (target,)))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak_of_indexes(index: Path) -> None:
    assert fuzz(get_soak_seconds(), lambda draw: case(draw, index))


@pytest.mark.parametrize(
    ("field", "value", "message"),
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
    field: str, value: object, message: str, index: Path
) -> None:
    folder = Path(shutil.copytree(index, Path("spoiled")))
    seal_file(folder / INDEX_FILE, **{field: value})
    with pytest.raises(DamagedError, match=f"(?s){message}.*build the index again"):
        Index.open(folder)
