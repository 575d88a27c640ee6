"""Whether a run's pictures are decoded once and kept (`data.picture_cache`), or in every epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from layerwise import recipe
from layerwise.data import picture_cache
from layerwise.data.cache_folders import GIB
from layerwise.data.folders import PictureSource
from layerwise.data.open import Options
from layerwise.data.source import SPLITS
from layerwise.planning.resolve import Plan
from layerwise.runtime.distributed import World
from layerwise.train.progress import Display


def kept(made: Plan, *, world: World, display: Display) -> tuple[Plan, bool]:
    """Return the plan of a run that streams, with its picture files read from caches, and whether they are.

    ``data.cache`` off, data that are no picture files, and a single epoch (nothing would be read twice) leave it as it is. So does what
    cannot be cached: too much for ``data.cache_gib`` or the disk, a folder that cannot be written; that is said. With ``auto`` caches lie
    in the user's cache folder. The first rank builds, the others wait.

    Raises `DataError` for a file that can no longer be decoded.
    """
    options = recipe.checked(Options, made.recipe.data, where="[data]")
    files = {part: picture_cache.beneath(made.splits.part(part)) for part in SPLITS}
    all_files = {one.digest: one for one in files.values() if one is not None}
    epochs = sum(stage.epochs for stage in made.recipe.stages)
    if options.cache == "off" or epochs < 2 or None in files.values():
        return made, False
    place, limit = picture_cache.place_of(options.cache), int(options.cache_gib * GIB)
    folders = {digest: place / picture_cache.name_for(one) for digest, one in all_files.items()}
    missing = [digest for digest, one in all_files.items() if not picture_cache.whole(folders[digest], one)]
    reason = picture_cache.refused(place, [*all_files.values()], limit) if missing else ""
    if not reason and world.first:
        if missing:
            count = sum(len(all_files[digest]) for digest in missing)
            display.say(f"decoding {count:,} pictures once, into {place} (--set data.cache=off leaves that out)")
        reason = _built(place, [*all_files.values()], limit=limit, world=world, display=display)
    while world.any(False)[0]:  # the first rank builds, and says so from time to time: a silent one would count as lost
        pass
    # a rank on another host may not see what the first one has just built
    lacking = not world.first and not all(picture_cache.whole(folders[digest], one) for digest, one in all_files.items())
    if world.any(bool(reason) or lacking)[0]:
        display.say(f"the decoded pictures are not kept: {reason or f'not every process finds them in {place}'}")
        return made, False
    train, val, test = (
        picture_cache.served(made.splits.part(part), folders[one.digest]) for part, one in files.items() if one is not None
    )
    return dataclasses.replace(made, splits=dataclasses.replace(made.splits, train=train, val=val, test=test)), True


def _built(place: Path, files: Sequence[PictureSource], *, limit: int, world: World, display: Display) -> str:
    """Open or build caches, with progress; return why one could not be had, or the empty text."""

    def told(done: int, count: int) -> None:
        display.advance(done)
        world.any(True)

    for one in files:
        display.stage("decoding", len(one))
        found = picture_cache.opened(place, one, limit=limit, told=told)
        if isinstance(found, str):
            return found
    return ""
