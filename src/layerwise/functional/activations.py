"""Activations f(z), and f′(z) in closed form for the display of backprop (E04, E05, E12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.errors import make_unknown_name_error


def linear(z: Tensor) -> Tensor:
    """Return z itself."""
    return z


def sigmoid(z: Tensor) -> Tensor:
    """Return 1/(1+e^{−z}) (E05), any shape."""
    return torch.sigmoid(z)


def relu(z: Tensor) -> Tensor:
    """Return max(0, z) (E05), any shape."""
    return torch.relu(z)


def tanh(z: Tensor) -> Tensor:
    """Return (eᶻ−e^{−z})/(eᶻ+e^{−z}) (E05), any shape."""
    return torch.tanh(z)


def softmax(z: Tensor) -> Tensor:
    """Return e^{zᵢ}/Σⱼ e^{zⱼ} over the last dimension (E04), (…, K) to (…, K)."""
    return torch.softmax(z, dim=-1)


def leaky_relu(z: Tensor) -> Tensor:
    """Return max(0, z) + 0.01 min(0, z) (Maas et al., 2013), any shape."""
    return F.leaky_relu(z)


def prelu(z: Tensor, slope: Tensor | float = 0.25) -> Tensor:
    """Return max(0, z) + a·min(0, z), the slope a learned (He et al., 2015), any shape.

    Args:
        z: any shape.
        slope: a: a number, or a tensor that broadcasts over z. ∂f/∂a = min(0, z). The paper starts it at ¼.
    """
    return torch.where(z > 0, z, slope * z)


def elu(z: Tensor) -> Tensor:
    """Return z for z > 0, else eᶻ − 1 (Clevert et al., 2015), any shape."""
    return F.elu(z)


def gelu(z: Tensor) -> Tensor:
    """Return z·Φ(z), Φ the normal distribution function (Hendrycks & Gimpel, 2016), any shape."""
    return F.gelu(z)


def silu(z: Tensor) -> Tensor:
    """Return z·σ(z) (Elfwing et al., 2017), any shape."""
    return F.silu(z)


def softplus(z: Tensor) -> Tensor:
    """Return log(1+eᶻ) (Dugas et al., 2000), any shape."""
    return F.softplus(z)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "prelu": prelu,
    "relu": relu,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "tanh": tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation of that name. Raises `UsageError` with the nearest name for an unknown one."""
    if name not in ACTIVATIONS:
        raise make_unknown_name_error("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def derivative(name: str, z: Tensor) -> Tensor:
    """Return f′(z), elementwise in closed form (E12), any shape; at a kink, what torch's gradient takes.

    σ′ = σ(1−σ); tanh′ = 1 − tanh²; ReLU′ = [z > 0]; gelu′ = Φ(z) + zφ(z); silu′ = σ(1 + z(1−σ));
    softplus′ = σ; φ, Φ: the normal density and distribution function; prelu′ is that of slope ¼, where learning starts.
    Softmax is no elementwise function (its derivative is a Jacobian, see `softmax_pullback`) and is refused.
    """
    if name not in DERIVATIVES:
        raise make_unknown_name_error("elementwise activation", name, DERIVATIVES)
    return DERIVATIVES[name](z)


def softmax_pullback(y: Tensor, gradient: Tensor) -> Tensor:
    """Return ∂L/∂z from ∂L/∂y for y = softmax(z) (E12): zᵢ gets yᵢ(gᵢ − Σⱼ gⱼyⱼ), for ∂yⱼ/∂zᵢ = yⱼ([i=j] − yᵢ); both
    (…, K)."""
    return y * (gradient - (gradient * y).sum(-1, keepdim=True))


def _gelu_derivative(z: Tensor) -> Tensor:
    normal = torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
    slope: Tensor = (1 + torch.erf(z / 2**0.5)) / 2 + z * normal
    return slope


def _silu_derivative(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    slope: Tensor = gate * (1 + z * (1 - gate))
    return slope


DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda z: torch.where(z > 0, torch.ones_like(z), z.clamp(max=0).exp()),
    "gelu": _gelu_derivative,
    "leaky_relu": lambda z: torch.where(z > 0, torch.ones_like(z), torch.full_like(z, 0.01)),
    "linear": torch.ones_like,
    "prelu": lambda z: torch.where(z > 0, torch.ones_like(z), torch.full_like(z, 0.25)),
    "relu": lambda z: (z > 0).to(z.dtype),
    "sigmoid": lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
    "silu": _silu_derivative,
    "softplus": torch.sigmoid,
    "tanh": lambda z: 1 - torch.tanh(z).square(),
}
