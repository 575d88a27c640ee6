"""Caches whose files were spoiled and sealed again: they are built anew, or one error says what is wrong; never read as
they are."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz, get_soak_seconds, mutate, run_seed
from spoiling import compute_folder_digest, seal_file, spoil_value

from layerwise.data.cache_folders import INDEX, load_array
from layerwise.data.images import folders, image_cache
from layerwise.data.images.folders import ImageSource
from layerwise.data.source import set_image_size
from layerwise.data.text import cooccurrence_build, corpus_build
from layerwise.data.text.corpus import SMALL, TOKENS, WORDS, count_words
from layerwise.data.text.corpus_build import TokenizerOptions
from layerwise.data.text.text_files import TextFiles
from layerwise.errors import LayerwiseError
from layerwise.runtime.checksums import digest_file
from layerwise.runtime.owned_folders import MARKER
from small_runs import write_digit_folders

LIMIT = 1 << 40
CUTTING = TokenizerOptions(phrases=1, threshold=1.0, discount=0.0)
KINDS = ("text", "co-occurrences", "images")
HOSTILE = (2**31, -1, 2**62, float("nan"), 1e30)


def write_text(folder: Path) -> TextFiles:
    """Return the text that is cut."""
    path = folder / "text.txt"
    if not path.exists():
        path.write_text(
            "\n".join(" ".join(f"w{n * k % 17}" for n in range(12)) for k in range(1, 300)) + "\n", encoding="utf-8"
        )
    return TextFiles("text", (str(path),))


def write_images(folder: Path) -> ImageSource:
    """Return the images that are decoded."""
    folder = folder / "digits"
    if not folder.exists():
        folder.mkdir()
        write_digit_folders(folder, 20, classes=2)
    source = set_image_size(folders.open_folder(folder)[0]["train"], (8, 8))
    assert isinstance(source, ImageSource)
    return source


def read_cache(kind: str, folder: Path) -> None:
    """Open a cache of a kind, built if it must be, and read everything in it."""
    if kind == "images":
        files = write_images(folder)
        folder = image_cache.open_cache(folder / kind, files, limit=LIMIT, progress=lambda *_: None)
        assert isinstance(folder, Path)
        image_cache.use_cache(files, folder)[3]
        return
    corpus = corpus_build.open_corpus(folder / "text", write_text(folder), CUTTING, limit=LIMIT)
    if kind == "text":
        assert len(list(corpus.words)) == len(corpus.words)
        assert count_words(corpus).min() >= 0
        corpus.fetch(np.arange(len(corpus)))
        assert isinstance(corpus.phrases, list)
        return
    counts = cooccurrence_build.open_cooccurrences(
        folder / kind, corpus, len(corpus.words), origin="text", limit=LIMIT, block=64
    )
    counts.fetch(np.arange(len(counts)))


def build_caches(folder: Path) -> Path:
    """Build a cache of each kind."""
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        read_cache(kind, folder)
    return folder


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_caches(tmp_path_factory.mktemp("caches"))


def find_cache_folder(folder: Path, kind: str) -> Path:
    """Return the one folder that holds a cache of a kind."""
    return next(folder for folder in (folder / kind).iterdir() if (folder / INDEX).exists())


def spoil_cache(folder: Path, draw: random.Random) -> None:
    """Spoil a file of a cache, and seal its index again."""
    path = draw.choice(sorted(p for p in folder.iterdir() if p.name != MARKER))
    content = json.loads((folder / INDEX).read_bytes())
    if path.name == INDEX:
        content = {**content, "content": spoil_value(content["content"], draw)}
    elif draw.random() < 0.15:
        path.unlink()
        if draw.random() < 0.5:
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
    elif path.suffix == ".bin" and path.name not in (WORDS,):
        numbers = np.fromfile(path, dtype=np.int32 if path.name == TOKENS else np.float32)
        with np.errstate(all="ignore"):
            numbers[draw.randrange(len(numbers))] = np.float64(draw.choice(HOSTILE)).astype(numbers.dtype)
        path.write_bytes(numbers.tobytes())
    else:
        path.write_bytes(mutate(path.read_bytes(), draw))
    plain = [name for name in content["digests"] if (folder / name).is_file() and not (folder / name).is_symlink()]
    seal_file(folder / INDEX, content=content["content"], digests={name: digest_file(folder / name) for name in plain})
    seal_blocks(folder)


def seal_blocks(folder: Path) -> None:
    """Write the checksums of blocks anew where that can be done, so that numbers are what is looked at."""
    content = json.loads((folder / INDEX).read_bytes())
    index, sums = content["content"], folder / "sums.npy"
    large, size = (
        (TOKENS, index.get("block", 0)) if (folder / TOKENS).is_file() else ("records.bin", index.get("block", 0))
    )
    plain = all(path.is_file() and not path.is_symlink() for path in (folder / large, sums))
    if not plain or not isinstance(size, int) or not 0 < size < 1 << 20:
        return
    step = size * (4 if large == TOKENS else 12)
    data = (folder / large).read_bytes()
    if len(data) % step or not sums.is_file():
        return
    np.save(sums, np.array([zlib.crc32(data[at : at + step]) for at in range(0, len(data), step)], dtype=np.uint32))
    seal_file(folder / INDEX, digests={**content["digests"], "sums.npy": digest_file(sums)})


def case(draw: random.Random, caches: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """Spoil one cache and read it, twice: what was built anew is whole."""
    kind = draw.choice(kinds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "place"
        shutil.copytree(caches, folder, copy_function=shutil.copy2)
        for entry in ("text.txt", "digits"):  # caches know them by path and time
            shutil.rmtree(folder / entry, ignore_errors=True)
            (folder / entry).unlink(missing_ok=True)
            (folder / entry).symlink_to(caches / entry)
        outside = compute_folder_digest(folder, without=kind)
        spoil_cache(find_cache_folder(folder, kind), draw)
        for _ in range(2):
            with contextlib.suppress(LayerwiseError):
                read_cache(kind, folder)
        assert compute_folder_digest(folder, without=kind) == outside


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoiled_cache_is_read_refused_or_built_anew(kind: str, caches: Path) -> None:
    for seed in range(10):
        run_seed(seed, lambda draw: case(draw, caches, (kind,)))
    fuzz(1, lambda draw: case(draw, caches, (kind,)))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak_of_caches(caches: Path) -> None:
    assert fuzz(get_soak_seconds(), lambda draw: case(draw, caches))


@pytest.mark.parametrize(
    "header", [b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", b"(" * 9000, b"{'shape': (10**15,)}"]
)
def test_the_header_of_an_array_is_compared_and_never_parsed(header: bytes) -> None:
    path = Path("a.npy")
    np.save(path, np.arange(3, dtype=np.uint32))
    np.testing.assert_array_equal(load_array(path, np.uint32, (3,)), [0, 1, 2])
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12))
    with pytest.raises(ValueError, match=r"another length|does not hold uint32 \(3,\)"):
        load_array(path, np.uint32, (3,))


@pytest.mark.parametrize(("old", "new"), [(b"(3,)", b"(9,)"), (b"<u4", b"<i4"), (b"False", b"True ")])
def test_a_header_of_the_right_length_is_compared_too(old: bytes, new: bytes) -> None:
    path = Path("a.npy")
    np.save(path, np.arange(3, dtype=np.uint32))
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"does not hold uint32 \(3,\)"):
        load_array(path, np.uint32, (3,))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", sorted((TOKENS, *SMALL)))
def test_a_pipe_or_link_in_a_kept_text_is_never_opened(name: str, kind: str, caches: Path) -> None:
    folder = Path(shutil.copytree(caches, Path("place"), copy_function=shutil.copy2))
    (folder / "text.txt").unlink()
    (folder / "text.txt").symlink_to(caches / "text.txt")
    folder = find_cache_folder(folder, "text")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    digests = json.loads((folder / INDEX).read_bytes())["digests"]
    seal_file(folder / INDEX, digests={one: digest for one, digest in digests.items() if one != name})
    read_cache("text", folder)
    assert (find_cache_folder(folder, "text") / name).is_file()


def test_a_pipe_in_the_place_of_an_array_is_no_array() -> None:
    os.mkfifo("a.npy")
    with pytest.raises(ValueError, match="another length"):
        load_array(Path("a.npy"), np.uint32, (3,))
