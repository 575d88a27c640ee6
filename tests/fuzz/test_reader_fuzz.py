"""Every reader of strangers' files on spoiled files: it reads them or refuses them with an error for users, and writes
nothing.

Short under hypothesis; ``-m soak`` with LAYERWISE_FUZZ_SECONDS runs each by the clock.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from fuzzing import Case, fuzz, get_soak_seconds, mutate, run_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from layerwise import recipe
from layerwise.data.images import archives, decoding, idx
from layerwise.data.tables import table_files
from layerwise.data.tables.table_options import TableOptions
from layerwise.data.text import text_files
from layerwise.errors import LayerwiseError
from layerwise.runtime.bounded_decoding import decode_json, decode_toml
from layerwise.weights.vector_files import read_vectors, write_vectors
from layerwise.weights.vectors import VectorTable
from layerwise.weights.weight_files import read_weights

EXAMPLES = 40
Make = Callable[[random.Random], bytes]


def get_bytes(write: Callable[[Any], object]) -> bytes:
    """Return what is written to a file."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def make_image(kind: str) -> bytes:
    pixels = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    return get_bytes(lambda f: Image.fromarray(pixels).save(f, kind))


def make_tar(names: tuple[str, ...] = ("cat/1.png", "dog/2.png")) -> bytes:
    def write(file: Any) -> None:
        with tarfile.open(fileobj=file, mode="w") as out:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(IMAGES["PNG"])
                out.addfile(info, io.BytesIO(IMAGES["PNG"]))

    return get_bytes(write)


def make_zip(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", method) as out:
            for name, data in entries.items():
                out.writestr(name, data)

    return get_bytes(write)


def make_vectors(kind: Any) -> bytes:
    table = VectorTable(["the", "of", "naïve"], np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))
    with tempfile.TemporaryDirectory() as folder:
        return write_vectors(table, Path(folder, "v"), kind=kind).read_bytes()


IMAGES = {kind: make_image(kind) for kind in decoding.FORMATS}
STATE = {"a.weight": np.ones((3, 4), dtype=np.float32), "a.bias": np.zeros(3, dtype=np.float32)}
TENSORS = {name: torch.from_numpy(array) for name, array in STATE.items()}
SAFETENSORS = safetensors.numpy.save(STATE, metadata={"format": "1"})
TORCH = get_bytes(lambda f: torch.save({"state_dict": TENSORS, "epoch": 3}, f))
LEGACY = get_bytes(lambda f: torch.save({"state_dict": TENSORS, "epoch": 3}, f, _use_new_zipfile_serialization=False))
CSV = b"x,y,kind\n" + b"".join(b"%d,%d.5,%s\n" % (n, n % 3, (b"a", b"b")[n % 2]) for n in range(20))
JSON_LINES = b"".join(json.dumps({"x": n, "y": {"z": [n]}, "k": "ab"[n % 2]}).encode() + b"\n" for n in range(20))
PARQUET = get_bytes(lambda f: pq.write_table(pa.table({"x": range(20), "k": ["a", "b"] * 10}), f))
TOML = b'format = 1\n[model]\nname = "mlp"\nhidden = [16]\n'
TOML += b'[data]\nsource = "x.csv"\n[[stages]]\nepochs = 3\nrule = {name = "backprop", lr = 0.1}\n'
IDX = bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(range(9))


def spoil_plain(data: bytes) -> Make:
    """Return what spoils data as they lie."""
    return lambda draw: mutate(data, draw)


def spoil_gzipped(data: bytes) -> Make:
    """Return what spoils data before they are packed, or after."""
    return lambda draw: gzip.compress(mutate(data, draw)) if draw.random() < 0.7 else mutate(gzip.compress(data), draw)


def spoil_safetensors_header(draw: random.Random) -> bytes:
    """Spoil the header, and say its right length."""
    length = int.from_bytes(SAFETENSORS[:8], "little")
    header = mutate(SAFETENSORS[8 : 8 + length], draw)
    return len(header).to_bytes(8, "little") + header + SAFETENSORS[8 + length :]


def spoil_torch_pickle(draw: random.Random) -> bytes:
    """Spoil one entry of torch's archive, and pack it again with right checksums."""
    with zipfile.ZipFile(io.BytesIO(TORCH)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(entries))
    return make_zip({**entries, name: mutate(entries[name], draw)}, zipfile.ZIP_STORED)


