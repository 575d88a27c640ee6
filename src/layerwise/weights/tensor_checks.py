"""Checks of a file's tensors before use: dense, real, finite, and no larger than the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from layerwise.errors import DamagedError, DataError
from layerwise.runtime.checksums import is_finite

REAL_DTYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
}
SLACK_BYTES = 1 << 20  # bytes that tensors may need beyond twice the file's size


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check tensors by name.

    Raises:
        DataError: for a tensor that is sparse, quantized, complex, nested or without data (meta), and for one that
            repeats its numbers (expanded) so often that it exceeds what the file can hold. It is not materialized.
        DamagedError: for numbers that are NaN or infinite.
    """
    bytes_left = 2 * path.stat().st_size + SLACK_BYTES if path.is_file() else None
    for name, tensor in tensors.items():
        if kind := describe_unusable(tensor):
            raise DataError(
                f"{path}: the tensor '{name}' is {kind}",
                expected="dense tensors of real numbers",
                do="save it as a dense tensor of real numbers" + (": .to_dense()" if "sparse" in kind else ""),
            )
        size = tensor.numel() * tensor.element_size()
        if bytes_left is not None and size > tensor.untyped_storage().nbytes():
            bytes_left -= size
            if bytes_left < 0:
                raise DataError(
                    f"{path}: the tensor '{name}' repeats its numbers, and would take {size:,} bytes",
                    expected="tensors that are stored as they are",
                    received=f"shape {tuple(tensor.shape)}, of {tensor.untyped_storage().nbytes():,} bytes in the file",
                    do="save it with .contiguous(), if it is meant so",
                )
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            bad_count = int((~torch.isfinite(tensor.detach().float())).sum())
            raise DamagedError(
                f"{path}: the tensor '{name}' has numbers that are not finite",
                expected="finite numbers",
                received=f"{bad_count:,} of {tensor.numel():,} are NaN or infinite",
                do="take a checkpoint from before training went wrong",
            )


def describe_unusable(tensor: Tensor) -> str:
    """Return why a tensor is unusable as a weight, in words, or the empty text if it is usable."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"quantized ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_complex():
        return f"complex ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.device.type == "meta":
        return "without data (on the meta device)"
    return "" if tensor.dtype in REAL_DTYPES else f"of packed numbers ({str(tensor.dtype).removeprefix('torch.')})"
