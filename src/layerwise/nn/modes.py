"""Training and evaluation modes of a network of which a part is held still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def learning(model: nn.Module) -> None:
    """Switch to training, but for batch norms that are held still: those use the statistics they have, and keep them.

    One is held still if no parameter of its own is trained; without parameters of its own, if none of the module around
    it is. Where only a head is trained, the features below it are then in training what they are in evaluation.
    """
    model.train()
    for parent in model.modules():
        for child in parent.children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                own = list(child.parameters(recurse=False)) or list(parent.parameters())
                if own and not any(parameter.requires_grad for parameter in own):
                    child.eval()


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation, and at the end every module back to the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
