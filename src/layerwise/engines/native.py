"""The engine ``torch``: the network itself, in the form that is fastest and equal to rounding."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from layerwise.engines.base import Engine
from layerwise.export.folding import NORMS, fold
from layerwise.runtime import machine


class Torch(Engine):
    """The network in evaluation mode: batch norms folded into the layers before them, pictures with their channels last in memory.

    The network that was given stays as it is.
    """

    name = "torch"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        machine.keep_large_buffers()
        self.pictures = any(isinstance(module, nn.Conv2d) for module in model.modules())
        normed = any(isinstance(module, NORMS) for module in model.modules())
        self.model = fold(model).model if normed else copy.deepcopy(model) if self.pictures else model
        self.model.eval()
        if self.pictures:
            for parameter in self.model.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def run(self, x: Tensor) -> Tensor:
        """Run the network."""
        if self.pictures and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.model(x)
        return outputs
