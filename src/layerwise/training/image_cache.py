"""Whether a run's images are decoded once and kept (`data.image_cache`), or in every epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from layerwise import recipe
from layerwise.data.cache_folders import GIB
from layerwise.data.images import image_cache
from layerwise.data.images.folders import ImageSource
from layerwise.data.load import Options
from layerwise.data.source import SPLITS
from layerwise.planning.resolve import Plan
from layerwise.runtime.distributed import World
from layerwise.training.progress import Display


def kept(made: Plan, *, world: World, display: Display) -> tuple[Plan, bool]:
    """Return the plan of a run that streams, with its image files read from caches, and whether they are.

    ``data.cache`` off, data that are no image files, and a single epoch (nothing would be read twice) leave it as it
    is. So does what
    cannot be cached: too much for ``data.cache_gib`` or the disk, a folder that cannot be written; that is said. With
    ``auto`` caches lie in the user's cache folder. The first rank builds, the others wait.

    Raises `DataError` for a file that can no longer be decoded.
    """
    options = recipe.checked(Options, made.recipe.data, where="[data]")
    files = {part: image_cache.beneath(made.splits.part(part)) for part in SPLITS}
    all_files = {one.digest: one for one in files.values() if one is not None}
    epochs = sum(stage.epochs for stage in made.recipe.stages)
    if options.cache == "off" or epochs < 2 or None in files.values():
        return made, False
    place, limit = image_cache.place_of(options.cache), int(options.cache_gib * GIB)
    folders = {digest: place / image_cache.name_for(one) for digest, one in all_files.items()}
    missing = [digest for digest, one in all_files.items() if not image_cache.whole(folders[digest], one)]
    reason = image_cache.refused(place, [*all_files.values()], limit) if missing else ""
    if not reason and world.first:
        if missing:
            count = sum(len(all_files[digest]) for digest in missing)
            display.say(f"decoding {count:,} images once, into {place} (--set data.cache=off leaves that out)")
        reason = _built(place, [*all_files.values()], limit=limit, world=world, display=display)
    while world.any(False)[0]:  # the first rank builds, and says so from time to time: a silent one would count as lost
        pass
    if not reason and not all(image_cache.whole(folders[digest], one) for digest, one in all_files.items()):
        reason = f"process {world.rank} finds none in {place}"  # a folder of another host
    if world.any(bool(reason))[0]:
        display.say(f"the decoded images are not kept: {reason or f'not every process finds them in {place}'}")
        return made, False
    train, val, test = (
        image_cache.served(made.splits.part(part), folders[one.digest])
        for part, one in files.items()
        if one is not None
    )
    return dataclasses.replace(made, splits=dataclasses.replace(made.splits, train=train, val=val, test=test)), True


def _built(place: Path, files: Sequence[ImageSource], *, limit: int, world: World, display: Display) -> str:
    """Open or build caches, with progress; return why one could not be had, or the empty text."""

    def told(done: int, count: int) -> None:
        display.advance(done)
        world.any(True)

    for one in files:
        display.stage("decoding", len(one))
        found = image_cache.opened(place, one, limit=limit, told=told)
        if isinstance(found, str):
            return found
    return ""
