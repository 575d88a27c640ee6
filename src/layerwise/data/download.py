"""Named data sets from the network into the user's cache: resumable, checked, whole or not there at all.

Files are fetched one by one into a folder beside the cache's sets, each as ``NAME.part`` until its SHA-256 is
that of a whole file. When every file is there the folder is renamed to its place, so that a reader sees all of
the set or nothing. One process fetches a set at a time; the others wait for it. Nothing that a server says
about lengths is believed: sizes and digests are the table's (`addresses`).
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

from layerwise.atomic_io import make_folder, open_own, rename_own, write_file
from layerwise.data.addresses import File, Form
from layerwise.errors import DataError, UsageError
from layerwise.folder_io import check_folder_target, hold_lock, put_folder
from layerwise.owned_folders import holds_nothing, is_owned, make_owned, mark_owned, remove_inside
from layerwise.text_display import show_byte_progress, write_line

KIND = "downloads"  # of folder
MIRROR = "LAYERWISE_MIRROR"
SCHEMES = ("http", "https", "file")
BLOCK = 1 << 16
AGAIN = "run the same command again: it goes on from there"
OTHER = f"try a mirror: --mirror URL, or {MIRROR} in the environment"
Advance = Callable[[str, int], None]  # the file's name, and how many of its bytes are here


class Lost(Exception):
    """The connection broke off, or the server was not able to answer now."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for bytes, in seconds, how often to try without any progress, how long to wait between."""

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0


def fetch_set(
    name: str,
    files: tuple[File, ...],
    cache: Path,
    *,
    mirror: str = "",
    patience: Patience | None = None,
    by_hand: str = "",
) -> Path:
    """Return the folder ``cache/NAME`` of a data set, fetched if it is not there.

    Args:
        mirror: an address that has the files as ``MIRROR/NAME/FILE``; else `LAYERWISE_MIRROR`; else each
            file's own address is asked.
        by_hand: what a user can do where no address is known.

    Raises:
        UsageError: for a mirror that is no http, https or file address.
        DataError: where no address is known, or a file cannot be fetched whole; what was fetched stays and is
            taken up again.
    """
    target = cache / name
    if target.is_dir():
        return target
    urls = _addresses(name, files, mirror or os.environ.get(MIRROR, ""), by_hand)
    partial = _place(cache) / name
    with _disk(partial):
        make_folder(partial, root=cache)
        with _locked(partial, name):
            if not target.is_dir():
                _fetch_files(files, urls, partial, patience or Patience())
                put_folder(partial, target, KIND)
    return target


def _place(cache: Path) -> Path:
    """Return the folder for what is on its way, made with our marker: what is in it may be removed again."""
    place = cache / ".partial"
    with _disk(place):
        make_folder(cache)
        if not place.exists():
            with suppress(FileExistsError):  # another process was first
                make_owned(place, KIND)
        if not is_owned(place, KIND) and not place.is_symlink() and place.is_dir() and holds_nothing(place):
            with suppress(FileExistsError):  # a kill came before the marker, or another process is about to write it
                mark_owned(place, KIND)
    check_folder_target(place, KIND, replace=True)
    return place


@contextmanager
def _locked(partial: Path, name: str) -> Iterator[None]:
    """Hold the lock of a set's folder; say so where another process has it first."""
    lock = partial.with_name(name + ".lock")
    with hold_lock(lock, wait=False, root=partial.parent) as held:
        if held:
            yield
            return
    _say(f"another process is fetching {name}; waiting for it")
    with hold_lock(lock, wait=True, root=partial.parent):
        yield


def _addresses(name: str, files: tuple[File, ...], mirror: str, by_hand: str) -> list[str]:
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
            do="; or ".join(filter(None, (by_hand, OTHER))),
        )
    return [file.url for file in files]


def _fetch_files(files: tuple[File, ...], urls: list[str], folder: Path, patience: Patience) -> None:
    """Bring every file of a set into a folder, whole."""
    total = sum(file.forms[0].size for file in files)
    _say(f"fetching {folder.name} ({total / 1e6:.1f} MB) from {urls[0].rpartition('/')[0]}")
    with _progress(folder.name, total) as advance:
        for file, url in zip(files, urls, strict=True):
            _fetch_file(file, url, folder, patience, advance)


def _fetch_file(file: File, url: str, folder: Path, patience: Patience, advance: Advance) -> None:
    """Bring one file into the folder, whole, going on from a part that is there."""
    done, part = folder / file.name, folder / (file.name + ".part")
    if done.exists():  # verified before it got this name
        advance(file.name, done.stat().st_size)
        return
    started = _size(part)  # bytes of an earlier attempt, which may be of another file
    form = _attempts(file, url, part, patience, advance)
    if form is None and started:
        _drop(part)
        form = _attempts(file, url, part, patience, advance)
    if form is None:
        size, digest = _size(part), _digest(part)
        _drop(part)
        raise _wrong(file, url, f"{size} bytes with SHA-256 {digest}")
    if form.lead:
        _cut(part, len(form.lead.encode()))
    rename_own(part, done, root=folder)


def _attempts(file: File, url: str, part: Path, patience: Patience, advance: Advance) -> Form | None:
    """Fetch until a body ends; return the form in which the file is whole, or None if it is none of them.

    Broken connections are taken up again, as long as bytes come; without any, a few times.
    """
    left = patience.attempts
    while True:
        before = _size(part)
        try:
            _body(file, url, part, patience.timeout, advance)
            return _whole(file, part)
        except Lost as error:
            left = patience.attempts if _size(part) > before else left - 1
            if left <= 0:
                raise _gave_up(file, url, part, str(error)) from error
        time.sleep(patience.pause * (patience.attempts - left))


