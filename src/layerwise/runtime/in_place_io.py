"""Writing in place, inside unfinished folders, downloads and logs of our own, which no reader takes for whole files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from layerwise.runtime.write_checks import FREE_SPACE_ADVICE, check_target, get_mode, is_plain_file, report_disk_errors

if TYPE_CHECKING:  # numpy is not loaded early
    from numpy.typing import NDArray

OPEN_FLAGS = {
    "wb": os.O_WRONLY | os.O_TRUNC,
    "w+b": os.O_RDWR | os.O_TRUNC,
    "r+b": os.O_RDWR,
    "ab": os.O_WRONLY | os.O_APPEND,
}


@contextmanager
def open_in_place(path: Path, *, root: Path, mode: str = "wb") -> Iterator[BinaryIO]:
    """Open a file below a folder of our own to write it in place (``wb``, ``w+b``, ``r+b``, ``ab``), never through a
    link.

    For unfinished folders, downloads and logs, which no reader takes for complete files. Raises `UsageError` for links
    and devices.
    """
    check_target(path, root=root)
    flags = OPEN_FLAGS[mode] | (0 if mode == "r+b" else os.O_CREAT) | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), mode) as stream:
        yield cast(BinaryIO, stream)


def rename_inside(path: Path, target: Path, *, root: Path) -> None:
    """Rename a finished file of an unfinished folder of our own. Raises `UsageError` for a link at either path."""
    for checked in (path, target):
        check_target(checked, root=root)
    os.replace(path, target)


def write_durably(path: Path, data: bytes, *, root: Path) -> None:
    """Write a file of an unfinished folder of our own and flush it; `put_folder` flushes the folder itself."""
    with open_in_place(path, root=root) as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def append_line(path: Path, line: bytes, *, root: Path, do: str = FREE_SPACE_ADVICE) -> None:
    """Add a line to a log. One that does not fit on the disk is removed, and a new log with it. Raises
    `StorageError` then, `UsageError` for a link."""
    new = get_mode(path) is None
    with report_disk_errors(path, do=do), open_in_place(path, root=root, mode="ab") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            stream.write(line)
            stream.flush()
        except OSError:
            os.ftruncate(stream.fileno(), size)
            if new:
                path.unlink()
            raise


def truncate_file(path: Path, size: int, *, root: Path) -> None:
    """Truncate a log to a length that it had. Raises `UsageError` for a link."""
    if path.exists() and path.lstat().st_size > size:
        with open_in_place(path, root=root, mode="r+b") as stream:
            stream.truncate(size)


def flush_file(path: Path, *, root: Path) -> None:
    """Wait until what was added to a log is on the disk. Raises `UsageError` for a link."""
    with open_in_place(path, root=root, mode="r+b") as stream:
        os.fsync(stream.fileno())


def save_array(path: Path, array: NDArray[Any], *, root: Path) -> None:
    """Write an ``.npy`` file into an unfinished folder of our own."""
    import numpy as np

    with open_in_place(path, root=root) as stream:
        np.save(stream, array, allow_pickle=False)


def map_new_array(path: Path, shape: tuple[int, ...], dtype: Any, *, root: Path) -> Any:
    """Return a new file of numbers as a `numpy.memmap`, to be filled. Its space is allocated at once, so that a full
    disk is an error, not a killed process when the map is written."""
    import numpy as np

    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open_in_place(path, root=root, mode="w+b") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            zeros = bytes(1 << 20)
            for first in range(0, size, len(zeros)):
                stream.write(zeros[: size - first])
        return np.memmap(stream, dtype=dtype, mode="r+", shape=shape)


@contextmanager
def create_for_library(path: Path, *, root: Path) -> Iterator[None]:
    """Create a file of an unfinished folder of our own, let a library write to its path in the block, then flush it.

    The file gets the permissions that the system gives new files, whatever the library would set.
    """
    with open_in_place(path, root=root) as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    yield
    path.chmod(mode)
    flush_file(path, root=root)


@contextmanager
def open_temporary_folder() -> Iterator[Path]:
    """Yield an empty temporary folder of the system's, removed at the end."""
    with TemporaryDirectory(prefix="layerwise-") as folder:
        yield Path(folder)


def remove_if_unchanged(root: Path, digests: Mapping[str, str]) -> None:
    """Remove those files (name → SHA-256) whose content still has the digest; others stay."""
    for name, digest in digests.items():
        path = root / name
        if is_plain_file(path, root=root) and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            path.unlink()
