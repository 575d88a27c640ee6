"""Whether a run's images are decoded once and cached (`data.image_cache`), or decoded in every epoch."""

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


def use_image_caches(plan: Plan, *, world: World, display: Display) -> tuple[Plan, bool]:
    """Return the plan of a run that streams, with its image files read from caches, and whether they are.

    The plan stays as it is with ``data.cache`` off, for data that are no image files, and for a single epoch, which
    reads nothing twice. It also stays, with a note, where caching is impossible: the images exceed ``data.cache_gib``
    or the disk, or the folder cannot be written. With ``auto`` caches lie in the user's cache folder. The first rank
    builds, the others wait.

    Raises `DataError` for a file that can no longer be decoded.
    """
    options = recipe.check_table(Options, plan.recipe.data, where="[data]")
    files = {part: image_cache.find_image_source(plan.splits.part(part)) for part in SPLITS}
    all_files = {source.digest: source for source in files.values() if source is not None}
    epochs = sum(stage.epochs for stage in plan.recipe.stages)
    if options.cache == "off" or epochs < 2 or None in files.values():
        return plan, False
    root, limit = image_cache.get_cache_root(options.cache), int(options.cache_gib * GIB)
    folders = {digest: root / image_cache.compute_cache_name(source) for digest, source in all_files.items()}
    missing = [digest for digest, source in all_files.items() if not image_cache.is_complete(folders[digest], source)]
    reason = image_cache.explain_refusal(root, [*all_files.values()], limit) if missing else ""
    if not reason and world.is_first:
        if missing:
            count = sum(len(all_files[digest]) for digest in missing)
            display.say(f"decoding {count:,} images once, into {root} (--set data.cache=off leaves that out)")
        reason = _build(root, [*all_files.values()], limit=limit, world=world, display=display)
    while world.any(False)[0]:  # the first rank reports while it builds: a silent rank would count as lost
        pass
    complete = (image_cache.is_complete(folders[digest], source) for digest, source in all_files.items())
    lacks_cache = not world.is_first and not all(
        complete
    )  # a rank on another host may not see what the first one built
    if world.any(bool(reason) or lacks_cache)[0]:
        display.say(f"the decoded images are not kept: {reason or f'not every process finds them in {root}'}")
        return plan, False
    train, val, test = (
        image_cache.use_cache(plan.splits.part(part), folders[source.digest])
        for part, source in files.items()
        if source is not None
    )
    return dataclasses.replace(plan, splits=dataclasses.replace(plan.splits, train=train, val=val, test=test)), True


def _build(root: Path, files: Sequence[ImageSource], *, limit: int, world: World, display: Display) -> str:
    """Open or build caches, with progress; return why one is impossible, or the empty text."""

    def advance(done: int, count: int) -> None:
        display.advance(done)
        world.any(True)

    for source in files:
        display.start_stage("decoding", len(source))
        folder = image_cache.open_cache(root, source, limit=limit, progress=advance)
        if isinstance(folder, str):
            return folder
    return ""
