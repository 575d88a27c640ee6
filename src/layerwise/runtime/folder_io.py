"""Folders that appear complete or not at all: built under a temporary name with our marker, renamed in one step; and
locks."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerwise.errors import UsageError
from layerwise.runtime.atomic_io import DRAFT, flush_folder, make_folder, name_file, warn_once
from layerwise.runtime.owned_folders import (
    MARKER,
    is_owned,
    make_owned,
    make_temporary_path,
    remove_owned,
    sweep_unfinished,
)
from layerwise.runtime.write_checks import check_target, is_plain_file, report_disk_errors

RENAME_EXCHANGE = 2  # renameat2's flag
AT_FDCWD = -100  # paths relative to the working directory
NO_LOCK_ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def remove_new_folders_on_error(path: Path) -> Iterator[None]:
    """If the block raises, remove ``path`` and its parents where the block created them and they are empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            remove_if_empty(folder)
        raise


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing is; any other stays."""
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def open_unfinished(target: Path, kind: str, *, durable: bool = True) -> Iterator[Path]:
    """Yield a new marked folder beside a target, removed at the end if it still has its temporary name. Raises what
    `make_folder` does.

    ``durable`` is `make_owned`'s.
    """
    sweep_unfinished(target.parent, kind)
    folder = make_temporary_path(target)
    with remove_new_folders_on_error(folder.parent):
        make_folder(folder.parent)
        try:
            make_owned(folder, kind, durable=durable)
            yield folder
        finally:
            remove_owned(folder, kind)


@contextmanager
def build_folder(target: Path, kind: str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new marked folder that gets its name when the block ends; nothing happens if the block raises.

    ``replace``: a folder of this kind that is there is replaced. Raises `UsageError` for anything else in the way,
    before the block begins, and `StorageError` where the disk refuses.
    """
    sweep_unfinished(target.parent, kind)  # first: one that was set aside may get its name back
    check_folder_target(target, kind, replace=replace)
    with report_disk_errors(target), open_unfinished(target, kind) as folder:
        yield folder
        put_folder(folder, target, kind, replace=replace)


def check_folder_target(target: Path, kind: str, *, replace: bool) -> None:
    """Raise `UsageError` if a folder may not get a name: a link, a file, or a folder that is not ours to replace has
    it. Nothing is touched."""
    if target.is_symlink():
        check_target(target)
    if not target.exists():
        return
    if not is_owned(target, kind):
        raise UsageError(
            f"{target} is there, and Layerwise did not make it; it stays as it is",
            expected=f"a new folder, or a {kind} that Layerwise made",
            do="choose another place, or move what is there",
        )
    if not replace:
        raise UsageError(
            f"{target} exists already", expected="a new folder", do="choose another --out, or add --overwrite"
        )


def put_folder(folder: Path, target: Path, kind: str, *, durable: bool = True, replace: bool = True) -> None:
    """Give a finished folder its name. One of the kind that is there is replaced in one step, so that a reader always
    finds a complete one.

    ``durable`` waits until the folder is on the disk; what can be made again need not. Without ``replace`` a folder
    that came up meanwhile stays.

    Raises `UsageError` if what is there is not ours, or may not be replaced.
    """
    old = None
    if durable:
        flush_folder(folder)
    if target.exists() or target.is_symlink():
        check_folder_target(target, kind, replace=replace)
        old = folder if _exchange(folder, target) else _set_aside(target, folder)
    else:
        folder.rename(target)
    if durable:
        flush_folder(target.parent)
    if old is not None:
        remove_owned(old, kind)


def _set_aside(target: Path, folder: Path) -> Path:
    """Give a folder the name of another in two steps; return the other's new name. If a kill comes between,
    `sweep_unfinished` ends it."""
    old = make_temporary_path(target, ending="old")
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders' names in one step, where the system can; return whether it did."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    return bool(call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


@contextmanager
def stage_file(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a path for a library to write a file to by name; the file gets its own name when the block ends.

    Raises what `check_target` does, before the block begins, and `StorageError` where the disk refuses.
    """
    check_target(path, overwrite=overwrite)
    with report_disk_errors(path), open_unfinished(path, DRAFT) as folder:
        yield folder / path.name
        name_file(folder / path.name, path, overwrite=overwrite)
        flush_folder(path.parent)


@contextmanager
def stage_files(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write files into; when the block ends they move to ``out``, made if need be.

    None does if the block raises or if one of the names is taken. A kill meanwhile leaves some of them moved, each
    complete.

    Raises `UsageError` for a file that may not be replaced or a link with a file's name, `StorageError` where the disk
    refuses.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, not a folder", expected="a folder for the files", do="choose another --out")
    with report_disk_errors(out), open_unfinished(out, DRAFT) as folder:
        yield folder
        files = [path for path in sorted(folder.iterdir()) if path.name != MARKER]
        for path in files if out.is_dir() else ():
            check_target(out / path.name, overwrite=overwrite)
        if files:
            make_folder(out)
        for path in files:
            name_file(path, out / path.name, overwrite=overwrite)


# -- locks


@contextmanager
def hold_lock(
    path: Path, *, wait: bool, root: Path | None = None, on_wait: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold the lock that a file stands for; yield whether it is held: False where another process has it and we do not
    ``wait``.

    ``on_wait`` is called about once a second while we do.

    The file is removed before the lock is released; whoever waits for it then makes a new one. On a file system without
    locks, warn once and run the block as if the lock were held. Raises `UsageError` for a link or a device, and
    `StorageError` where the disk refuses.
    """
    import filelock  # not loaded early

    check_target(path, root=root)
    lock, held = filelock.FileLock(path), False
    try:
        while not held:
            try:
                with report_disk_errors(path):
                    lock.acquire(timeout=1 if wait else 0)
                held = True
            except filelock.Timeout:
                if not wait:
                    break
                on_wait()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCK_ERRORS:
            raise
        held = True
        warn_once(path.parent, "has no locks: nothing keeps two programs from working there at the same time")
    try:
        yield held
    finally:
        if held:
            _remove_lock_file(path)
            lock.release()


def _remove_lock_file(path: Path) -> None:
    """Remove the file of a lock, unless something is in it."""
    with suppress(OSError):
        if is_plain_file(path, root=path.parent) and not path.lstat().st_size:
            path.unlink()
