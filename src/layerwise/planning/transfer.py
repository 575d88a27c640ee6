"""Transfer learning: a recipe's last stage becomes two, first the new head alone, then everything, with smaller rates
below.

The features that foreign weights bring are of use while the head above them is still at random, and its large gradients
would spoil them: so it is trained first, on features that are held still. Then everything is trained at a tenth of the
rate, which falls further towards the input, where features are the most general (Yosinski et al. 2014; Howard and Ruder
2018, discriminative fine-tuning).
"""

from __future__ import annotations

from layerwise.errors import UsageError
from layerwise.planning.head import HEAD
from layerwise.recipe import Table
from layerwise.rules.backprop import BackpropOptions

NAMES = ["head", "all"]
SHARE = 4  # one epoch in so many trains the head alone
# of the head's rate, for the stage that trains everything; and of that at the last layer, for the first layer's
BELOW = 0.1


def two_stages(stages: list[Table], rule: str | None) -> list[Table]:
    """Return the stages ``head`` and ``all``, made of the last of a recipe's stages; stages of these names are left as
    they are.

    ``rule`` is the model's. The epochs are shared out 1 to 3, one for the head at least. Raises `UsageError` for
    another rule than ``backprop``.
    """
    if [stage.get("name", "main") for stage in stages] == NAMES:
        return stages
    last = stages[-1]
    options, epochs = last.get("rule", {}), int(last.get("epochs", 10))
    if (name := options.get("name", rule)) != "backprop":
        raise UsageError(
            "--transfer trains by backpropagation",
            expected="a network with the rule backprop",
            received=f"the rule {name}",
        )
    first = min(epochs, max(1, round(epochs / SHARE)))
    lr = float(options.get("lr", BackpropOptions().lr))
    head = {**last, "name": "head", "epochs": first, "parameters": [HEAD]}
    rest = {
        **last,
        "name": "all",
        "epochs": max(first, epochs - first),
        "rule": {**options, "lr": lr * BELOW, "taper": BELOW},
    }
    return [head, rest]


def required(weights: object) -> None:
    """Raise `UsageError` where there are no weights to transfer."""
    if not weights:
        raise UsageError(
            "--transfer begins with other weights", expected="--weights with a run or a file beside it", received="none"
        )
