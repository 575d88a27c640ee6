"""Transfer learning: a recipe's last stage becomes two: train the new head first, then fine-tune everything with lower
rates in earlier layers.

While the head is random, its large gradients would spoil the pretrained features; so it is trained first, on frozen
features. Then everything is trained at a tenth of the rate, which falls further towards the input, where features are
the most general (Yosinski et al. 2014; Howard and Ruder 2018, discriminative fine-tuning).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from layerwise.errors import UsageError
from layerwise.recipe import Table
from layerwise.rules.backprop import BackpropOptions

HEAD = "@head"  # among a stage's parameters: those whose shapes follow the number of outputs
WIDTH_ARGUMENTS = ("outputs", "classes")  # the names by which builders call the number of outputs
STAGE_NAMES = ["head", "all"]
HEAD_EPOCH_INTERVAL = 4  # one epoch in so many trains the head alone
LR_RATIO = 0.1  # of the second stage's rate to the first's; and of the first layer's rate to the last layer's


def split_last_stage(stages: list[Table], rule: str | None) -> list[Table]:
    """Return the stages ``head`` and ``all``, made of the last of a recipe's stages; stages of these names are left as
    they are.

    ``rule`` is the model's. The epochs are shared out 1 to 3, one for the head at least. Raises `UsageError` for
    another rule than ``backprop``.
    """
    if [stage.get("name", "main") for stage in stages] == STAGE_NAMES:
        return stages
    last = stages[-1]
    options, epochs = last.get("rule", {}), int(last.get("epochs", 10))
    if (name := options.get("name", rule)) != "backprop":
        raise UsageError(
            "--transfer trains by backpropagation",
            expected="a network with the rule backprop",
            received=f"the rule {name}",
        )
    first = min(epochs, max(1, round(epochs / HEAD_EPOCH_INTERVAL)))
    lr = float(options.get("lr", BackpropOptions().lr))
    head = {**last, "name": "head", "epochs": first, "parameters": [HEAD]}
    rest = {
        **last,
        "name": "all",
        "epochs": max(first, epochs - first),
        "rule": {**options, "lr": lr * LR_RATIO, "first_layer_lr_ratio": LR_RATIO},
    }
    return [head, rest]


def require_weights(weights: object) -> None:
    """Raise `UsageError` where there are no weights to transfer."""
    if not weights:
        raise UsageError(
            "--transfer begins with other weights", expected="--weights with a run or a file beside it", received="none"
        )


def find_head(builder: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the parameters whose shapes change with the number of outputs; none where a builder has no
    such number.

    The network is built twice on the meta device, without memory for its weights: as it is, and with one more output.
    So no network needs a list of its head's names, not even a user's own.
    """
    width = next((name for name in WIDTH_ARGUMENTS if name in arguments), "")
    if not width:
        return ()
    with torch.device("meta"):
        state, wider = (builder(**{**arguments, width: arguments[width] + more}).state_dict() for more in (0, 1))
    return tuple(name for name, tensor in state.items() if name in wider and wider[name].shape != tensor.shape)
