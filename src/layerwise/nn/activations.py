"""Activations as modules, by name.

They are torch's own (softmax with its axis fixed); tests hold them equal to `layerwise.functional.activations`.
"""

from __future__ import annotations

from torch import Tensor, nn

from layerwise.errors import unknown


class Softmax(nn.Module):
    """Softmax over units (E04): inputs (N, K), or over the maps at each place: (N, C, H, W). Has no weights."""

    def forward(self, z: Tensor) -> Tensor:
        """Return e^{zᵢ}/Σⱼ e^{zⱼ} along axis 1, in z's shape."""
        return z.softmax(1)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softmax": Softmax,
    "linear": nn.Identity,
    "leaky-relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


def activation(name: str) -> nn.Module:
    """Return the activation of this name (E04, E05), or raise `UsageError` with the nearest.

    ``prelu`` brings one learned slope for the whole layer, ¼ at first (He et al., 2015); penalties on weights leave it
    out.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
