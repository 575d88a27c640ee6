"""Before learning: the McCulloch–Pitts neuron (1943).

W. S. McCulloch and W. Pitts, A logical calculus of the ideas immanent in nervous activity, Bull. Math. Biophysics 5,
115–133.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.functional import neuron
from layerwise.registry import register

Gate = Literal["and", "or", "not", "nand", "nor", "xor"]


class MCPNeuron(nn.Module):
    """Fixed weights and threshold: y = 1 if Σ wᵢxᵢ ≥ θ else 0, xᵢ ∈ {0, 1} (E01). Nothing to learn: no parameters."""

    weights: Tensor
    threshold: Tensor

    def __init__(self, weights: list[float], threshold: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (N, D) of zeros and ones to (N, 1)."""
        return neuron.mcp(x, self.weights, self.threshold)[:, None]


class MCPNet(nn.Module):
    """Two layers of McCulloch–Pitts neurons: the second sees the outputs of the first."""

    def __init__(self, first: list[MCPNeuron], second: MCPNeuron) -> None:
        super().__init__()
        self.first = nn.ModuleList(first)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (N, D) of zeros and ones to (N, 1)."""
        hidden: Tensor = torch.cat([neuron(x) for neuron in self.first], 1)  # (N, neurons)
        out: Tensor = self.second(hidden)
        return out


def make_neuron(gate: Gate, inputs: int) -> MCPNeuron:
    """Return the one neuron that computes a gate over all its inputs."""
    weights_and_threshold: dict[str, tuple[float, float]] = {
        "and": (1.0, inputs),
        "or": (1.0, 1.0),
        "not": (-1.0, 0.0),
        "nand": (-1.0, 1.0 - inputs),
        "nor": (-1.0, 0.0),
    }
    weight, threshold = weights_and_threshold[gate]
    return MCPNeuron([weight] * inputs, threshold)


@register(
    "mcp",
    family="history",
    tasks=("classification",),
    rule=None,
    year=1943,
    paper="McCulloch & Pitts, A logical calculus of the ideas immanent in nervous activity, 1943",
    summary="McCulloch–Pitts neuron: logic from fixed weights and a threshold; learns nothing",
    summary_zh="麦卡洛克-皮茨神经元：固定权重与阈值实现逻辑，不学习",
    parameters=0,
    small={"gate": "xor"},
    aliases=("mcculloch-pitts",),
    why="its weights and threshold are fixed by hand: the paper of 1943 has no learning rule. A network that "
    "learns the same "
    "functions is `perceptron` (1958), or `mlp` for XOR",
    why_zh="它的权重和阈值由人设定：1943 年的论文没有学习规则。能学会同样函数的网络是 `perceptron`（1958），"
    "异或则用 `mlp`",
)
def mcp(*, gate: Gate = "and", inputs: int = 2) -> nn.Module:
    """Build the neuron of a logic gate; ``xor`` is a net of two layers: (x₁ OR x₂) AND (x₁ NAND x₂).

    Raises `UsageError` for a number of inputs that the gate does not have.
    """
    if (gate == "not" and inputs != 1) or (gate == "xor" and inputs != 2) or inputs < 1:
        raise UsageError(
            f"the gate '{gate}' has no form with {inputs} inputs",
            expected="model.inputs=1 for not, 2 for xor, at least 1 for the others",
        )
    if gate == "xor":
        return MCPNet([make_neuron("or", 2), make_neuron("nand", 2)], make_neuron("and", 2))
    return make_neuron(gate, inputs)
