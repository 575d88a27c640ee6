"""What a file claims of sizes and depth is checked before memory is taken for it, or a parser is let at it."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from layerwise import recipe
from layerwise.cli import main
from layerwise.data.images import archives, decoding
from layerwise.data.tables import table_files
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DamagedError, DataError, LayerwiseError, UsageError
from layerwise.weights import weight_files
from layerwise.weights.vector_files import read_vectors

DEEP = 100_000
MEMORY = 64 << 20  # bytes that a refusal may take


class Traced:
    """Fails if more memory is taken inside than a refusal may take (NumPy's and Python's)."""

    def __enter__(self) -> None:
        tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, f"{peak:,}"


@pytest.mark.parametrize(
    "line",
    [
        b'{"x":' + b"[" * DEEP + b"]" * DEEP + b',"y":1}',
        b'{"x":' * DEEP + b"1" + b"}" * DEEP,
        b'{"x":' + b"[" * DEEP,
        b'{"x":1}' + b"[" * DEEP,
        b'{"x":"\\""}{"x":' + b"[" * 65,
    ],
    ids=["lists", "objects", "open", "after an object", "after a quote"],
)
@pytest.mark.parametrize("before", [0, 3])
def test_deep_json_lines_are_refused_by_line(line: bytes, before: int, tmp_path: Path) -> None:
    """pyarrow's parser ends the process on them."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"x":1,"y":2}\n' * before + line + b"\n")
    for read in (lambda: list(table_files.iterate_rows(path)), lambda: table_files.load_table(path, TableOptions())):
        with pytest.raises(DataError, match=rf"t\.jsonl line {before + 1} is nested too deep, and was not decoded"):
            read()


