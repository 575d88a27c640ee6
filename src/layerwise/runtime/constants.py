"""Small tensors of numbers that never change, made once for a device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensors serve training too
def get_constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a cached tensor, (len(values),), that must not be changed.

    A new tensor in every step would be copied to the device, and the step would wait for the copy, behind all the work
    that the device has still to do.
    """
    return torch.tensor(values, dtype=dtype, device=device)
