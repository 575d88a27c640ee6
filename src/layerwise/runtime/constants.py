"""Small tensors of numbers that never change, made once for a device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept serves training too
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor, (len(values),), that must not be changed.

    Made anew in every step, it would be copied to the device and the copy waited for, behind all that the device has
    still to do.
    """
    return torch.tensor(values, dtype=dtype, device=device)
