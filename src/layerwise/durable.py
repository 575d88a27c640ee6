"""Files that are whole or not there: written beside the old one, flushed to the disk, renamed into place, and vouched for by a checksum.

JSON that carries its own checksum is *sealed*. Tensors are safetensors, written from and read into memory without copies on the way.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from layerwise import strict_json
from layerwise.errors import DamagedError, TrainingError

FORMAT = 1
Json = dict[str, Any]
Tensors = dict[str, Tensor]


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: Json) -> bytes:
    """Return JSON bytes that carry their own checksum."""
    body = {**content, "format": FORMAT}
    return (strict_json.dumps({**body, "checksum": _body_digest(body)}, indent=1) + "\n").encode()


def unsealed(data: bytes, path: Path) -> Json:
    """Read what `sealed` wrote. Raises `DamagedError` if a byte is wrong or the format is newer."""
    try:
        content: Json = strict_json.loads(data)
        as_written = (strict_json.dumps(content, indent=1) + "\n").encode() == data
        checksum = content.pop("checksum")
        fine = as_written and checksum == _body_digest(content)
        version = content["format"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise damaged(path, f"it cannot be read ({type(error).__name__})") from error
    refuse_newer(version, path)
    if not fine:
        raise damaged(path, "its checksum is wrong")
    return content


def refuse_newer(version: Any, path: Path) -> None:
    """Raise `DamagedError` for a file of a newer format."""
    if isinstance(version, int) and version > FORMAT:
        raise DamagedError(
            f"{path} was written by a newer version", expected=f"format {FORMAT}", received=f"format {version}",
            do="update layerwise",
        )  # fmt: skip


def _body_digest(body: Json) -> str:
    """Return the digest of JSON content in canonical form."""
    return digest(strict_json.dumps(body, sort_keys=True).encode())


def damaged(path: Path, why: str) -> DamagedError:
    """Make the error for a damaged file."""
    return DamagedError(
        f"{path} is damaged: {why}", expected="the file as it was written", do=f"layerwise doctor {path.parent} checks every file"
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise TrainingError(
                f"{path} could not be written: {error.strerror}",
                expected="room and permission to write",
                do="free some space and go on with --resume; what was saved before is intact",
            ) from error
        raise


def write(path: Path, data: bytes) -> None:
    """Write a file beside the old one, flush it to the disk, rename it into place. Leaves no litter behind a failure."""
    beside = path.with_name(path.name + ".new")
    with disk_errors(path):
        try:
            flushed(beside, data)
            os.replace(beside, path)
            flush_folder(path.parent)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def flushed(path: Path, data: bytes) -> None:
    """Write bytes and wait until they are on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def contiguous(tensors: Tensors) -> Tensors:
    """Return copies as safetensors wants them: on the CPU, contiguous, none sharing memory with another."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def write_tensors(path: Path, tensors: Tensors) -> str:
    """Write tensors to a safetensors file, straight from where they lie, and flush it. Returns the file's SHA-256.

    Raises `OSError` where the disk refuses.
    """
    with like_any_file(path):
        safetensors.torch.save_file(_apart(tensors), path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return digest_of(path)


@contextmanager
def like_any_file(path: Path) -> Iterator[None]:
    """Let safetensors write a file inside: whom the system allows may read it, and where the disk refuses, that is an `OSError`.

    The library itself writes beside the path, for the owner alone, renames, and has errors of its own kind.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        yield
    except safetensors.SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    path.chmod(mode)


def _apart(tensors: Tensors) -> Tensors:
    """Return tensors as safetensors wants them; only those that are not so already are copied."""
    found: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    return found


def read_tensors(data: bytes, path: Path) -> Tensors:
    """Read safetensors bytes. Raises `DamagedError` for anything malformed."""
    with _well_formed(path):
        return safetensors.torch.load(data)


def mapped_tensors(path: Path) -> Tensors:
    """Read a safetensors file into tensors that are its pages, mapped (writing to one copies the page). Raises what `read_tensors` does."""
    with _well_formed(path):
        return safetensors.torch.load_file(path)


@contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    """Turn whatever safetensors says of a malformed file into `DamagedError`."""
    try:
        yield
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise damaged(path, f"it is not a safetensors file ({error})") from error
