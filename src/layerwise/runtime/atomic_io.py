"""Atomic writing: every file of Layerwise appears complete or not at all, and nothing else changes.

A file is written without a name (``O_TMPFILE``; in a temporary folder of our own where the system has no nameless
files), flushed to the disk, and named in one step. So a reader sees the old file or the new one, a kill leaves no
half-written file, and a full disk loses nothing that was there. Links are never written through: a link that somebody
put into a run or a cache would lead elsewhere (`layerwise.runtime.write_checks`). `layerwise.runtime.folder_io` writes
folders; `layerwise.runtime.in_place_io` writes inside unfinished ones; `layerwise.runtime.owned_folders` decides what
may be removed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from layerwise.errors import UsageError
from layerwise.runtime.owned_folders import make_owned, make_temporary_path, remove_owned, sweep_unfinished
from layerwise.runtime.write_checks import FREE_SPACE_ADVICE, check_target, get_mode, refuse_links, report_disk_errors

UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EISDIR)
_WARNED: set[tuple[int, str]] = set()  # the file systems that were warned of
DRAFT = "draft"  # the kind of temporary folders


class _Draft:
    """An unfinished file: it has no name, or a temporary one, until `publish` gives it its own."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = make_temporary_path(target)  # where the file lies before it has its name, if it must lie anywhere
        self.nameless = True
        self.stream = cast(BinaryIO, os.fdopen(self._open(), "w+b"))
        before = get_mode(target)
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
            if get_mode(self.target) is None and self._link(self.target):
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
