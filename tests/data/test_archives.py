"""Archives of class folders: read in memory, unsafe members, bombs and damage refused (F02, F30)."""

import gzip
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from layerwise.data.images import archives, folders
from layerwise.data.load import Options, load_splits
from layerwise.errors import DataError


def make_png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (4, 4), shade).save(out, "PNG")
    return out.getvalue()


FILES = {f"pets/{label}/{i}.png": make_png(40 * i + 10 * n) for n, label in enumerate(("cat", "dog")) for i in range(4)}


def make_tar(path, files=FILES, *extra: tarfile.TarInfo, mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member)


def make_zip(path, files=FILES, kind: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def make_link(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip", "misnamed.csv"])
def test_all_kinds_give_what_the_folder_gives(tmp_path, name: str) -> None:
    for file, data in FILES.items():
        (tmp_path / "plain" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / file).write_bytes(data)
    path = tmp_path / name
    make_zip(path) if name.endswith("zip") else make_tar(path, mode="w" if name.endswith("tar") else "w:gz")
    source = archives.open_archive(path)[0]["train"]
    plain = folders.open_folder(tmp_path / "plain")[0]["train"]
    assert source.schema == plain.schema
    assert source.names == plain.names
    assert source.fingerprint() == plain.fingerprint()
    for i in range(len(plain)):
        np.testing.assert_array_equal(source[i].input, plain[i].input)
    splits = load_splits(Options(str(path)), seed=1)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 8


def test_parts_inside_an_archive(tmp_path) -> None:
    files = {name.replace("pets", part): data for part in ("train", "test") for name, data in FILES.items()}
    make_tar(tmp_path / "a.tgz", files | {"test/._x": b"mac", "__MACOSX/y": b"mac"})
    parts, notes = archives.open_archive(tmp_path / "a.tgz")
    assert set(parts) == {"train", "test"}
    assert notes == ("8 images of the test part are in the training part too",)


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_outside_are_refused(tmp_path, name: str, kind: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / f"a.{kind}"
    make_zip(path, FILES | {name: make_png(0)}) if kind == "zip" else make_tar(
        path, FILES | {name: make_png(0)}, mode="w"
    )
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(DataError, match="leads outside"):
        archives.load_archive(path)
    assert sorted(p for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (make_link("pets/cat/l.png", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (make_link("pets/cat/l.png", tarfile.LNKTYPE, "pets/cat/0.png"), "a link"),
        (make_link("pets/cat/l.png", tarfile.CHRTYPE), "a special file"),
        (make_link("pets/cat/l.png", tarfile.FIFOTYPE), "a special file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, member: tarfile.TarInfo, text: str) -> None:
    make_tar(tmp_path / "a.tar.gz", FILES, member)
    with pytest.raises(DataError, match=text) as caught:
        archives.load_archive(tmp_path / "a.tar.gz")
    assert "pets/cat/l.png" in str(caught.value)


def test_links_and_encryption_in_a_zip_are_refused(tmp_path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("cat/l.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="a link"):
        archives.load_archive(path)
    make_zip(path, kind=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 8
    data[at] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="an encrypted file"):
        archives.load_archive(path)


def test_bombs_are_refused_early(tmp_path) -> None:
    make_zip(tmp_path / "a.zip", FILES | {"pets/cat/z.bmp": bytes(70 << 20)})
    make_tar(tmp_path / "a.tgz", FILES | {"pets/cat/z.bmp": bytes(70 << 20)})
    for name in ("a.zip", "a.tgz"):
        assert (tmp_path / name).stat().st_size < 1 << 20
        with pytest.raises(DataError, match="unpacks to too much"):
            archives.load_archive(tmp_path / name)


def test_a_header_that_claims_terabytes_is_refused_unread(tmp_path) -> None:
    member = tarfile.TarInfo("pets/cat/huge.png")
    member.size = 1 << 42
    (tmp_path / "a.tar").write_bytes(member.tobuf() + bytes(2048))
    with pytest.raises(DataError, match="unpacks to too much"):
        archives.load_archive(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_truncation_anywhere_is_noticed(tmp_path, name: str) -> None:
    path = tmp_path / name
    make_zip(path) if name.endswith("zip") else make_tar(path, mode="w" if name.endswith("tar") else "w:gz")
    data = path.read_bytes()
    end = 8 * 1024 if name == "a.tar" else len(data)  # what follows in a tar is its end mark
    for cut in range(1, end, max(1, end // 23)):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=name):
            archives.load_archive(path)


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_flipped_bytes_are_errors_or_harmless(tmp_path, name: str) -> None:
    path = tmp_path / name
    make_zip(path) if name.endswith("zip") else make_tar(path)
    data = path.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 80)):
        broken = bytearray(data)
        broken[at] ^= 0x55
        path.write_bytes(broken)
        try:
            held = archives.load_archive(path)
        except DataError as error:
            assert name in str(error)  # noqa: PT017 - damage may be harmless
        else:
            assert all(held.files[n] == FILES[n] for n in held.files if n in FILES)


def test_a_damaged_header_in_the_middle_does_not_pass_for_the_end(tmp_path) -> None:
    path = tmp_path / "a.tar"
    make_tar(path, mode="w")
    data = bytearray(path.read_bytes())
    data[1024 : 1024 + 100] = b"\xff" * 100  # the second member's name, so that its checksum is wrong
    path.write_bytes(data)
    with pytest.raises(DataError, match="no whole member and no end mark"):
        archives.load_archive(path)


def test_gzip_of_something_else(tmp_path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n" * 100))
    with pytest.raises(DataError, match="is no archive that can be read"):
        archives.load_archive(path)


@pytest.mark.skipif(not os.environ.get("LAYERWISE_DATA"), reason="needs the real data")
@pytest.mark.soak
def test_cifar10() -> None:
    source = load_splits(Options("cifar10"), seed=0)
    assert (len(source.train), len(source.val), len(source.test)) == (45_000, 5_000, 10_000)
    assert source.train.schema.shape == (32, 32, 3)
