"""Batch normalization (E18): each channel brought to mean β and deviation γ. Networks use torch's own kernels
(`nn.BatchNorm1d/2d`).

``N`` examples, ``C`` channels (units of a dense layer), and positions where there are any. Source: S. Ioffe, C.
Szegedy, Batch normalization, ICML (2015).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """A mean and a variance for each channel, both (C,)."""

    mean: Tensor
    variance: Tensor


def batch_moments(x: Tensor, *, unbiased: bool = False) -> Moments:
    """Return μ_B and σ²_B of each channel over examples and positions: x (N, C, …). Divides by n, or by n − 1 if
    ``unbiased``."""
    rows = x.transpose(0, 1).flatten(1)  # (C, N · positions)
    return Moments(rows.mean(1), rows.var(1, correction=1 if unbiased else 0))


def normalize(x: Tensor, moments: Moments, *, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return γ(x−μ)/√(σ²+ε) + β (E18), as x: in training with `batch_moments`, at inference with the running ones.

    Args:
        x: (N, C, …).
        moments: μ and σ² (C,).
        weight: γ (C,).
        bias: β (C,).
        eps: ε.
    """
    along = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance, scale, shift = (t.view(along) for t in (*moments, weight, bias))
    return scale * (x - mean) / (variance + eps).sqrt() + shift


def update_running_moments(old: Moments, x: Tensor, *, momentum: float = 0.1) -> Moments:
    """Return the running statistics after a training batch: (1−m)·old + m·new, the new variance unbiased, as in torch
    (E18)."""
    new = batch_moments(x, unbiased=True)
    return Moments(*((1 - momentum) * before + momentum * current for before, current in zip(old, new, strict=True)))


class Affine(NamedTuple):
    """The weight (K, …) and bias (K,) of a convolution or dense layer of K outputs."""

    weight: Tensor
    bias: Tensor


def fold_batch_norm(layer: Affine, moments: Moments, *, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Affine:
    """Return the layer that equals, at inference, the given layer followed by a batch norm (E18).

    γ(Wx + b − μ)/√(σ²+ε) + β = W′x + b′ with s = γ/√(σ²+ε), W′ = sW by output and b′ = s(b − μ) + β.

    Args:
        layer: W (K, …) and b (K,) of the layer before the norm.
        moments: the running μ and σ² (K,).
        weight: γ (K,).
        bias: β (K,).
        eps: ε.
    """
    scale = weight / (moments.variance + eps).sqrt()
    along = (-1,) + (1,) * (layer.weight.ndim - 1)
    return Affine(layer.weight * scale.view(along), (layer.bias - moments.mean) * scale + bias)
