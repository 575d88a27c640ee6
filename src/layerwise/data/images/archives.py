"""Archives of class folders (.tar, .tar.gz, .zip), read into memory: nothing is ever written to disk.

Members with absolute names, ``..``, links, devices and encryption are refused; sizes are checked before and during
reading, so that a decompression bomb stops early. Of two members with one name the later counts, as when unpacking.
"""

from __future__ import annotations

import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any

from layerwise.data.images.decoding import escape_name
from layerwise.data.images.folders import ImageSource, OnError, is_hidden, read_class_folders
from layerwise.errors import DataError
from layerwise.runtime.input_files import open_regular_file

MAX_BYTES = 4 << 30  # of all members together
MAX_RATIO = 100  # unpacked to packed, once more than FREE bytes have come out
FREE = 64 << 20
MAX_DEFLATE_RATIO = 1032  # no deflate stream expands more than this
MAX_MEMBERS = 5_000_000
GZIP, ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")
ARCHIVE_ERRORS = (  # what tarfile, zipfile, gzip and their codecs raise on damaged files
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
    LookupError,
)


@dataclass(frozen=True)
class ArchiveStore:
    """The files of an archive in memory (images stay compressed)."""

    origin: str
    files: dict[str, bytes] = field(repr=False)
    folders: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the names of all files and folders, sorted."""
        return sorted([*self.files, *self.folders])

    def read(self, name: str) -> bytes:
        """Return the bytes of a member."""
        return self.files[name]


class LimitedReader(io.RawIOBase):
    """A stream that raises `DataError` beyond the limits, and stores the last 64 KiB that were read."""

    def __init__(self, stream: IO[bytes], packed: IO[bytes], path: Path) -> None:
        super().__init__()
        self.stream, self.packed, self.path = stream, packed, path
        self.count, self.recent = 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes."""
        data = self.stream.read(max(0, size))
        self.count += len(data)
        self.recent = (self.recent + data)[-(1 << 16) :]
        check_size(self.count, self.packed.tell(), self.path)
        return data

    def get_block(self, offset: int) -> bytes:
        """Return the 512 bytes at an offset among the last 64 KiB that were read."""
        start = offset - (self.count - len(self.recent))
        return self.recent[start : start + tarfile.BLOCKSIZE] if start >= 0 else b""


def is_archive(path: Path) -> bool:
    """Whether a file's content is a zip, a tar, or gzipped (and so perhaps a tar)."""
    with open_regular_file(path) as stream:
        head = stream.read(512)
    return head[:2] == GZIP or head[:4] in ZIP or head[257:262] == b"ustar"


def open_archive(path: Path, *, on_error: OnError = "stop") -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """Read the class folders of an archive as `folders.read_class_folders` does.

    Raises `DataError` for what is unsafe or damaged.
    """
    return read_class_folders(load_archive(path), on_error=on_error)


def load_archive(path: Path) -> ArchiveStore:
    """Read an archive's files into memory.

    Raises `DataError`, naming the archive and member, for what is unsafe or damaged.
    """
    try:
        with open_regular_file(path) as packed:
            head = packed.read(4)
            packed.seek(0)
            files, folders = (
                _read_zip(packed, path) if head in ZIP else _read_tar(packed, path, zipped=head[:2] == GZIP)
            )
    except ARCHIVE_ERRORS as error:
        raise DataError(
            f"{path} is damaged: {error}",
            expected="a complete .tar, .tar.gz or .zip archive",
            do="fetch it again",
        ) from error
    return ArchiveStore(str(path), files, tuple(sorted(folders)))


def check_size(count: int, packed: int, path: Path) -> None:
    """Raise `DataError` for archives that unpack to too much, in total or relative to their size."""
    if count > MAX_BYTES or (count > FREE and count > MAX_RATIO * packed):
        raise DataError(
            f"{path} unpacks to too much to be read in memory",
            expected=f"at most {MAX_BYTES >> 30} GiB, and beyond {FREE >> 20} MiB at most {MAX_RATIO} times its "
            "packed size",
            received=f"{count} bytes or more from {packed} packed bytes",
            do="if you trust it, unpack it and give the folder instead",
        )


