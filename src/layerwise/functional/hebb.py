"""Learning by co-occurrence (E10): ``N`` examples, ``D`` inputs, ``K`` units or ``D`` units of one recurrent net.

W is (K, D), unit by input. Sources: D. O. Hebb, The organization of behavior (1949); E. Oja, A simplified neuron model
as a principal component analyzer (1982); T. D. Sanger, Optimal unsupervised learning in a single-layer linear
feedforward neural network (1989); J. J. Hopfield, Neural networks and physical systems with emergent collective
computational abilities (1982); L. Personnaz, I. Guyon, G. Dreyfus, Collective computational properties of neural
networks (1986); D. J. Amit, H. Gutfreund, H. Sompolinsky, Storing infinite numbers of patterns in a spin-glass model of
neural networks (1985).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

DEPENDENT = 1e-9  # of ‖x‖²: the residue of a pattern in the span of the earlier ones, from rounding


def hebb(x: Tensor, y: Tensor) -> Tensor:
    """Return Σₙ yₙ xₙᵀ (K, D), Hebb's change for η = 1 (E10): x (N, D), y (N, K). A sum, so that windows and ranks add
    up."""
    return y.T @ x


def oja(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return Oja's change for η = 1, summed over examples, (K, D) (E10): Σₙ y (x − y w) for a single unit.

    Of several units each sees what those before it leave over (Sanger 1989): Δw_k = y_k (x − Σ_{j≤k} y_j w_j), so that
    they become the principal components in their order.

    Args:
        x: centered inputs (N, D).
        y: the units' outputs x Wᵀ (N, K).
        weights: W (K, D).
    """
    return y.T @ x - torch.tril(y.T @ y) @ weights


def hopfield_weights(x: Tensor) -> Tensor:
    """Return Σₙ xₙ xₙᵀ (D, D) without its diagonal: Hebb's rule between the units of one net (Hopfield 1982); x (N, D)
    in {−1, +1}."""
    return hebb(x, x).fill_diagonal_(0)


def extend_projection(projection: Tensor, x: Tensor) -> Tensor:
    """Return the projection onto a span and one more pattern: P + r rᵀ/‖r‖², r = x − P x (Personnaz, Guyon & Dreyfus
    1986).

    From P = 0, pattern after pattern, this ends at X⁺X with the patterns as rows of X, in whatever order they come. A
    pattern of the span changes nothing.

    Args:
        projection: P (D, D), symmetric; float64, since errors add up.
        x: one pattern (D,).
    """
    rest = x - projection @ x
    length = rest @ rest
    if float(length) <= DEPENDENT * float(x @ x):
        return projection
    return projection + torch.outer(rest, rest) / length


def hopfield_energy(states: Tensor, weights: Tensor) -> Tensor:
    """Return E = −½ sᵀ W s for each state (Hopfield 1982): s (N, D), W (D, D) give (N,)."""
    return -0.5 * ((states @ weights) * states).sum(1)


def hopfield_recall(states: Tensor, weights: Tensor) -> Tensor:
    """Return the stable states of a Hopfield net, (N, D).

    One unit at a time takes the sign of its input h = W s: the one whose flip lowers the energy most, by 2|h|, until no
    flip does. A unit whose input is 0 keeps its state. The energy falls with each flip, so this ends.

    Args:
        states: s (N, D) in {−1, +1}.
        weights: W (D, D), symmetric, with zero diagonal.
    """
    s = states.clone()
    h = s @ weights  # (N, D), updated flip by flip
    if not s.numel() or s.is_meta:  # no state, or a meta tensor, of which only the shape matters
        return s
    # rounding error of an input that is 0
    least = 4 * s.shape[1] * torch.finfo(s.dtype).eps * float(weights.abs().max())
    rows = torch.arange(len(s), device=s.device)
    while len(rows):
        gain, unit = (-h[rows] * s[rows]).max(1)
        rows, unit = rows[gain > least], unit[gain > least]
        s[rows, unit] *= -1
        h[rows] += 2 * s[rows, unit, None] * weights[unit]
    return s


class Capacity(NamedTuple):
    """The retrieval states of a large Hopfield net under Hebb's rule: loads α = P/D, and the overlap m with the pattern
    at each."""

    loads: Tensor
    overlaps: Tensor

    @property
    def critical(self) -> float:
        """The largest load at which patterns are retrieved, α_c ≈ 0.138."""
        return float(self.loads.max())


def hopfield_capacity(points: int = 400) -> Capacity:
    """Return the overlap against the load in the limit of many units, without noise (Amit, Gutfreund & Sompolinsky
    1985).

    m = erf(y), where y(√(2α) + (2/√π) e^{−y²}) = erf(y); solved for α, with y falling from where m is nearly 1 to where
    α is largest. Beyond it the equation has no solution with m > 0 that is stable.
    """
    y = torch.linspace(6.0, 0.5, points * 8, dtype=torch.float64)
    loads = 0.5 * (torch.erf(y) / y - 2 / math.sqrt(math.pi) * torch.exp(-(y**2))) ** 2
    end = int(loads.argmax()) + 1
    selected = torch.unique(torch.linspace(0, end - 1, points).long())
    return Capacity(loads[selected], torch.erf(y)[selected])
