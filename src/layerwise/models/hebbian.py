"""Networks of Hebb's rule: neurons that find the common direction of their inputs, and a memory that completes
patterns.

D. O. Hebb (1949); E. Oja (1982); J. J. Hopfield (1982). The one idea: a weight grows when its two units are active
together. The rule's variants are in ``rules/hebb.py``, its formulas in ``functional/hebb.py``.
"""

from __future__ import annotations

from torch import nn

from layerwise.nn.hebbian import Hopfield, LinearUnits
from layerwise.recipe import PositiveInt
from layerwise.registry import register


@register(
    "hebbian",
    family="history",
    tasks=("reconstruction",),
    rule="hebb",
    year=1949,
    paper="Hebb, The organization of behavior, 1949",
    summary="one linear neuron under Hebb's plain rule: turns towards what its inputs have in common, and grows "
    "without bound",
    summary_zh="一个线性神经元，按赫布的原始规则学习：转向输入方差最大的方向，权重无界增长",
    parameters=1568,
    size={"features": 784},
    small={"features": 64},
    recipe={
        "task": {"scale": "unit"},
        "stages": [{"epochs": 10, "batch_size": 128, "monitor": "last", "rule": {"variant": "hebb", "lr": 0.001}}],
        "variants": {"small": {"stages": [{"epochs": 20, "batch_size": 64, "rule": {"lr": 0.1}}]}},
    },
)
def hebbian(*, features: PositiveInt) -> nn.Module:
    """Build the neuron: inputs (N, …) to their reconstruction along its weight's direction (N, features)."""
    return LinearUnits(features, 1, directions=True)


@register(
    "oja",
    family="history",
    tasks=("reconstruction",),
    rule="hebb",
    year=1982,
    paper="Oja, A simplified neuron model as a principal component analyzer, 1982",
    summary="Oja's neuron: Hebb's rule with forgetting; its weight becomes the first principal component (several: "
    "the first few)",
    summary_zh="Oja 神经元：带遗忘项的赫布规则，权重收敛到第一主成分（多个单元则为前几个）",
    parameters=1568,
    size={"features": 784},
    small={"features": 64, "units": 2},
    recipe={
        "task": {"scale": "unit"},
        "stages": [
            {
                "epochs": 10,
                "batch_size": 128,
                "monitor": "last",
                "rule": {"variant": "oja", "lr": 0.02, "schedule": "cosine"},
            },
        ],
        "variants": {"small": {"stages": [{"epochs": 60, "batch_size": 64, "rule": {"lr": 0.5}}]}},
    },
)
def oja(*, features: PositiveInt, units: PositiveInt = 1) -> nn.Module:
    """Build the units: inputs (N, …) to their reconstruction Wᵀ W (x − m) + m, (N, features)."""
    return LinearUnits(features, units)


@register(
    "hopfield",
    family="history",
    tasks=("reconstruction",),
    rule="hebb",
    year=1982,
    paper="Hopfield, Neural networks and physical systems with emergent collective computational abilities, 1982",
    summary="Hopfield net: stores images in one pass and recalls them from corrupted ones",
    summary_zh="霍普菲尔德网络：一遍存下若干图像，再由损坏的图像回忆出原样",
    parameters=614656,
    size={"features": 784},
    small={"features": 64},
    recipe={
        "task": {"scale": "unit"},
        "stages": [{"epochs": 1, "batch_size": 1, "examples": 10, "rule": {"variant": "projection"}}],
    },
)
def hopfield(*, features: PositiveInt, threshold: float = 0.5) -> nn.Module:
    """Build the net: inputs (N, …) to the patterns that it recalls, in {0, 1}, (N, features).

    An input is on if it reaches the threshold.
    """
    return Hopfield(features, threshold)
