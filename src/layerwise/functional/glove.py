from __future__ import annotations
from torch import Tensor
def weight(x: Tensor, *, x_max: float, alpha: float) -> Tensor:
    return (x / x_max).clamp_max(1) ** alpha