def _body(file: File, url: str, part: Path, timeout: float, advance: Advance) -> None:
    """Ask for what is missing of a file and append it to the part. Raises `Lost` if it ends too early."""
    sizes = [form.size for form in file.forms]
    held = _size(part)
    if held in sizes and _whole(file, part):
        return
    if held >= max(sizes):
        _drop(part)
        held = 0
    try:
        with _open(file, url, held, timeout) as response:
            start = _start(response, held)
            with open_own(part, root=part.parent, mode="r+b" if start else "wb") as out:
                out.seek(start)
                claimed = _copy(response, out, start, max(sizes), lambda now: advance(file.name, now))
                out.flush()
                os.fsync(out.fileno())
    except (HTTPException, TimeoutError, ConnectionError, ValueError) as error:  # ValueError: an address or a length that is none
        raise Lost(_words(error)) from error
    size = _size(part)
    if size not in sizes and size < max(sizes) and (claimed is None or size < claimed):
        raise Lost(f"the connection broke off after {size} of {sizes[0]} bytes")


def _open(file: File, url: str, held: int, timeout: float) -> Any:
    """Open an address from a byte on. Raises `Lost` for what may pass, `DataError` for what will not."""
    headers = {"User-Agent": "layerwise", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    try:
        return urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            if error.code == 416 and held:  # the server's file is no longer than the part: begin again
                return _open(file, url, 0, timeout)
            if error.code >= 500 or error.code in (408, 416, 425, 429):
                raise Lost(f"the server answers {error.code} {error.reason}") from error
            raise DataError(
                f"{url} cannot be fetched: the server answers {error.code} {error.reason}",
                expected=f"the file {file.name}",
                do=OTHER,
            ) from error
    except URLError as error:
        if isinstance(error.reason, FileNotFoundError):
            raise DataError(f"{url} is not there", expected=f"the file {file.name}", do="check the mirror") from error
        raise Lost(_words(error.reason)) from error


def _start(response: Any, held: int) -> int:
    """Return at which byte the answer begins: a server may ignore the wish, and answer from the first."""
    if getattr(response, "status", None) != 206:
        return 0
    said = response.headers.get("Content-Range", "")
    if not said.startswith(f"bytes {held}-"):
        raise DataError(
            f"{response.url} was asked for the bytes from {held} on and answers with others",
            expected=f"Content-Range: bytes {held}-…",
            received=said or "no Content-Range",
            do=OTHER,
        )
    return held


def _copy(response: Any, out: Any, start: int, most: int, advance: Callable[[int], None]) -> int | None:
    """Copy a body, one byte past ``most`` at the utmost; return at which size its header says it ends, if it does."""
    length = response.headers.get("Content-Length", "")
    now = start
    while now <= most:
        data = response.read1(min(BLOCK, most + 1 - now)) if hasattr(response, "read1") else response.read(BLOCK)
        if not data:
            break
        out.write(data)
        now += len(data)
        advance(now)
    return start + int(length) if length.isdecimal() and len(length) < 20 else None


def _whole(file: File, part: Path) -> Form | None:
    """Return the form of which the part is every byte, or None."""
    fitting = [form for form in file.forms if form.size == _size(part)]
    digest = _digest(part) if fitting else ""
    return next((form for form in fitting if form.sha256 == digest), None)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: Path) -> int:
    """Return the size of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, count: int) -> None:
    """Leave out the first bytes of a file."""
    write_file(path, path.read_bytes()[count:], root=path.parent)


def _drop(part: Path) -> None:
    """Remove a part of another file, from the folder that has our marker."""
    remove_inside(part, part.parents[1], KIND)


def _wrong(file: File, url: str, received: str) -> DataError:
    """Make the error for a whole answer that is not the file."""
    return DataError(
        f"{url} is not the file it should be; nothing of it was kept",
        expected=" or ".join(f"{form.size} bytes with SHA-256 {form.sha256}" for form in file.forms),
        received=received,
        do=OTHER,
    )


def _gave_up(file: File, url: str, part: Path, reason: str) -> DataError:
    """Make the error for a file that did not come whole after every attempt."""
    held = _size(part)
    return DataError(
        f"{url} could not be fetched: {reason}",
        expected=f"{file.forms[0].size} bytes",
        received=f"{held} bytes, which are kept" if held else "nothing",
        do=f"{AGAIN}; or {OTHER}" if held else f"check the connection and try again; or {OTHER}",
    )


def _words(error: object) -> str:
    """Return what a failed connection says, in words."""
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


@contextmanager
def _disk(partial: Path) -> Iterator[None]:
    """Turn what the disk refuses (full, no permission) into an error for users."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(next(p for p in partial.parents if p.exists())).free
        raise DataError(
            f"{error.filename or partial} cannot be written: {error.strerror}",
            received=f"{free / 1e6:.0f} MB free",
            do="make room, or set XDG_CACHE_HOME to a folder that can be written",
        ) from error


def _say(text: str) -> None:
    """Write a line to standard error."""
    write_line(text, stream=sys.stderr)
    sys.stderr.flush()


@contextmanager
def _progress(name: str, total: int) -> Iterator[Advance]:
    """Show how much of all files is here; give what notes the bytes of one of them."""
    sizes: dict[str, int] = {}
    with show_byte_progress(name) as show:

        def advance(file: str, size: int) -> None:
            sizes[file] = size
            show(sum(sizes.values()), total)

        yield advance
