"""What may be written to (no link, device or folder), and what a disk refuses, as `StorageError`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layerwise.errors import StorageError, UsageError

REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
)
FREE_SPACE_ADVICE = "free some space or choose another place; what was there before is intact"
ADVICE = {  # where free space would not help
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "choose a folder that you may write to; what was there before is intact",
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
}
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def check_target(path: Path, *, root: Path | None = None, overwrite: bool = True) -> None:
    """Refuse a path that a file may not be written to. Nothing is touched.

    Args:
        path: the file to be.
        root: the run or cache that the file belongs to: no folder between the two may be a link.
        overwrite: whether a file that is there may be replaced.

    Raises `UsageError` for a link, a folder, a device or a pipe, for a folder that is missing, and for a file that may
    not be replaced.
    """
    if root is not None:
        refuse_links(root, path)
    mode = get_mode(path)
    if mode is None:
        if not path.parent.is_dir():
            raise UsageError(
                f"there is no folder {path.parent}", expected="a folder to write into", do=f"mkdir -p {path.parent}"
            )
        return
    if stat.S_ISLNK(mode):
        raise _make_link_error(path)
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "no file")
        raise UsageError(
            f"{path} is {kind}, not a file", expected="a new file, or one to replace", do="choose another name"
        )
    if not overwrite:
        raise UsageError(f"{path} exists already", expected="a new file", do="choose another name, or add --overwrite")


def refuse_links(root: Path, path: Path) -> None:
    """Raise `UsageError` if anything below ``root`` on the way to ``path``, or ``path`` itself, is a link."""
    for part in (*reversed(path.relative_to(root).parents[:-1]), path.relative_to(root)):
        if (root / part).is_symlink():
            raise _make_link_error(root / part)


def is_plain_file(path: Path, *, root: Path) -> bool:
    """Whether a regular file lies at a path, no link, nor reached through a link below ``root``."""
    try:
        refuse_links(root, path)
    except UsageError:
        return False
    mode = get_mode(path)
    return mode is not None and stat.S_ISREG(mode)


def _make_link_error(path: Path) -> UsageError:
    """Return the error for a link where a file or folder of its own belongs."""
    return UsageError(
        f"{path} is a link, and Layerwise does not write through links",
        expected="a file or folder of its own",
        received=f"a link to {os.readlink(path)}",
        do="name the place that the link leads to, or remove the link",
    )


def get_mode(path: Path) -> int | None:
    """Return the mode of what lies at a path, links not followed; None where there is nothing."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def report_disk_errors(path: Path, *, do: str = FREE_SPACE_ADVICE) -> Iterator[None]:
    """Raise `StorageError` for what the disk refuses inside: it is full, read-only, or the file may not grow.

    An error that names a file outside the path's folder is another's, and is raised as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS or not _is_about(error, path):
            raise
        advice = ADVICE.get(error.errno or 0, do)
        raise StorageError(
            f"cannot write {path}: {error.strerror}", expected="room and permission to write", do=advice
        ) from error


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error is about a path, its folder or what lies in them; one that names no file is."""
    if error.filename is None or isinstance(error.filename, int):
        return True
    named = Path(os.fsdecode(error.filename))
    return named in (path, path.parent, *path.parents) or path.parent in named.parents
