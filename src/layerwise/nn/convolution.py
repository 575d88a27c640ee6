"""What the networks of pictures share: their first weights, and the refusal of pictures too small for them."""

from __future__ import annotations

from torch import nn

from layerwise.errors import UsageError


def large_enough(size: tuple[int, int], least: int) -> None:
    """Raise `UsageError` for pictures (H, W) too small for the poolings."""
    if min(size) < least:
        raise UsageError(
            f"pictures of {size[0]}×{size[1]} are too small for this network",
            expected=f"at least {least}×{least} pixels",
            do=f"set task.size={least} or more to enlarge them, or use fewer layers",
        )


def he_fan_out_(model: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / (outputs · k²)), and set their biases to 0.

    He et al. 2015 (Delving deep into rectifiers), section 2.2: so gradients keep their variance on the way back through ReLUs. Batch
    norms keep torch's own start, γ = 1 and β = 0. Weights on the meta device have no values to draw (and asking for them loads torch's
    compiler, for a second and a half).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
