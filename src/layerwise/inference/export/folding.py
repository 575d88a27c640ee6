"""Batch norm folded into the layer before it, in a copy of the network: fewer passes over memory, the same function at
inference (E18)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from layerwise.functional.batch_norm import Affine, Moments, fold_batch_norm

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Tracer(fx.Tracer):
    """Treats every layer and norm as a leaf of the graph, whoever wrote its class."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is a leaf of the graph."""
        return isinstance(m, (*LAYERS, *NORMS)) or super().is_leaf_module(m, module_qualified_name)


class FoldedModel(NamedTuple):
    """A copy of a network for inference, and how many (``norms``) of its batch norms were folded away."""

    model: nn.Module
    norms: int


def fold_batch_norms(model: nn.Module) -> FoldedModel:
    """Return a copy of a network in evaluation mode whose batch norms are folded into the convolution or dense layer
    before them.

    A norm is folded where it alone reads that layer's output; ``nn.Identity`` replaces it. Computed in float64 and
    rounded once, so the outputs are the same up to the rounding of the network's own type.
    """
    copied = copy.deepcopy(model).eval()
    pairs = list(find_foldable_pairs(copied))
    for layer_name, norm_name in pairs:
        layer, norm = copied.get_submodule(layer_name), copied.get_submodule(norm_name)
        assert isinstance(layer, LAYERS)
        assert isinstance(norm, NORMS)
        _fold_pair(layer, norm)
        copied.set_submodule(norm_name, nn.Identity())
    return FoldedModel(copied, len(pairs))


def find_foldable_pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of each layer and of the norm that alone reads its output, as the network calls them.

    Yield none where the path through the network depends on the values (`torch.fx` cannot follow it).
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # of any kind: the tracer runs the network's own code with stand-ins for tensors
        return
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0], fx.Node):
            continue
        before = node.args[0]
        if (
            before.op != "call_module"
            or len(before.users) > 1
            or calls[str(node.target)] > 1
            or calls[str(before.target)] > 1
        ):
            continue
        layer, norm = model.get_submodule(str(before.target)), model.get_submodule(str(node.target))
        if isinstance(layer, LAYERS) and isinstance(norm, NORMS) and norm.running_mean is not None:
            yield str(before.target), str(node.target)


@torch.no_grad()
def _fold_pair(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
) -> None:
    """Fold a norm into the layer before it."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias
    old = Affine(layer.weight.double(), torch.zeros_like(mean).double() if layer.bias is None else layer.bias.double())
    new = fold_batch_norm(
        old, Moments(mean.double(), variance.double()), weight=gamma.double(), bias=beta.double(), eps=norm.eps
    )
    layer.weight = _freeze(new.weight, like=layer.weight)
    layer.bias = _freeze(new.bias, like=layer.weight)


def _freeze(value: Tensor, *, like: Tensor) -> nn.Parameter:
    """Return a parameter that is not trained, of the type of another."""
    return nn.Parameter(value.to(like.dtype), requires_grad=False)