def spoil_zip(draw: random.Random) -> bytes:
    """Spoil a member, a name, or the archive."""
    entries = {"cat/1.png": IMAGES["PNG"], "dog/2.png": mutate(IMAGES["PNG"], draw)}
    if draw.random() < 0.3:
        entries[mutate(b"dog/3.png", draw).decode("utf-8", "replace").replace("\0", "") or "x"] = b"x"
    data = make_zip(entries)
    return data if draw.random() < 0.3 else mutate(data, draw)


def read_table(path: Path) -> object:
    return [list(table_files.iterate_rows(path)), table_files.load_table(path, TableOptions())]


def read_archive(path: Path) -> object:
    return archives.open_archive(path)


READERS: dict[str, tuple[str, Make, Callable[[Path], object]]] = {
    "safetensors": ("w.safetensors", spoil_plain(SAFETENSORS), read_weights),
    "safetensors header": ("w.safetensors", spoil_safetensors_header, read_weights),
    "torch": ("w.pt", spoil_plain(TORCH), read_weights),
    "torch pickle": ("w.pt", spoil_torch_pickle, read_weights),
    "torch legacy": ("w.pt", spoil_plain(LEGACY), read_weights),
    **{
        f"vectors {kind}": ("v", spoil_plain(make_vectors(kind)), read_vectors)
        for kind in ("word2vec", "word2vec-binary", "glove", "safetensors")
    },
    "csv": ("t.csv", spoil_plain(CSV), read_table),
    "json lines": ("t.jsonl", spoil_plain(JSON_LINES), read_table),
    "parquet": ("t.parquet", spoil_plain(PARQUET), read_table),
    "tar": ("a.tar", spoil_plain(make_tar()), read_archive),
    "tar.gz": ("a.tar.gz", spoil_gzipped(make_tar()), read_archive),
    "zip": ("a.zip", spoil_zip, read_archive),
    "idx": ("i", spoil_plain(IDX), lambda p: idx.read_array(p, 1)),
    "idx.gz": ("i.gz", spoil_gzipped(IDX), lambda p: idx.read_array(p, 1)),
    "text": (
        "t.txt",
        spoil_plain(b"some words\n" * 20),
        lambda p: [text_files.is_text(p), text_files.is_table(p), list(text_files.read_pieces(str(p)))],
    ),
    "text.gz": (
        "t.gz",
        spoil_gzipped(b"some words\n" * 20),
        lambda p: [text_files.is_text(p), list(text_files.read_pieces(str(p)))],
    ),
    "recipe": ("r.toml", spoil_plain(TOML), recipe.read_toml),
    "toml": ("x.toml", spoil_plain(TOML), lambda p: decode_toml(p.read_bytes(), what="x")),
    "json": ("x.json", spoil_plain(JSON_LINES.splitlines()[1]), lambda p: decode_json(p.read_bytes(), what="x")),
    **{
        f"image {kind}": (
            "p",
            spoil_plain(data),
            lambda p: [decoding.decode(p, 3), decoding.inspect_image(p), decoding.read_shape(p)],
        )
        for kind, data in IMAGES.items()
    },
}


def make_case(reader: str) -> Case:
    """Return the case of a reader."""
    name, make, use = READERS[reader]

    def case(draw: random.Random) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file_path = Path(folder, "in", name)
            file_path.parent.mkdir()
            file_path.write_bytes(make(draw))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(LayerwiseError):
                    use(file_path)
            assert [str(path.relative_to(folder)) for path in sorted(Path(folder).rglob("*"))] == ["in", f"in/{name}"]

    return case


@pytest.mark.parametrize("reader", READERS)
def test_spoiled_files_are_read_or_refused(reader: str) -> None:
    case = make_case(reader)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.integers(0, 2**48 - 1))
    def short(seed: int) -> None:
        run_seed(seed, case)

    short()
    fuzz(0.05, case)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("reader", READERS)
def test_spoiled_files_by_the_clock(reader: str) -> None:
    print(f"{reader}: {fuzz(get_soak_seconds() / len(READERS), make_case(reader)):,} spoiled files")


@pytest.mark.parametrize("reader", READERS)
def test_the_file_that_is_spoiled_was_good(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fuzz of files that are refused for another reason would see nothing."""
    name, make, use = READERS[reader]
    monkeypatch.setattr("test_reader_fuzz.mutate", lambda data, draw, other=b"": data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(make(random.Random(0)))
        use(path)
