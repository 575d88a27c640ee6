"""Downloads of named data sets into the user's cache: resumable, verified, complete or absent.

Files are fetched one by one into a folder beside the cache's sets, each as ``NAME.part`` until its SHA-256 matches a
valid version. When every file is there the folder is renamed, so that a reader sees all of the set or nothing. One
process fetches a set at a time; the others wait for it. The lengths that a server sends are not trusted: sizes and
digests come from `dataset_urls`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from layerwise.data.download.dataset_urls import DatasetFile, FileVersion
from layerwise.errors import DataError, UsageError
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.folder_io import check_folder_target, hold_lock, put_folder
from layerwise.runtime.in_place_io import open_in_place, rename_inside
from layerwise.runtime.owned_folders import is_empty_folder, is_owned, make_owned, mark_owned, remove_inside
from layerwise.text_display import show_byte_progress, write_line

KIND = "downloads"  # of folder
MIRROR = "LAYERWISE_MIRROR"
SCHEMES = ("http", "https", "file")
BLOCK_BYTES = 1 << 16
RESUME_HINT = "run the same command again: it goes on from there"
MIRROR_HINT = f"try a mirror: --mirror URL, or {MIRROR} in the environment"
FileProgressCallback = Callable[[str, int], None]  # the file's name, and how many of its bytes are here


class ConnectionLostError(Exception):
    """The connection broke off, or the server could not answer now."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Seconds to wait for bytes, attempts without any progress, and seconds between attempts."""

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0


def fetch_dataset(
    name: str,
    files: tuple[DatasetFile, ...],
    cache: Path,
    *,
    mirror: str = "",
    retries: RetryPolicy | None = None,
    manual_steps: str = "",
) -> Path:
    """Return the folder ``cache/NAME`` of a data set, fetched if it is missing.

    Args:
        mirror: an address with the files as ``MIRROR/NAME/FILE``; else `LAYERWISE_MIRROR`; else each file's own
            address.
        manual_steps: what a user can do where no address is known.

    Raises:
        UsageError: for a mirror that is no http, https or file address.
        DataError: where no address is known, or a file cannot be fetched completely; the bytes that were fetched stay
            and the next call resumes there.
    """
    target = cache / name
    if target.is_dir():
        return target
    urls = _resolve_urls(name, files, mirror or os.environ.get(MIRROR, ""), manual_steps)
    partial = _make_partial_root(cache) / name
    with _translate_disk_errors(partial):
        make_folder(partial, root=cache)
        with _lock_dataset(partial, name):
            if not target.is_dir():
                _fetch_files(files, urls, partial, retries or RetryPolicy())
                put_folder(partial, target, KIND)
    return target


def _make_partial_root(cache: Path) -> Path:
    """Return the folder for unfinished downloads, made with our marker: its contents may be removed again."""
    root = cache / ".partial"
    with _translate_disk_errors(root):
        make_folder(cache)
        if not root.exists():
            with suppress(FileExistsError):  # another process was first
                make_owned(root, KIND)
        if not is_owned(root, KIND) and not root.is_symlink() and root.is_dir() and is_empty_folder(root):
            with suppress(FileExistsError):  # a kill came before the marker, or another process is about to write it
                mark_owned(root, KIND)
    check_folder_target(root, KIND, replace=True)
    return root


@contextmanager
def _lock_dataset(partial: Path, name: str) -> Iterator[None]:
    """Hold the lock of a set's folder; print a line while another process has it."""
    lock = partial.with_name(name + ".lock")
    with hold_lock(lock, wait=False, root=partial.parent) as held:
        if held:
            yield
            return
    _print_line(f"another process is fetching {name}; waiting for it")
    with hold_lock(lock, wait=True, root=partial.parent):
        yield


def _resolve_urls(name: str, files: tuple[DatasetFile, ...], mirror: str, manual_steps: str) -> list[str]:
    """Return an address for each file: on the mirror, or its own."""
    if mirror:
        if urlsplit(mirror).scheme not in SCHEMES:
            raise UsageError(
                f"the mirror '{mirror}' is no address that can be fetched from",
                expected="http://…, https://… or file:///…",
                do="files are asked for as MIRROR/NAME/FILE",
            )
        return [f"{mirror.rstrip('/')}/{quote(name)}/{quote(file.name)}" for file in files]
    if not files or not all(file.url for file in files):
        raise DataError(
            f"no address is known from which the files of '{name}' can be fetched",
            expected=", ".join(file.name for file in files),
            do="; or ".join(filter(None, (manual_steps, MIRROR_HINT))),
        )
    return [file.url for file in files]


