"""Boltzmann machines: the restricted one, and the deep belief network that stacks them.

``N`` examples, ``D`` visible, ``H`` hidden units. G. E. Hinton, S. Osindero, Y.-W. Teh, A fast learning algorithm for
deep belief nets, Neural Computation 18 (2006); G. E. Hinton, R. R. Salakhutdinov, Science 313 (2006). The one idea:
learn a model of the inputs layer by layer, without labels; then fine-tune the whole by backpropagation. Fine-tuning
changes the upward pass only: each layer then has recognition weights W + ΔW, while its machine keeps its generative W,
so the net can still generate samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerwise.errors import make_unknown_name_error
from layerwise.nn.rbm import RBM, RecognitionDelta
from layerwise.recipe import PositiveInt
from layerwise.registry import register


class FlatRBM(RBM):
    """A restricted Boltzmann machine over flattened inputs, trained as a whole."""

    def machine(self) -> RBM:
        """Return the machine whose weights change: this one."""
        return self

    def to_visible(self, inputs: Tensor) -> Tensor:
        """Return the inputs flattened, (N, D)."""
        return inputs.flatten(1)

    def forward(self, v: Tensor) -> Tensor:
        """Return the reconstruction of inputs (N, …), (N, D)."""
        return super().forward(v.flatten(1))


class GreedyLayer(nn.Module):
    """One layer of a deep belief network in its greedy stage: the layers below are fixed and compute its inputs."""

    def __init__(self, below: list[RBM], rbm: RBM) -> None:
        super().__init__()
        self.below = nn.ModuleList(below)
        self.rbm = rbm

    def machine(self) -> RBM:
        """Return the machine whose weights change: the topmost."""
        return self.rbm

    def to_visible(self, inputs: Tensor) -> Tensor:
        """Return p(h | v) of the layers below, (N, D of this layer)."""
        x = inputs.flatten(1)
        for rbm in self.below:
            x = rbm.hidden(x)  # type: ignore[operator]
        return x

    def forward(self, inputs: Tensor) -> Tensor:
        """Go up to this layer and down again: the reconstruction of the inputs, (N, D of the inputs)."""
        x = self.rbm.hidden(self.to_visible(inputs))
        for rbm in (self.rbm, *reversed(self.below)):
            x = rbm.visible(x)  # type: ignore[operator]
        return x


class DeepBeliefNet(nn.Module):
    """A stack of restricted Boltzmann machines, the upward pass through them, and a softmax layer."""

    def __init__(self, features: int, classes: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = (features, *hidden)
        self.rbms = nn.ModuleList(RBM(a, b) for a, b in zip(widths, hidden, strict=False))
        self.upward = nn.ModuleList(RecognitionDelta(a, b) for a, b in zip(widths, hidden, strict=False))
        self.head = nn.Linear(widths[-1], classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def parts(self) -> tuple[str, ...]:
        """Return the names of the greedy parts, from the bottom up: ``layer-1`` … ``layer-L``."""
        return tuple(f"layer-{i + 1}" for i in range(len(self.rbms)))

    def part(self, name: str) -> nn.Module:
        """Return the greedy view of a layer."""
        names = self.parts()
        if name not in names:
            raise make_unknown_name_error("part", name, names, where="this deep belief network")
        index = names.index(name)
        stack = [rbm for rbm in self.rbms if isinstance(rbm, RBM)]
        return GreedyLayer(stack[:index], stack[index])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, …) to logits (N, K): upwards by the recognition weights, then the linear layer."""
        x = inputs.flatten(1)
        for rbm, recognition in zip(self.rbms, self.upward, strict=True):
            x = recognition(x, rbm)
        logits: Tensor = self.head(x)
        return logits


@torch.no_grad()
def sample(stack: list[RBM], count: int, *, steps: int, generator: torch.Generator) -> Tensor:
    """Draw visible probabilities (count, D): Gibbs sampling in the top machine from random states, then one pass
    down."""
    top = stack[-1]
    h = torch.rand(count, top.hidden_bias.shape[0], generator=generator).round()
    for _ in range(steps):
        v = torch.bernoulli(top.visible(h), generator=generator)
        h = torch.bernoulli(top.hidden(v), generator=generator)
    x = top.visible(h)
    for rbm in reversed(stack[:-1]):
        x = rbm.visible(torch.bernoulli(x, generator=generator))
    return x


def list_rbms(model: nn.Module) -> list[RBM]:
    """Return the machines of an rbm or dbn from the bottom up; empty for other models."""
    if isinstance(model, DeepBeliefNet):
        return [rbm for rbm in model.rbms if isinstance(rbm, RBM)]
    return [model] if isinstance(model, RBM) else []


@register(
    "rbm",
    family="boltzmann",
    tasks=("reconstruction",),
    rule="contrastive",
    year=1986,
    paper="Smolensky, Harmony theory, 1986; Hinton, Training products of experts by minimizing contrastive "
    "divergence, 2002",
    summary="restricted Boltzmann machine: a generative model of binary inputs, learned by contrastive divergence",
    summary_zh="受限玻尔兹曼机：二值输入的生成模型，用对比散度学习",
    parameters=201744,
    size={"features": 784, "hidden": 256},
    small={"features": 16, "hidden": 8},
    recipe={
        "task": {"scale": "unit"},
        "stages": [{"epochs": 10, "batch_size": 128, "rule": {"lr": 0.05}}],
        "variants": {"small": {"stages": [{"epochs": 60, "batch_size": 16, "rule": {"lr": 0.1}}]}},
    },
)
def rbm(*, features: PositiveInt, hidden: PositiveInt = 256) -> nn.Module:
    """Build the machine: inputs (N, …) in [0, 1] to their reconstruction (N, features)."""
    return FlatRBM(features, hidden)


@register(
    "dbn",
    family="boltzmann",
    tasks=("classification",),
    rule="backprop",
    year=2006,
    paper="Hinton, Osindero & Teh, A fast learning algorithm for deep belief nets, 2006",
    summary="deep belief network: layers learned one by one without labels, then fine-tuned with a few",
    summary_zh="深度置信网络：先逐层无监督预训练，再用少量标签微调",
    parameters=1793794,
    size={"features": 784, "classes": 10},
    small={"features": 16, "classes": 3, "hidden": [12, 8]},
    recipe={
        "task": {"scale": "unit"},
        "model": {"hidden": [500, 500, 500]},
        "stages": [
            {
                "name": "pretrain",
                "part": "*",
                "task": {"name": "reconstruction"},
                "epochs": 10,
                "batch_size": 128,
                "rule": {"name": "contrastive", "lr": 0.05, "persistent": False},
            },
            {
                "name": "fine-tune",
                "examples": 10000,
                "epochs": 30,
                "batch_size": 64,
                "parameters": ["upward.*", "head.*"],
                "rule": {"name": "backprop", "lr": 0.001, "schedule": "cosine", "final_lr_ratio": 0.02},
            },
        ],
        "variants": {
            "small": {
                "model": {"hidden": [200, 200]},
                "stages": [
                    {"epochs": 40, "batch_size": 16, "rule": {"lr": 0.4}},
                    {"batch_size": 16, "rule": {"lr": 0.003}},
                ],
            },
        },
    },
)
def dbn(*, features: PositiveInt, classes: PositiveInt, hidden: tuple[PositiveInt, ...] = (500, 500, 500)) -> nn.Module:
    """Build the network: inputs (N, …) in [0, 1] to logits (N, classes)."""
    return DeepBeliefNet(features, classes, hidden)
