"""The engines ``torch`` and ``compiled``: the network itself in its fastest form that is equal to rounding, interpreted
or compiled."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.inference.engines.base import Engine, compute_chunk_size
from layerwise.inference.export.base import get_dtype, mute_logger
from layerwise.inference.export.folding import NORMS, fold_batch_norms
from layerwise.nn.convolution import use_fast_kernels
from layerwise.runtime import compute_settings, machine


class NativeEngine(Engine):
    """The network in evaluation mode: batch norms folded into the layers before them, images with their channels last
    in memory.

    The given network stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        machine.keep_large_buffers()
        layout = compute_settings.choose_layout(model, "fp64" if get_dtype(model) == torch.float64 else "fp32")
        self.channels_last = layout == compute_settings.CHANNELS_LAST
        normed = any(isinstance(module, NORMS) for module in model.modules())
        self.model = fold_batch_norms(model).model if normed else copy.deepcopy(model) if self.channels_last else model
        compute_settings.apply_layout(self.model.eval(), layout)

    def run(self, x: Tensor) -> Tensor:
        """Run the network."""
        outputs: Tensor = self.model(self.match_layout(x))
        return outputs

    def match_layout(self, x: Tensor) -> Tensor:
        """Return inputs in the layout of the weights."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.ndim == 4 else x


class TorchEngine(NativeEngine):
    """The network interpreted, its 3×3 convolutions in float32 on a CPU by Winograd's algorithm
    (`nn.winograd_convolution`)."""

    name = "torch"
    method = "folded, channels last, winograd"  # another way of computing is measured anew

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if self.channels_last:  # it is a copy
            use_fast_kernels(self.model, frozen=True)


def find_compiler() -> str:
    """Return the C++ compiler that torch's inductor would call; empty where there is none."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), "")


class CompiledEngine(NativeEngine):
    """The network translated to C++ by torch's inductor, with its weights as constants, for the two sizes that matter:
    one example, and a full chunk. Translating takes from seconds to a minute in each process; the rest at the end of a
    stream is interpreted."""

    name = "compiled"

    def __init__(self, model: nn.Module) -> None:
        if not find_compiler():
            raise UsageError(
                "--engine compiled needs a C++ compiler, and none is here",
                expected="g++ or clang++, or one named by CXX",
                do="install one, or use --engine auto",
            )
        super().__init__(model)
        self.programs: dict[int, Callable[[Tensor], Tensor]] = {}

    def run(self, x: Tensor) -> Tensor:
        """Run the translated network where there is one for this size."""
        if len(x) not in (1, compute_chunk_size(tuple(x.shape[1:]))):
            return super().run(x)
        if len(x) not in self.programs:
            self.programs[len(x)] = torch.compile(self.model, dynamic=False)
        import torch._inductor.config as inductor

        with inductor.patch(freezing=True), torch.no_grad(), mute_logger("torch._inductor"):
            outputs: Tensor = self.programs[len(x)](self.match_layout(x))
        return outputs
