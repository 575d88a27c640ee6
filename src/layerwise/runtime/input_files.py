"""Open files of the user, and only regular ones: reading a named pipe would wait for ever, reading a device never end.

A path is checked before it is opened, and the open file is checked again: nothing can replace it in between.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from layerwise.errors import DataError

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading bytes, without waiting.

    Raises `DataError` for a named pipe, a socket or a device, and `OSError` for a path that is not there, a folder, or
    no permission.
    """
    refuse_special_file(path)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        status = os.fstat(handle)
        _refuse_special(status, path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular_file(path: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes. Raises what `open_regular_file` does."""
    with open_regular_file(path) as file:
        return file.read()


def refuse_special_file(path: str | os.PathLike[str]) -> None:
    """Raise `DataError` if a path leads to a named pipe, a socket or a device. It is not opened."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return  # whoever opens it says what is wrong
    _refuse_special(status, path)


def _refuse_special(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Refuse what is neither a file nor a folder."""
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return
    name = Path(os.fsdecode(path))
    raise DataError(
        f"{name} is {kind}, and was not opened",
        expected="a regular file or a folder",
        do=f"write what it gives to a file first: cat {name} > FILE; or pipe it in, where '-' reads standard input"
        if stat.S_ISFIFO(status.st_mode)
        else "give a regular file",
    )
