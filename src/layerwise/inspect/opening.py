"""From what a user names to what a view looks at: a run directory with as much as the view needs, or a card."""

from __future__ import annotations

import tomllib
from pathlib import Path

from layerwise import catalog, recipe
from layerwise.data import open as data_
from layerwise.inspect.base import Target, needs_run
from layerwise.predict import load


def opened(target: str, *, needs: str, view: str) -> Target:
    """Return the run at a path, or the card of a name.

    Args:
        target: a run directory or a card's name.
        needs: ``data`` opens the run's data too, ``run`` demands a run, the empty text takes either.
        view: the view's name, for messages.

    Raises:
        UsageError: for a card where a run is needed, and for a name that is neither.
        DamagedError: for a damaged run.
    """
    path = Path(target)
    if not path.is_dir():
        card = catalog.find(target)
        if needs:
            raise needs_run(view, card)
        return Target(card=card)
    found = load(path)
    made = recipe.from_table(tomllib.loads(found.directory.read("recipe.toml").decode()))
    splits = None
    if needs == "data":
        options = recipe.checked(data_.Options, made.data, where="[data]")
        splits = data_.open_data(options, seed=made.train.seed)
    return Target(
        card=found.card, model=found.model, task=found.task, splits=splits, run=found.directory, recipe=made,
        arguments=dict(found.info["model"]["arguments"]),
    )  # fmt: skip
