"""Atomic writing: every file of Layerwise appears complete or not at all, and nothing else changes.

A file is written without a name (``O_TMPFILE``; in a temporary folder of our own where the system has no nameless
files), flushed to the disk, and named in one step. So a reader sees the old file or the new one, a kill leaves no
half-written file, and a full disk loses nothing that was there. Links are never written through: a link that somebody
put into a run or a cache would lead elsewhere. `layerwise.runtime.folder_io` writes folders;
`layerwise.runtime.owned_folders` decides what may be removed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from layerwise.errors import StorageError, UsageError
from layerwise.runtime.owned_folders import make_owned, remove_owned, sweep_unfinished, temporary_path

if TYPE_CHECKING:  # numpy is not loaded early
    from numpy.typing import NDArray

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
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR)
_WARNED: set[tuple[int, str]] = set()  # the file systems that were warned of
DRAFT = "draft"  # the kind of temporary folders
FREE_SPACE_ADVICE = "free some space or choose another place; what was there before is intact"
ADVICE = {  # where free space would not help
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "choose a folder that you may write to; what was there before is intact",
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
}
OPEN_FLAGS = {
    "wb": os.O_WRONLY | os.O_TRUNC,
    "w+b": os.O_RDWR | os.O_TRUNC,
    "r+b": os.O_RDWR,
    "ab": os.O_WRONLY | os.O_APPEND,
}
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


# -- what may be written to


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
    mode = _get_mode(path)
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
    mode = _get_mode(path)
    return mode is not None and stat.S_ISREG(mode)


def _make_link_error(path: Path) -> UsageError:
    """Return the error for a link where a file or folder of its own belongs."""
    return UsageError(
        f"{path} is a link, and Layerwise does not write through links",
        expected="a file or folder of its own",
        received=f"a link to {os.readlink(path)}",
        do="name the place that the link leads to, or remove the link",
    )


def _get_mode(path: Path) -> int | None:
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


# -- complete files


class _Draft:
    """An unfinished file: it has no name, or a temporary one, until `publish` gives it its own."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = temporary_path(target)  # where the file lies before it has its name, if it must lie anywhere
        self.nameless = True
        self.stream = cast(BinaryIO, os.fdopen(self._open(), "w+b"))
        before = _get_mode(target)
        if before is not None:  # whoever may read the old file may read the new one
            os.fchmod(self.stream.fileno(), stat.S_IMODE(before))

    def _open(self) -> int:
        """Open a nameless file in the target's folder, or one in a temporary folder of our own."""
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            try:
                return os.open(self.target.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
        self.nameless = False
        make_owned(self.folder, DRAFT, durable=False)
        return os.open(self.folder / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)

    def flush(self) -> None:
        """Wait until the content is on the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def publish(self, *, overwrite: bool) -> None:
        """Give the file its name. Without ``overwrite`` a file that came up meanwhile stays: `UsageError`."""
        if self.nameless:
            if _get_mode(self.target) is None and self._link(self.target):
                return
            make_owned(self.folder, DRAFT, durable=False)
            if not self._link(self.folder / "file"):
                self._copy(self.folder / "file")
        name_file(self.folder / "file", self.target, overwrite=overwrite)

    def _link(self, path: Path) -> bool:
        """Link a nameless file under a name; return whether it worked: the name may be taken, or the system cannot."""
        folder = os.open(path.parent, os.O_RDONLY)
        try:  # with a folder given, Python calls linkat, which follows the link in /proc
            os.link(f"/proc/self/fd/{self.stream.fileno()}", path.name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError:
            return False
        finally:
            os.close(folder)
        return True

    def _copy(self, path: Path) -> None:
        """Write a nameless file's content to a file with a name, and flush it."""
        self.stream.seek(0)
        handle = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(os.fstat(self.stream.fileno()).st_mode)
        )
        with os.fdopen(handle, "wb") as named:
            shutil.copyfileobj(self.stream, named)
            named.flush()
            os.fsync(named.fileno())

    def discard(self) -> None:
        """Close the file; without its name it is gone."""
        with suppress(OSError):  # what could not be flushed is not wanted any more
            self.stream.close()
        remove_owned(self.folder, DRAFT)


def name_file(path: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name. Without ``overwrite`` a file that came up meanwhile stays.

    Raises what `check_target` does.
    """
    check_target(target, overwrite=overwrite)
    if not overwrite:
        try:
            os.link(path, target)
        except FileExistsError:
            check_target(target, overwrite=False)
            raise
        except OSError as error:
            if error.errno not in (*UNSUPPORTED, errno.EPERM, errno.EMLINK):  # a file system without links
                raise
        else:
            path.unlink()
            return
    os.replace(path, target)


@contextmanager
def open_replacing(
    path: Path, *, root: Path | None = None, overwrite: bool = True, do: str = FREE_SPACE_ADVICE
) -> Iterator[BinaryIO]:
    """Yield a stream to write a file to; the file gets its name when the block ends, and nothing happens if the block
    raises.

    Raises what `check_target` does, before the block begins, and `StorageError` where the disk refuses.
    """
    check_target(path, root=root, overwrite=overwrite)
    sweep_unfinished(path.parent, DRAFT)
    with report_disk_errors(path, do=do):
        draft = _Draft(path)
        try:
            yield draft.stream
            draft.flush()
            draft.publish(overwrite=overwrite)
        finally:
            draft.discard()
        flush_folder(path.parent)


def write_file(
    path: Path, data: bytes, *, root: Path | None = None, overwrite: bool = True, do: str = FREE_SPACE_ADVICE
) -> None:
    """Write a complete file in one step. Raises what `open_replacing` does."""
    with open_replacing(path, root=root, overwrite=overwrite, do=do) as stream:
        stream.write(data)


def write_files(files: Sequence[tuple[Path, bytes]], *, root: Path | None = None, overwrite: bool = True) -> None:
    """Write several files: none gets its name before all are on the disk. Raises what `open_replacing` does."""
    for path, _ in files:
        check_target(path, root=root, overwrite=overwrite)
    folders = {path.parent for path, _ in files}
    for folder in folders:
        sweep_unfinished(folder, DRAFT)
    with ExitStack() as stack:
        drafts = []
        for path, data in files:
            stack.enter_context(report_disk_errors(path))
            draft = _Draft(path)
            stack.callback(draft.discard)
            draft.stream.write(data)
            draft.flush()
            drafts.append(draft)
        for draft in drafts:
            draft.publish(overwrite=overwrite)
    for folder in folders:
        flush_folder(folder)


# -- files that grow, inside folders of our own


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
    new = _get_mode(path) is None
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


def make_folder(path: Path, *, root: Path | None = None, do: str = FREE_SPACE_ADVICE) -> None:
    """Make a folder and those above it. Raises `UsageError` for a link below ``root`` or a file in the way,
    `StorageError` for a disk that refuses."""
    if root is not None:
        refuse_links(root, path)
    with report_disk_errors(path, do=do):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"{path} cannot be a folder: a file is in the way", do="choose another place, or move the file"
            ) from error


def flush_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk, where the file system can; where it cannot, warn once."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warn_once(path, "cannot flush folders: a power cut may lose the last save, a crash of a program does not")
    finally:
        os.close(handle)


def warn_once(path: Path, text: str) -> None:
    """Warn of what the file system of a path cannot do, once in a process for each file system."""
    key = (path.stat().st_dev, text)
    if key not in _WARNED:
        _WARNED.add(key)
        logging.getLogger("layerwise").warning("the file system of %s %s", path, text)
