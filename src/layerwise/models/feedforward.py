"""Feed-forward networks: the perceptron (1958) and its descendant with hidden layers.

F. Rosenblatt, The perceptron, Psychological Review 65 (1958); D. E. Rumelhart, G. E. Hinton, R. J. Williams, Learning
representations by back-propagating errors, Nature 323 (1986). Each layer is a⁽ˡ⁾ = f(W⁽ˡ⁾a⁽ˡ⁻¹⁾ + b⁽ˡ⁾) (E03).
"""

from __future__ import annotations

from torch import nn

from layerwise.nn.layers import CategoryEmbedding, make_activation
from layerwise.recipe import Decay, NonNegativeInt, PositiveInt
from layerwise.registry import register


@register(
    "perceptron",
    family="feed-forward",
    tasks=("classification",),
    rule="perceptron",
    year=1958,
    paper="Rosenblatt, The perceptron: a probabilistic model for information storage and organization in the "
    "brain, 1958",
    summary="one layer of threshold units, corrected on each mistake; finds a separating plane if there is one",
    summary_zh="感知机：一层阈值单元，犯错时修正；数据线性可分则必收敛",
    parameters=7850,
    size={"features": 784, "classes": 10},
    small={"features": 8, "classes": 3},
    recipe={"stages": [{"epochs": 100, "batch_size": 1024}], "variants": {"image": {"stages": [{"epochs": 20}]}}},
)
def perceptron(*, features: PositiveInt, classes: PositiveInt) -> nn.Module:
    """Build the threshold units: inputs (N, …) to scores z (N, 1) for two classes, (N, K) for K, one against the rest.

    The prediction is the class of the largest score, or sign(z). Weights start at zero, as Novikoff's bound assumes.
    """
    linear = nn.Linear(features, 1 if classes == 2 else classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), linear)


@register(
    "mlp",
    family="feed-forward",
    tasks=("classification", "regression"),
    rule="backprop",
    year=1986,
    paper="Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, 1986",
    summary="multilayer perceptron: any number of hidden layers, for images, rows, classes and numbers",
    summary_zh="多层感知机：任意层数的隐藏层，用于图像与表格的分类和回归",
    parameters=203530,
    size={"features": 784, "outputs": 10},
    small={"features": 8, "outputs": 3, "hidden": [16]},
    recipe={
        "stages": [{"epochs": 10, "batch_size": 128, "rule": {"lr": 0.003, "schedule": "one-cycle", "warmup": 0.2}}],
        "variants": {
            "image": {"model": {"dropout": 0.1}},
            "row": {
                "model": {"hidden": [128, 64], "dropout": 0.1},
                "task": {"embed_above": 10},
                "stages": [{"epochs": 20, "batch_size": 256, "monitor": "val/loss", "patience": 6}],
            },
            "row-small": {
                "model": {"hidden": [64], "dropout": 0.0},
                "stages": [
                    {
                        "epochs": 200,
                        "batch_size": 32,
                        "patience": 40,
                        "rule": {"lr": 0.003, "schedule": "cosine", "final_lr_ratio": 0.02, "warmup": 0.0},
                    }
                ],
            },
            "points": {
                "model": {"hidden": [64, 64, 64], "activation": "gelu"},
                "stages": [
                    {
                        "epochs": 300,
                        "batch_size": 32,
                        "monitor": "val/loss",
                        "patience": 100,
                        "rule": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
                    }
                ],
            },
        },
    },
    aliases=("feed-forward",),
)
def mlp(
    *,
    features: NonNegativeInt,
    outputs: PositiveInt,
    hidden: tuple[PositiveInt, ...] = (256,),
    activation: str = "relu",
    dropout: Decay = 0.0,
    batch_norm: bool = False,
    embedded: tuple[PositiveInt, ...] = (),
) -> nn.Module:
    """Build the network: inputs (N, …) are flattened to (N, features), outputs are (N, outputs), linear.

    With ``embedded`` inputs are (N, features + K): the last K are category numbers, and ``embedded`` gives the number
    of vectors of each category.

    Weights start as He et al. 2015 for relu and its kin, as Glorot & Bengio 2010 for sigmoid, tanh, softmax and the
    last layer; biases at 0.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = features
    if embedded:
        layers.append(vectors := CategoryEmbedding(embedded))
        width += vectors.width
    for size in hidden:
        layers.append(nn.Linear(width, size))
        if batch_norm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(make_activation(activation))
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    layers.append(nn.Linear(width, outputs))
    *inner, last = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in inner:
        if activation in ("sigmoid", "tanh", "softmax", "linear"):
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.xavier_uniform_(last.weight)
    for layer in (*inner, last):
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
