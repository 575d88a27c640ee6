"""Checksums: JSON that carries its own, and safetensors files, written from and read into memory without copies.

`layerwise.runtime.atomic_io` writes the files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from layerwise.errors import DamagedError
from layerwise.runtime import strict_json
from layerwise.runtime.bounded_decoding import decode_json
from layerwise.runtime.in_place_io import create_for_library

FORMAT = 1
Json = dict[str, Any]
Tensors = dict[str, Tensor]


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dump_checksummed(content: Json) -> bytes:
    """Return content as JSON bytes that carry their own checksum."""
    body = {**content, "format": FORMAT}
    return (strict_json.dumps({**body, "checksum": _digest_body(body)}, indent=1) + "\n").encode()


def load_checksummed(data: bytes, path: Path) -> Json:
    """Read what `dump_checksummed` wrote. Raises `DamagedError` if a byte is wrong, it nests too deep, or the format is
    newer."""
    try:
        content: Json = decode_json(data, what=str(path), error=DamagedError)
        is_unchanged = (strict_json.dumps(content, indent=1) + "\n").encode() == data
        checksum = content.pop("checksum")
        is_intact = is_unchanged and checksum == _digest_body(content)
        version = content["format"]
    except DamagedError as error:
        raise make_damaged_error(path, f"it cannot be read ({error.received or error.what})") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise make_damaged_error(path, f"it cannot be read ({type(error).__name__})") from error
    refuse_newer(version, path)
    if not is_intact:
        raise make_damaged_error(path, "its checksum is wrong")
    return content


def refuse_newer(version: Any, path: Path) -> None:
    """Raise `DamagedError` for a file of a newer format."""
    if isinstance(version, int) and version > FORMAT:
        raise DamagedError(
            f"{path} was written by a newer version",
            expected=f"format {FORMAT}",
            received=f"format {version}",
            do="update layerwise",
        )


def _digest_body(body: Json) -> str:
    """Return the digest of JSON content in canonical form."""
    return digest(strict_json.dumps(body, sort_keys=True).encode())


def make_damaged_error(path: Path, why: str) -> DamagedError:
    """Return the error for a damaged file; for a run's file it names the command that checks all of them."""
    run = next((folder for folder in path.parents if (folder / "run.json").exists()), None)
    do = "bring the file back from a copy" if run is None else f"layerwise doctor {run} checks every file"
    return DamagedError(f"{path} is damaged: {why}", expected="the file as it was written", do=do)


def copy_contiguous(tensors: Tensors) -> Tensors:
    """Return copies as safetensors needs them: on the CPU, contiguous, none sharing memory with another."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def write_tensors(path: Path, tensors: Tensors) -> str:
    """Write tensors to a safetensors file of an unfinished folder of our own, without copies, and flush it. Return the
    file's SHA-256.

    Raises `OSError` where the disk refuses.
    """
    with create_for_library(path, root=path.parent), convert_safetensors_errors(path):
        safetensors.torch.save_file(_make_contiguous(tensors), path)
    return digest_file(path)


@contextmanager
def convert_safetensors_errors(path: Path) -> Iterator[None]:
    """Raise `OSError` where the disk refuses what safetensors writes in the block: the library has errors of its
    own."""
    try:
        yield
    except safetensors.SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _make_contiguous(tensors: Tensors) -> Tensors:
    """Return tensors as safetensors needs them, on the CPU and contiguous; copy only those that are not so already."""
    contiguous: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage().data_ptr()
        contiguous[name] = plain.clone() if memory in seen else plain
        seen.add(memory)
    return contiguous


def find_nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor that holds a NaN or an infinity; the empty text if none does."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), "")


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a dense tensor are finite. Takes no memory beside it for float64, float32, float16 and
    bfloat16."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    extremes = torch.aminmax(
        plain if plain.element_size() > 1 else plain.float()
    )  # NaN goes through both; few functions know eight bits
    return bool(torch.stack(extremes).isfinite().all())


def read_tensors(data: bytes, path: Path) -> Tensors:
    """Read safetensors bytes. Raises `DamagedError` for anything malformed."""
    with _convert_format_errors(path):
        return safetensors.torch.load(data)


def map_tensors(path: Path) -> Tensors:
    """Map a safetensors file into memory as tensors (writing to one copies the page). Raises what `read_tensors`
    does."""
    with _convert_format_errors(path):
        return safetensors.torch.load_file(path)


@contextmanager
def _convert_format_errors(path: Path) -> Iterator[None]:
    """Raise `DamagedError` for any error of safetensors in the block."""
    try:
        yield
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise make_damaged_error(path, f"it is not a safetensors file ({error})") from error
