"""Watching every activation function of a network while it runs, module or function call alike.

``N`` examples, ``H`` units: the columns of (N, H) and (N, T, H), the maps of (N, H, …). An activation is seen as the
operation that torch carries out, so ``nn.ReLU()``, ``torch.relu(z)`` in a forward and the sigmoid inside a Boltzmann
machine all count.
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
FLAT = 0.1  # of the largest |f′|: below it a unit hardly passes gradients on
GRID = torch.linspace(-10, 10, 4001, dtype=torch.float64)
LARGEST = {name: float(derivative(name, GRID).abs().max()) for name in DERIVATIVES}
Slope = Callable[[Tensor], Tensor]


class Call(NamedTuple):
    """One use of an activation: where, which, what went in and came out, f′ where it is elementwise, and learned slopes
    (PReLU)."""

    key: tuple[str, str, int]
    kind: str
    z: Tensor
    a: Tensor
    slope: Slope | None
    learned: Tensor | None


def slope_of(name: str, args: tuple[Any, ...]) -> Slope | None:
    """Return f′ of an operation as it was called, None for softmax, which is no elementwise function.

    ``args`` are the operation's own behind z: slopes of leaky ReLU and PReLU, α of ELU, β of softplus.
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


def flat(z: Tensor, slope: Slope, name: str) -> Tensor:
    """Return where |f′(z)| is below a tenth of its largest value: saturated sigmoids, ReLUs that are off."""
    return slope(z).abs() < FLAT * LARGEST[name]


@dataclass
class _Frame:
    """A module that is running, and how often it has used each activation in this call."""

    name: str
    module: nn.Module
    used: dict[str, int] = field(default_factory=dict)


class Watching(TorchDispatchMode):
    """Tells ``report`` of every activation. The running module is the innermost frame."""

    def __init__(self, root: nn.Module, report: Callable[[Call], None]) -> None:
        super().__init__()
        self.report = report
        self.frames = [_Frame("", root)]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that nothing here is compiled, so that torch need not load its compiler."""
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
        number = 0 if isinstance(frame.module, nn.RNNBase) else frame.used.get(name, 0)  # steps of time are one layer
        frame.used[name] = number + 1
        learned = args[1].detach() if name == "prelu" else None
        key = (frame.name or "(the model)", name, number)
        self.report(Call(key, type(frame.module).__name__, z, out, slope_of(name, args[1:]), learned))
        return out


@contextmanager
def watched(model: nn.Module, report: Callable[[Call], None]) -> Iterator[None]:
    """Report every activation that the model uses inside this context."""
    mode = Watching(model, report)

    def enter(name: str) -> Any:
        return lambda module, _inputs: mode.frames.append(_Frame(name, module))

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


def by_unit(values: Tensor) -> Tensor:
    """Return values (N, H), (N, T, H) or (N, H, …) as (everything else, H)."""
    if values.ndim < 2:
        return values.reshape(-1, 1)
    return values.movedim(-1 if values.ndim == 3 else 1, -1).reshape(-1, values.shape[-1 if values.ndim == 3 else 1])