def clean_name(name: str, path: Path) -> str:
    """Return a member's relative name, or raise `DataError` for one that would lead outside."""
    plain = name.replace("\\", "/")
    steps = plain.split("/")
    if plain.startswith("/") or ".." in steps or "\0" in name or steps[0].endswith(":"):
        raise _make_unsafe_error(name, path, "a name that leads outside")
    return "/".join(step for step in steps if step not in ("", "."))


def _make_unsafe_error(name: str, path: Path, received: str) -> DataError:
    """Make the error for a member that is not accepted."""
    return DataError(
        f"{path} holds '{escape_name(name)}', which is not accepted",
        expected="plain files and folders with relative names",
        received=received,
        do="do not trust this archive; pack it again without such members",
    )


def _is_wanted(name: str) -> bool:
    """Whether a file is wanted: not hidden, no clutter."""
    return bool(name) and not any(is_hidden(step) for step in name.split("/"))


def _read_tar(packed: IO[bytes], path: Path, *, zipped: bool) -> tuple[dict[str, bytes], set[str]]:
    """Read a tar archive in one pass."""
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    unpacked: Any = GzipFile(fileobj=packed) if zipped else packed
    size = packed.seek(0, io.SEEK_END)
    packed.seek(0)
    reader = LimitedReader(unpacked, packed, path)
    stream: Any = reader  # tarfile asks for an IO[bytes], of which it uses read only
    try:
        archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        raise DataError(
            f"{path} is no archive that can be read: {error}",
            expected="a .tar, .tar.gz or .zip of class folders",
        ) from error
    with archive:
        for number, member in enumerate(archive):
            _check_count(number, path)
            name = clean_name(member.name, path)
            if member.isdir():
                folders.add(name + "/")
            elif not member.isreg() or member.issparse():
                raise _make_unsafe_error(
                    member.name, path, "a link" if member.islnk() or member.issym() else "a special file"
                )
            elif _is_wanted(name):
                check_size(member.size, member.size, path)  # what it claims, before any of it is read
                _check_claimed_size(member, reader.count, size * MAX_DEFLATE_RATIO if zipped else size, path)
                files[name] = _read_member(archive, member)
        _check_end(archive, reader)
    return files, {name for name in folders if _is_wanted(name[:-1])}


def _check_claimed_size(member: tarfile.TarInfo, read: int, max_size: int, path: Path) -> None:
    """Raise `EOFError` for a member that claims more bytes than the rest of the archive can hold."""
    if member.size > max_size - read + tarfile.RECORDSIZE:
        raise EOFError(f"'{escape_name(member.name)}' claims {member.size:,} bytes, more than the archive can hold")


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Read one member completely."""
    stream = archive.extractfile(member)
    data = stream.read() if stream else b""
    if len(data) != member.size:
        raise EOFError(f"'{escape_name(member.name)}' is cut off")
    return data


def _check_end(archive: tarfile.TarFile, reader: LimitedReader) -> None:
    """Raise `EOFError` unless the archive ends with its end mark: tarfile takes a damaged header for the end."""
    if reader.get_block(archive.offset) != bytes(tarfile.BLOCKSIZE):
        raise EOFError(f"no whole member and no end mark at byte {archive.offset}")
    while reader.read(1 << 20):  # on to the end, where gzip's checksum is
        pass


def _read_zip(packed: IO[bytes], path: Path) -> tuple[dict[str, bytes], set[str]]:
    """Read a zip archive."""
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    total = 0
    size = packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed) as archive:
        members = archive.infolist()
        _check_count(len(members), path)
        for member in members:
            name = clean_name(member.filename, path)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _make_unsafe_error(member.filename, path, "a link" if kind == stat.S_IFLNK else "a special file")
            if member.flag_bits & 1:
                raise _make_unsafe_error(member.filename, path, "an encrypted file")
            if member.is_dir():
                folders.add(name + "/")
                continue
            # a block of another compression may unpack to gigabytes
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _make_unsafe_error(member.filename, path, "a packing other than deflate")
            total += member.file_size
            check_size(total, size, path)
            if _is_wanted(name):
                files[name] = archive.read(member)
    return files, {name for name in folders if _is_wanted(name[:-1])}


def _check_count(number: int, path: Path) -> None:
    """Raise `DataError` for archives with too many members."""
    if number > MAX_MEMBERS:
        raise DataError(f"{path} holds too many members", expected=f"at most {MAX_MEMBERS}")