def _fetch_files(files: tuple[DatasetFile, ...], urls: list[str], folder: Path, retries: RetryPolicy) -> None:
    """Fetch every file of a set into a folder."""
    total = sum(file.versions[0].size for file in files)
    _print_line(f"fetching {folder.name} ({total / 1e6:.1f} MB) from {urls[0].rpartition('/')[0]}")
    with _show_progress(folder.name, total) as advance:
        for file, url in zip(files, urls, strict=True):
            _fetch_file(file, url, folder, retries, advance)


def _fetch_file(file: DatasetFile, url: str, folder: Path, retries: RetryPolicy, advance: FileProgressCallback) -> None:
    """Fetch one file into the folder, resuming from a part that is there."""
    target, part = folder / file.name, folder / (file.name + ".part")
    if target.exists():  # verified before it got this name
        advance(file.name, target.stat().st_size)
        return
    resumed_bytes = _get_size(part)  # bytes of an earlier attempt, which may be of another file
    version = _fetch_with_retries(file, url, part, retries, advance)
    if version is None and resumed_bytes:
        _remove_part(part)
        version = _fetch_with_retries(file, url, part, retries, advance)
    if version is None:
        size, digest = _get_size(part), _compute_digest(part)
        _remove_part(part)
        raise _make_mismatch_error(file, url, f"{size} bytes with SHA-256 {digest}")
    if version.header:
        _remove_start(part, len(version.header.encode()))
    rename_inside(part, target, root=folder)


def _fetch_with_retries(
    file: DatasetFile, url: str, part: Path, retries: RetryPolicy, advance: FileProgressCallback
) -> FileVersion | None:
    """Fetch until a body ends; return the version that the file matches, or None.

    Broken connections are resumed as long as bytes arrive; without any, for a few attempts.
    """
    attempts_left = retries.attempts
    while True:
        size_before = _get_size(part)
        try:
            _fetch_body(file, url, part, retries.timeout, advance)
            return _match_version(file, part)
        except ConnectionLostError as error:
            attempts_left = retries.attempts if _get_size(part) > size_before else attempts_left - 1
            if attempts_left <= 0:
                raise _make_gave_up_error(file, url, part, str(error)) from error
        time.sleep(retries.pause * (retries.attempts - attempts_left))


