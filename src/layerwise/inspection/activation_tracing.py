"""Record every activation function that a network calls, as a module or as a function.

``N`` examples, ``H`` units: the columns of (N, H) and (N, T, H), the maps of (N, H, …). Activations are recorded as
torch operations, so ``nn.ReLU()``, ``torch.relu(z)`` in a forward and the sigmoid inside a Boltzmann machine all count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerwise.functional.activations import DERIVATIVES, derivative

aten = torch.ops.aten
OPERATIONS: dict[Any, str] = {
    aten.relu: "relu",
    aten.relu_: "relu",
    aten.sigmoid: "sigmoid",
    aten.sigmoid_: "sigmoid",
    aten.tanh: "tanh",
    aten.tanh_: "tanh",
    aten._softmax: "softmax",
    aten.leaky_relu: "leaky_relu",
    aten.leaky_relu_: "leaky_relu",
    aten._prelu_kernel: "prelu",
    aten.elu: "elu",
    aten.elu_: "elu",
    aten.gelu: "gelu",
    aten.silu: "silu",
    aten.silu_: "silu",
    aten.softplus: "softplus",
}
FLAT = 0.1  # of the largest |f′|: below it a unit passes on almost no gradient
GRID = torch.linspace(-10, 10, 4001, dtype=torch.float64)
LARGEST_DERIVATIVES = {name: float(derivative(name, GRID).abs().max()) for name in DERIVATIVES}
Derivative = Callable[[Tensor], Tensor]


class ActivationCall(NamedTuple):
    """One call of an activation.

    Attributes:
        key: the module's name, the activation's name, and the index among the module's calls of this activation.
        module_type: the class of the module.
        z, a: input and output, a = f(z).
        slope: f′ if the activation is elementwise.
        learned_slopes: the weights of PReLU.
    """

    key: tuple[str, str, int]
    module_type: str
    z: Tensor
    a: Tensor
    slope: Derivative | None
    learned_slopes: Tensor | None


def get_derivative(name: str, args: tuple[Any, ...]) -> Derivative | None:
    """Return f′ of an operation with these arguments; None for softmax, which is not elementwise.

    ``args`` are the operation's arguments after z: slopes of leaky ReLU and PReLU, α of ELU, β of softplus.
    """
    if name == "softmax":
        return None
    if name in ("leaky_relu", "prelu"):
        below = args[0] if args else 0.01
        return lambda z: torch.where(z > 0, torch.ones_like(z), torch.as_tensor(below, dtype=z.dtype, device=z.device))
    if name == "elu" and args:
        alpha = float(args[0])
        return lambda z: torch.where(z > 0, torch.ones_like(z), alpha * z.clamp(max=0).exp())
    if name == "softplus" and args:
        beta = float(args[0])
        return lambda z: torch.sigmoid(beta * z)
    return lambda z: derivative(name, z)


def find_saturated(z: Tensor, slope: Derivative, name: str) -> Tensor:
    """Return a mask of the values where |f′(z)| is below a tenth of its maximum: saturated sigmoids, inactive ReLUs."""
    return slope(z).abs() < FLAT * LARGEST_DERIVATIVES[name]


@dataclass
class _ModuleFrame:
    """A module in its forward pass, and how often it has called each activation in this pass."""

    name: str
    module: nn.Module
    call_counts: dict[str, int] = field(default_factory=dict)


class ActivationTracer(TorchDispatchMode):
    """Calls ``report`` with each activation. The last frame is the module that is running."""

    def __init__(self, root: nn.Module, report: Callable[[ActivationCall], None]) -> None:
        super().__init__()
        self.report = report
        self.frames = [_ModuleFrame("", root)]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, so that torch does not load its compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and report it if it is an activation."""
        name = OPERATIONS.get(func.overloadpacket)
        if name is None or not args[0].is_floating_point():
            return func(*args, **(kwargs or {}))
        z = args[0].clone() if func.overloadpacket.__name__.endswith("_") else args[0]
        out = func(*args, **(kwargs or {}))
        frame = self.frames[-1]
        call_index = (
            0 if isinstance(frame.module, nn.RNNBase) else frame.call_counts.get(name, 0)
        )  # all time steps are one layer
        frame.call_counts[name] = call_index + 1
        learned_slopes = args[1].detach() if name == "prelu" else None
        key = (frame.name or "(the model)", name, call_index)
        self.report(
            ActivationCall(key, type(frame.module).__name__, z, out, get_derivative(name, args[1:]), learned_slopes)
        )
        return out


@contextmanager
def trace_activations(model: nn.Module, report: Callable[[ActivationCall], None]) -> Iterator[None]:
    """Call ``report`` with every activation that the model computes while the context is open."""
    mode = ActivationTracer(model, report)

    def enter(name: str) -> Any:
        return lambda module, _inputs: mode.frames.append(_ModuleFrame(name, module))

    handles: list[Any] = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(lambda *_: mode.frames.pop() and None, always_call=True))
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


def flatten_by_unit(values: Tensor) -> Tensor:
    """Reshape (N, H), (N, T, H) or (N, H, …) to (all other axes, H)."""
    if values.ndim < 2:
        return values.reshape(-1, 1)
    return values.movedim(-1 if values.ndim == 3 else 1, -1).reshape(-1, values.shape[-1 if values.ndim == 3 else 1])
