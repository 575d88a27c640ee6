"""What goes into and comes out of a model's modules, as tensors, whatever they take and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn


class ModuleCall(NamedTuple):
    """One call of a module: its name in the model (empty: the model itself), and all tensors in and out, in order.

    ``nn.LSTM``, which returns ``(output, (h, c))``, has three outputs.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def iterate_tensors(tree: object) -> Iterator[Tensor]:
    """Yield the tensors in tuples, lists and mappings, nested as they may be. Other objects hold none."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from iterate_tensors(part)
    elif isinstance(tree, Mapping):
        yield from iterate_tensors(list(tree.values()))


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no parts."""
    return next(module.children(), None) is None


@contextmanager
def trace_modules(
    model: nn.Module, report: Callable[[ModuleCall], None], *, select: Callable[[nn.Module], bool] = is_leaf
) -> Iterator[None]:
    """Call ``report`` after each call of a module that ``select`` accepts, while the context is open."""

    def make_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: object) -> None:
            inputs = (*iterate_tensors(args), *iterate_tensors(kwargs))
            report(ModuleCall(name, module, inputs, tuple(iterate_tensors(output))))

        return hook

    handles = [
        module.register_forward_hook(make_hook(name), with_kwargs=True)
        for name, module in model.named_modules()
        if select(module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
