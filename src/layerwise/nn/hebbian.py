"""Modules for Hebb's rule: linear units over centered inputs, and a fully connected net.

Shape letters: ``N`` examples, ``D`` inputs, ``K`` units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.functional.hebb import hopfield_recall


class LinearUnits(nn.Module):
    """y = W(x − m), and back: x̂ = Wᵀy + m. The mean m of the inputs is learned too.

    With ``directions`` the reconstruction scales each row of W to length 1, for a rule under which lengths grow without
    bound.
    """

    def __init__(self, features: int, units: int, *, directions: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(units, features), dim=1))  # (K, D)
        self.mean = nn.Parameter(torch.zeros(features))  # m (D,)
        self.directions = directions

    def center(self, inputs: Tensor) -> Tensor:
        """Return the inputs (N, …) flattened, less the mean, (N, D)."""
        return inputs.flatten(1) - self.mean

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reconstruction of inputs (N, …), (N, D)."""
        w = to_unit_rows(self.weight) if self.directions else self.weight
        out: Tensor = F.linear(self.center(inputs), w) @ w + self.mean
        return out


def to_unit_rows(weight: Tensor) -> Tensor:
    """Return each row (K, D) at length 1, also where its square would overflow; a row of zeros stays."""
    largest = weight.abs().amax(1, keepdim=True)
    return F.normalize(weight / torch.where(largest > 0, largest, 1.0), dim=1)


class Hopfield(nn.Module):
    """``D`` units of state −1 or +1, each connected to every other by symmetric weights; recalls stored patterns
    (Hopfield 1982)."""

    def __init__(self, features: int, threshold: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, features))  # (D, D), zero diagonal
        self.threshold = threshold

    def to_states(self, inputs: Tensor) -> Tensor:
        """Return inputs (N, …) as states (N, D): +1 where the input reaches the threshold, else −1."""
        x = inputs.flatten(1)
        return torch.where(x >= self.threshold, 1.0, -1.0).to(x.dtype)

    def recall(self, states: Tensor) -> Tensor:
        """Return the stable states (N, D) that the net reaches."""
        return hopfield_recall(states, self.weight.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the patterns that the net recalls from inputs (N, …), as zeros and ones, (N, D)."""
        return (self.recall(self.to_states(inputs)) + 1) / 2