def test_brackets_in_texts_and_many_lines_are_not_deep(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"x":"' + b"[{" * 200 + b'","y":[1]}\n' + b'{"x":"a","y":[2]}\n' * 100_000)
    assert sum(len(rows) for rows in table_files.iterate_rows(path)) == 100_001


@pytest.mark.parametrize("text", ["[" * DEEP, "[" * DEEP + "]" * DEEP, "{a=" * DEEP, ".".join("a" * 500)])
def test_deep_toml_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text(f"a = {text}" if text[0] in "[{" else f"{text} = 1")
    with pytest.raises(DamagedError, match=r"r\.toml is nested too deep"):
        recipe.read_toml(tmp_path / "r.toml")
    assert main(["train", str(tmp_path / "r.toml")]) == 2
    setting = f"data.target={text}" if text[0] in "[{" else f"task.{text}=1"
    with pytest.raises(UsageError, match=r"nested too deep|too deep a key"):
        recipe.assign({}, setting)
    assert main(["train", "mlp", "--data", "iris", "--set", setting]) == 2
    assert capsys.readouterr().err.count(" too deep") == 2


def test_values_that_are_no_toml_are_text_as_ever() -> None:
    table: dict[str, object] = {}
    for text in ("a b", "[", "it's", "2020-99-99", "\udcff", "1" * 5000):
        recipe.assign(table, f"data.target={text}")
        assert table["data"] == {"target": text}


@pytest.mark.parametrize(
    "first", [b"999999999999 300\n", b"2 999999999\n", b"1000000 1000000\n", b"999999999999 999999999\n"]
)
@pytest.mark.parametrize("ending", ["bin", "vec"])
def test_vectors_that_claim_more_than_the_file_holds(first: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{ending}"
    path.write_bytes(first + (b"a 0.5 1.5\n" if ending == "vec" else b"a " + struct.pack("<2f", 0.5, 1.5)))
    with Traced(), pytest.raises(DamagedError, match="it is cut off"):
        read_vectors(path)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerwise.weights.vector_files.MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "v.txt"
    path.write_bytes(b"word" + b" 0.5" * (1 << 22))
    with Traced(), pytest.raises(DamagedError, match="a line has no end"):
        read_vectors(path)


@pytest.mark.parametrize("size", [2**63 - 1, 2**40, 100_000_001, 10_000])
def test_a_safetensors_header_longer_than_its_file(size: int, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}" + b" " * 100)
    with Traced(), pytest.raises(DamagedError):
        weight_files.read_weights(tmp_path / "w.safetensors")
    with Traced(), pytest.raises(LayerwiseError):
        read_vectors(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        '{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,8]}}',
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4000000000]}}',
        '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
        '{"a":' * DEEP,
        '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}',
    ],
)
def test_safetensors_that_claim_more_than_the_file_holds(header: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with Traced(), pytest.raises(DamagedError):
        weight_files.read_weights(tmp_path / "w.safetensors")


def test_torch_storages_smaller_than_they_claim(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "w.pt")
    claim = b"J" + struct.pack("<i", 2**31 - 1)
    with zipfile.ZipFile(tmp_path / "w.pt") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    for which in ("both", "shape"):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
            for name, data in entries.items():
                at = data.rindex(b"K\x04") if name.endswith("data.pkl") else 0
                spoiled = data.replace(b"K\x04", claim) if which == "both" else data[:at] + claim + data[at + 2 :]
                new.writestr(name, spoiled if name.endswith("data.pkl") else data)
        with Traced(), pytest.raises(DamagedError):
            weight_files.read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_tar_member_that_claims_more_than_the_archive_holds(ending: str, tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/1.png")
    info.size = 3 << 30
    data = info.tobuf() + bytes(2048)
    import gzip

    (tmp_path / f"a.{ending}").write_bytes(gzip.compress(data) if ending == "tar.gz" else data)
    with (
        Traced(),
        pytest.raises(DataError, match=r"'cat/1.png' claims 3,221,225,472 bytes, more than the archive can hold"),
    ):
        archives.load_archive(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_blocks_unpack_without_bound(method: int, tmp_path: Path) -> None:
    """Python's zipfile unpacks a block of bzip2 or LZMA whole, whatever the member says of its size."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as out:
        out.writestr("cat/1.png", bytes(200 << 20))
    with Traced(), pytest.raises(DataError, match="received: a packing other than deflate"):
        archives.load_archive(tmp_path / "a.zip")
    assert len(bz2.compress(bytes(1 << 20))) < 200
    assert len(lzma.compress(bytes(1 << 20))) < 400


def make_png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (8001, 8000)])
def test_a_image_that_claims_too_much(width: int, height: int) -> None:
    for read in (decoding.inspect_image, decoding.read_shape, lambda data: decoding.decode(data, 3)):
        with Traced(), pytest.raises(DataError, match="is too large to decode"):
            read(make_png(width, height))


def test_a_parquet_file_of_one_value_a_thousand_million_times(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 20, dtype=np.int8)), pa.array(["a"]))
    table = pa.table({f"c{n}": column for n in range(4)})
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        for _ in range(40):
            writer.write_table(table)
    with Traced(), pytest.raises(DataError, match="unpacks to too much to be read in memory"):
        table_files.load_table(tmp_path / "t.parquet", TableOptions())
    pq.write_table(pa.table({"x": np.zeros(1 << 20)}), tmp_path / "good.parquet")
    assert len(table_files.load_table(tmp_path / "good.parquet", TableOptions())[0]) == 1 << 20


def test_reading_a_good_tar_is_not_disturbed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        info = tarfile.TarInfo("cat/1.png")
        info.size = 5000
        out.addfile(info, io.BytesIO(bytes(5000)))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert archives.load_archive(tmp_path / "a.tar").files == {"cat/1.png": bytes(5000)}


@pytest.mark.parametrize("line", [b'{"x":"\xff","y":1}', b'{"x":"a","y":1}\xc3'])
@pytest.mark.parametrize("before", [0, 50_000])
def test_json_lines_that_are_not_utf_8_are_refused_by_line(line: bytes, before: int, tmp_path: Path) -> None:
    """pyarrow takes them, and stumbles over them when their cells are looked at."""
    (tmp_path / "t.jsonl").write_bytes(b'{"x":"a","y":1}\n' * before + line)
    with pytest.raises(DataError, match=rf"t\.jsonl line {before + 1} is not UTF-8"):
        list(table_files.iterate_rows(tmp_path / "t.jsonl"))


def test_a_table_whose_only_cells_are_blank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'""\n" "\n')
    with pytest.raises(DataError, match="has no cell that is not blank"):
        list(table_files.iterate_rows(tmp_path / "t.csv"))


def test_a_torch_file_over_several_disks_is_refused(tmp_path: Path) -> None:
    """The end record of a ZIP64 archive that says so: `zipfile.is_zipfile` itself raises on it."""
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 2)
    (tmp_path / "w.pt").write_bytes(locator + b"PK\x05\x06" + bytes(18))
    with pytest.raises(DamagedError, match=r"w\.pt"):
        weight_files.read_weights(tmp_path / "w.pt")