def _fetch_body(file: DatasetFile, url: str, part: Path, timeout: float, advance: FileProgressCallback) -> None:
    """Request the missing bytes of a file and append them to the part. Raises `ConnectionLostError` if they end too
    early."""
    sizes = [version.size for version in file.versions]
    held_bytes = _get_size(part)
    if held_bytes in sizes and _match_version(file, part):
        return
    if held_bytes >= max(sizes):
        _remove_part(part)
        held_bytes = 0
    try:
        with _open_url(file, url, held_bytes, timeout) as response:
            start = _find_start(response, held_bytes)
            with open_in_place(part, root=part.parent, mode="r+b" if start else "wb") as out:
                out.seek(start)
                claimed_size = _copy_body(response, out, start, max(sizes), lambda now: advance(file.name, now))
                out.flush()
                os.fsync(out.fileno())
    except (
        HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:  # ValueError: no valid address or length
        raise ConnectionLostError(_describe_error(error)) from error
    size = _get_size(part)
    if size not in sizes and size < max(sizes) and (claimed_size is None or size < claimed_size):
        raise ConnectionLostError(f"the connection broke off after {size} of {sizes[0]} bytes")


def _open_url(file: DatasetFile, url: str, held_bytes: int, timeout: float) -> Any:
    """Open an address from a byte on. Raises `ConnectionLostError` for temporary errors, `DataError` for others."""
    headers = {"User-Agent": "layerwise", "Accept-Encoding": "identity"}
    if held_bytes:
        headers["Range"] = f"bytes={held_bytes}-"
    try:
        return urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            if error.code == 416 and held_bytes:  # the server's file is no longer than the part: begin again
                return _open_url(file, url, 0, timeout)
            if error.code >= 500 or error.code in (408, 416, 425, 429):
                raise ConnectionLostError(f"the server answers {error.code} {error.reason}") from error
            raise DataError(
                f"{url} cannot be fetched: the server answers {error.code} {error.reason}",
                expected=f"the file {file.name}",
                do=MIRROR_HINT,
            ) from error
    except URLError as error:
        if isinstance(error.reason, FileNotFoundError):
            raise DataError(f"{url} is not there", expected=f"the file {file.name}", do="check the mirror") from error
        raise ConnectionLostError(_describe_error(error.reason)) from error


def _find_start(response: Any, held_bytes: int) -> int:
    """Return the byte at which the response begins: a server may ignore the range, and begin at the first."""
    if getattr(response, "status", None) != 206:
        return 0
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {held_bytes}-"):
        raise DataError(
            f"{response.url} was asked for the bytes from {held_bytes} on and answers with others",
            expected=f"Content-Range: bytes {held_bytes}-…",
            received=content_range or "no Content-Range",
            do=MIRROR_HINT,
        )
    return held_bytes


def _copy_body(response: Any, out: Any, start: int, max_bytes: int, advance: Callable[[int], None]) -> int | None:
    """Copy a body, at most one byte past ``max_bytes``; return the size that its header gives, if it does."""
    length = response.headers.get("Content-Length", "")
    position = start
    while position <= max_bytes:
        data = (
            response.read1(min(BLOCK_BYTES, max_bytes + 1 - position))
            if hasattr(response, "read1")
            else response.read(BLOCK_BYTES)
        )
        if not data:
            break
        out.write(data)
        position += len(data)
        advance(position)
    return start + int(length) if length.isdecimal() and len(length) < 20 else None


def _match_version(file: DatasetFile, part: Path) -> FileVersion | None:
    """Return the version that the part matches completely, or None."""
    candidates = [version for version in file.versions if version.size == _get_size(part)]
    digest = _compute_digest(part) if candidates else ""
    return next((version for version in candidates if version.sha256 == digest), None)


def _compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _get_size(path: Path) -> int:
    """Return the size of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def _remove_start(path: Path, count: int) -> None:
    """Remove the first bytes of a file."""
    write_file(path, path.read_bytes()[count:], root=path.parent)


def _remove_part(part: Path) -> None:
    """Remove an unfinished file from the folder that has our marker."""
    remove_inside(part, part.parents[1], KIND)


def _make_mismatch_error(file: DatasetFile, url: str, received: str) -> DataError:
    """Make the error for a complete response that is not the file."""
    return DataError(
        f"{url} is not the file it should be; nothing of it was kept",
        expected=" or ".join(f"{version.size} bytes with SHA-256 {version.sha256}" for version in file.versions),
        received=received,
        do=MIRROR_HINT,
    )


def _make_gave_up_error(file: DatasetFile, url: str, part: Path, reason: str) -> DataError:
    """Make the error for a file that is incomplete after every attempt."""
    held_bytes = _get_size(part)
    return DataError(
        f"{url} could not be fetched: {reason}",
        expected=f"{file.versions[0].size} bytes",
        received=f"{held_bytes} bytes, which are kept" if held_bytes else "nothing",
        do=f"{RESUME_HINT}; or {MIRROR_HINT}"
        if held_bytes
        else f"check the connection and try again; or {MIRROR_HINT}",
    )


def _describe_error(error: object) -> str:
    """Return the reason of a failed connection, in words."""
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@contextmanager
def _translate_disk_errors(partial: Path) -> Iterator[None]:
    """Translate errors of the disk (full, no permission) to `DataError`."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(p for p in partial.parents if p.exists())).free
        raise DataError(
            f"{error.filename or partial} cannot be written: {error.strerror}",
            received=f"{free / 1e6:.0f} MB free",
            do="make room, or set XDG_CACHE_HOME to a folder that can be written",
        ) from error


def _print_line(text: str) -> None:
    """Write a line to standard error."""
    write_line(text, stream=sys.stderr)
    sys.stderr.flush()


@contextmanager
def _show_progress(name: str, total: int) -> Iterator[FileProgressCallback]:
    """Show how much of all files has arrived; yield the callback that takes the bytes of one of them."""
    sizes: dict[str, int] = {}
    with show_byte_progress(name) as show:

        def advance(file: str, size: int) -> None:
            sizes[file] = size
            show(sum(sizes.values()), total)

        yield advance
