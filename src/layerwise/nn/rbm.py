"""The restricted Boltzmann machine as a module (E13).

Shape letters: ``N`` examples, ``D`` visible and ``H`` hidden units. Source: Smolensky 1986; Hinton 2002.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.functional.rbm import free_energy, visible_probability


class RBM(nn.Module):
    """Binary units with energy E(v,h) = −aᵀv − bᵀh − hᵀWv (W is (H, D), as in ``nn.Linear``)."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, visible) * 0.01)  # (H, D)
        self.visible_bias = nn.Parameter(torch.zeros(visible))  # a (D,)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))  # b (H,)

    def hidden_input(self, v: Tensor) -> Tensor:
        """Return Wv + b, (N, H): the hidden units' total input."""
        return F.linear(v, self.weight, self.hidden_bias)

    def hidden(self, v: Tensor) -> Tensor:
        """Return p(h = 1 | v) = σ(Wv + b), (N, H)."""
        return torch.sigmoid(self.hidden_input(v))

    def visible(self, h: Tensor) -> Tensor:
        """Return p(v = 1 | h) = σ(Wᵀh + a), (N, D)."""
        return visible_probability(h, weights=self.weight, visible_bias=self.visible_bias)

    def free_energy(self, v: Tensor) -> Tensor:
        """Return F(v) = −aᵀv − Σ softplus(Wv + b), (N,)."""
        return free_energy(v, weights=self.weight, visible_bias=self.visible_bias, hidden_bias=self.hidden_bias)

    def forward(self, v: Tensor) -> Tensor:
        """Return the mean-field reconstruction p(v | h = p(h | v)), (N, D)."""
        return self.visible(self.hidden(v))


class RecognitionDelta(nn.Module):
    """The difference between an RBM's recognition and generative weights: ΔW (H, D) and Δb (H,), initially zero.

    Untied from the generative weights as in Hinton, Osindero & Teh 2006, section 5.
    """

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden, visible))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, v: Tensor, rbm: RBM) -> Tensor:
        """Return σ((W + ΔW)v + b + Δb), (N, H), of visible units (N, D)."""
        return torch.sigmoid(F.linear(v, rbm.weight + self.weight, rbm.hidden_bias + self.bias))


class Boltzmann(Protocol):
    """What the contrastive rule trains: a machine, and a map from inputs to its visible units."""

    def machine(self) -> RBM:
        """The machine whose weights change."""
        ...

    def to_visible(self, inputs: Tensor) -> Tensor:
        """Return the states of the machine's visible units for the inputs, (N, D) in [0, 1]."""
        ...


class HasParts(Protocol):
    """A model that is trained part by part: a stage names the part."""

    def parts(self) -> tuple[str, ...]:
        """The parts' names, in the order in which they are trained."""
        ...

    def part(self, name: str) -> nn.Module:
        """Return a module that shares parameters with the model and maps inputs to the part's outputs."""
        ...
