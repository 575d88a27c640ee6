"""torchvision's and timm's own models to compare with, and weights under which a comparison is sharp.

torchvision's wheel looks for compiled operators that do not load beside a CPU-only torch. Its models are plain Python,
so they are imported file by file, without the packages' own start. (timm imports beside them.)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def torchvisions(file: str) -> Any:
    """Return the module ``torchvision.models.FILE``."""
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        for name in ("torchvision", "torchvision.models"):
            package = ModuleType(name)
            package.__path__ = [str(Path(spec.submodule_search_locations[0], *name.split(".")[1:]))]
            sys.modules[name] = package
    return importlib.import_module(f"torchvision.models.{file}")


@torch.no_grad()
def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model weights and batch-norm statistics unlike any start, which keep activations of order one."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=draw, dtype=torch.float64).mul_(high - low).add_(low)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            scale = (2 / module.weight[0].numel()) ** 0.5
            module.weight.copy_(torch.randn(module.weight.shape, generator=draw, dtype=torch.float64) * scale)
            if module.bias is not None:
                module.bias.copy_(uniform(module.bias, -0.3, 0.3))
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.copy_(uniform(module.weight, 0.4, 0.8))
            module.bias.copy_(uniform(module.bias, -0.3, 0.3))
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
            module.running_var.copy_(uniform(module.running_var, 0.7, 1.3))
    return model


def outcome(model: nn.Module, x: Tensor, *, training: bool) -> dict[str, Tensor]:
    """Return a model's outputs and its gradients of Σ cᵢ·outᵢ, by the images and by every parameter. Dropout is left
    out."""
    model.train(training).zero_grad()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    images = x.clone().requires_grad_()
    out = model(images)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    found = {
        "outputs": out.detach(),
        "images": images.grad,
        **{name: p.grad for name, p in model.named_parameters()},
    }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def distance(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return the largest difference of any tensor, relative to that tensor's largest reference value. Names must agree.

    A bias under batch norm has the gradient 0, of which only rounding is seen: no tensor counts as smaller than a
    thousandth of the largest.
    """
    assert mine.keys() == theirs.keys()
    largest = {name: float(tensor.abs().max()) for name, tensor in theirs.items()}
    least = max(largest.values()) / 1000
    return max(float((mine[name] - theirs[name]).abs().max()) / max(largest[name], least) for name in theirs)
