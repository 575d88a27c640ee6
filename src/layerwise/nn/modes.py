"""Training and evaluation modes of a network with frozen parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def train_mode(model: nn.Module) -> None:
    """Set a network to training mode, except frozen batch norms, which keep using their running statistics.

    A batch norm is frozen if none of its parameters is trained; one without parameters, if none of its parent's is. If
    only a head is trained, the features below it are then the same in training as in evaluation.
    """
    model.train()
    for parent in model.modules():
        for child in parent.children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                own = list(child.parameters(recurse=False)) or list(parent.parameters())
                if own and not any(parameter.requires_grad for parameter in own):
                    child.eval()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode inside the context, and restore each module's mode at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
