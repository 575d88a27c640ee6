"""The head of a network: the parameters whose shapes follow the number of outputs. The rest is what weights for other
classes bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

HEAD = "@head"  # among a stage's parameters: those of the head
WIDTHS = ("outputs", "classes")  # the names by which builders call the number of outputs


def head_of(builder: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the parameters whose shapes change with the number of outputs; none where a builder has no
    such number.

    Found by building the network twice, without memory for its weights: as it is, and with one output more. So no list
    of names is kept for any network, a user's own model included.
    """
    width = next((name for name in WIDTHS if name in arguments), "")
    if not width:
        return ()
    with torch.device("meta"):
        mine, other = (builder(**{**arguments, width: arguments[width] + more}).state_dict() for more in (0, 1))
    return tuple(name for name, tensor in mine.items() if name in other and other[name].shape != tensor.shape)
