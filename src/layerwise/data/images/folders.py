"""Class folders: images beneath a folder for each class, and ``train/ val/ test/`` above them.

Classes are known by name, never by position (F10). Every file is decoded once before training starts (F01);
labels then need no decoding. Where the files lie (on disk, in an archive) is a `Place`; the layout is read
from their relative names alone.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from layerwise.data.images import decoding
from layerwise.data.source import Array, Example, Examples, Schema, stacked
from layerwise.errors import DataError
from layerwise.runtime.input_files import read_regular_file
from layerwise.runtime.machine import cores

OnBad = Literal["stop", "skip"]
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
CLUTTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "$recycle.bin"})
LISTED = 10  # names in a message
SERIAL, SMALL = (
    32,
    128 * 128,
)  # files decoded before choosing threads; mean pixels below which threads do not pay


class Place(Protocol):
    """Where image files lie. Names are relative, with ``/`` between; those of folders end in ``/``."""

    @property
    def origin(self) -> str:
        """What messages call the place."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files and folders, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; raise `DataError` if that cannot be done."""
        ...


@dataclass(frozen=True)
class FolderPlace:
    """Files beneath a folder on disk."""

    root: str

    @property
    def origin(self) -> str:
        """The folder."""
        return decoding.shown(self.root)

    def names(self) -> list[str]:
        """Walk the folder; links to folders are followed, each folder once."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        for here, folders, files in os.walk(self.root, followlinks=True, onerror=_unreadable):
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not hidden(name))
            base = os.path.relpath(here, self.root).replace(os.sep, "/")
            prefix = "" if base == "." else base + "/"
            found += [f"{prefix}{name}/" for name in folders]
            found += [prefix + name for name in files if not hidden(name)]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Read a file."""
        path = os.path.join(self.root, name)
        try:
            return read_regular_file(path)
        except OSError as error:
            raise DataError(f"{decoding.shown(path)} cannot be read: {error.strerror}") from error


def _unreadable(error: OSError) -> None:
    """Turn a folder that cannot be listed into an error instead of leaving it out."""
    raise DataError(f"the folder {error.filename} cannot be listed: {error.strerror}", do="check its permissions")


@dataclass(frozen=True)
class ImageSource:
    """Images of a place, decoded when asked for.

    ``targets`` are labels or numbers (N,); ``digest`` covers names and contents; ``weights`` (N,): how much each counts
    in training. ``sides`` (N,) are their shorter sides; ``size`` (H, W) is what they are brought to while decoding,
    None: as they are.
    """

    schema: Schema
    place: Place
    names: tuple[str, ...]
    targets: Array
    digest: str
    weights: Array | None = None
    sides: Array | None = None
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        pixels = decoding.decode(self.place.read(name), self.schema.shape[2], name=self.name_of(index), size=self.size)
        return Example(pixels, self.targets[index].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order, with their weights."""
        at = np.asarray(indices, dtype=np.int64)
        found = [self[int(i)] for i in at]
        weights = None if self.weights is None else self.weights[at]
        return Examples(stacked([e.input for e in found]), self.targets[at], at, weights)

    def name_of(self, index: int) -> str:
        """Return the file's path."""
        return called(self.place, self.names[index])

    def fingerprint(self) -> str:
        """Return a digest of classes, relative names and contents when opened; the place does not count."""
        text = f"{self.schema}{self.digest}{self.targets.tolist()}"
        if self.weights is not None:
            text += f"{self.weights.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Checked(NamedTuple):
    """What the check of a file found: its shape (H, W, C) and a digest of its contents, or what is wrong."""

    shape: tuple[int, int, int]
    digest: bytes
    error: DataError | None


Layout = dict[str, dict[str, list[str]]]  # part -> class -> names of files


def called(place: Place, name: str) -> str:
    """Return what messages call a file of a place."""
    return f"{place.origin}/{decoding.shown(name)}"


def hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden or known clutter."""
    return name.startswith(".") or name.lower() in CLUTTER


def read(place: Place, *, on_bad: OnBad = "stop") -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """Read class folders, or parts of class folders, as one source for each part, and notes on what was
    noticed.

    All parts share the sorted classes of the training part. Images are (H, W, C) uint8; the schema's H and
    W are 0 where sizes differ, and C is 1 if every image is gray. With ``on_bad="skip"`` files that cannot
    be decoded are left out and counted. Raises `DataError` for bad files, for classes without training
    examples, and where there are no class folders.
    """
    layout, notes = arrange(place.names(), place.origin)
    names = [name for part in layout.values() for files in part.values() for name in files]
    checks = check(place, names)
    bad = {name: found.error for name, found in checks.items() if found.error}
    if bad:
        notes.append(bad_files(place, bad, len(names), on_bad))
        layout = {
            part: {label: [n for n in files if n not in bad] for label, files in classes.items()}
            for part, classes in layout.items()
        }
    classes = _classes(layout, place.origin, notes)
    shape = shape_of(checks[name] for name in names if name not in bad)
    schema = Schema("image", shape, "class", classes)
    notes += _repeated(layout, checks)
    return {part: _source(place, schema, found, checks) for part, found in layout.items()}, tuple(notes)


def shape_of(checks: Iterable[Checked]) -> tuple[int, int, int]:
    """Return the shape (H, W, C) of several images: H and W are 0 where sizes differ, C is 1 if every one is gray,
    else 3."""
    shapes = {found.shape for found in checks}
    sizes = {shape[:2] for shape in shapes}
    height, width = sizes.pop() if len(sizes) == 1 else (0, 0)
    return height, width, 3 if any(shape[2] == 3 for shape in shapes) else 1


def _source(place: Place, schema: Schema, found: dict[str, list[str]], checks: dict[str, Checked]) -> ImageSource:
    """Make the source of one part, in the order of class and name."""
    pairs = [(name, schema.classes.index(label)) for label in sorted(found) for name in found[label]]
    digest = hashlib.sha256()
    for name, _ in pairs:
        digest.update(os.fsencode(name) + b"\0" + checks[name].digest)
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    names = tuple(name for name, _ in pairs)
    return ImageSource(schema, place, names, labels, digest.hexdigest(), sides=sides_of(names, checks))


def sides_of(names: Sequence[str], checks: Mapping[str, Checked]) -> Array:
    """Return the shorter sides of images, (N,)."""
    return np.array([min(checks[name].shape[:2]) for name in names], dtype=np.int64)


def arrange(names: Sequence[str], origin: str) -> tuple[Layout, list[str]]:
    """Tell parts and classes from relative names. A single folder around everything is looked through.

    Raises `DataError` where there are no class folders, no training part, or folders beside the parts.
    """
    kept = [n for n in names if not any(hidden(step) for step in n.split("/") if step)]
    steps = unwrapped([tuple(n.split("/")) for n in kept])  # a folder's name ends in an empty step
    cut = {tail: "/".join(full) for tail, full in steps}
    folders = sorted({tail[0] for tail in cut if len(tail) > 1})
    notes: list[str] = []
    parts = {top: PARTS[top.lower()] for top in folders if top.lower() in PARTS}
    if "train" not in parts.values() or (len(parts) == 1 and len(folders) > 1):
        if parts and len(parts) == len(folders):
            raise DataError(f"{origin} has no training part", expected="a folder train/", received=", ".join(folders))
        return {"train": _grouped(cut, origin, notes)}, notes
    _check_parts(parts, folders, origin)
    layout = {}
    for top, part in parts.items():
        inner = {tail[1:]: name for tail, name in cut.items() if tail[0] == top and tail[1:] != ("",)}
        layout[part] = _grouped(inner, f"{origin}/{top}", notes)
    return layout, notes


def unwrapped(paths: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pair each path's tail beneath the folders that wrap everything with the path.

    Class folders and parts are not wrappers.
    """
    depth = 0
    while True:
        tails = [path[depth:] for path in paths]
        tops = {tail[0] for tail in tails if len(tail) > 1}
        deeper = any(len(tail) > 2 and (tail[2] or len(tail) > 3) for tail in tails)
        loose = any(len(tail) == 1 and tail[0] for tail in tails)
        if len(tops) != 1 or not deeper or loose or next(iter(tops)).lower() in PARTS:
            return [(tail, path) for tail, path in zip(tails, paths, strict=True) if tail and tail != ("",)]
        depth += 1


def _check_parts(parts: dict[str, str], folders: list[str], origin: str) -> None:
    """Refuse two folders for one part, and folders that are no part."""
    twice = [part for part, count in Counter(parts.values()).items() if count > 1]
    if twice:
        both = ", ".join(top for top, part in parts.items() if part == twice[0])
        raise DataError(f"{origin} has several folders for the {twice[0]} part", expected="one", received=both)
    if len(parts) < len(folders):
        raise DataError(
            f"{origin} has folders beside {', '.join(parts)}",
            expected="only train/, val/ and test/, or only class folders",
            received=", ".join(top for top in folders if top not in parts),
            do="move them elsewhere",
        )


def _grouped(cut: dict[tuple[str, ...], str], origin: str, notes: list[str]) -> dict[str, list[str]]:
    """Group files by their class folder; note files outside and empty folders."""
    classes: dict[str, list[str]] = {}
    loose = 0
    for tail, name in sorted(cut.items()):
        if len(tail) == 1:
            loose += 1
            continue
        files = classes.setdefault(tail[0], [])
        if tail[-1]:
            files.append(name)
    if not any(classes.values()):
        raise DataError(
            f"{origin} has no images in class folders",
            expected="a sub-folder for each class with its images beneath",
            received=f"{loose} files without a class folder" if loose else "nothing",
        )
    empty = [label for label, files in classes.items() if not files]
    if loose:
        notes.append(f"{origin}: {loose} files outside class folders were left out")
    if empty:
        notes.append(f"{origin}: no images in {some(empty)}, which is not counted as a class here")
    return {label: files for label, files in classes.items() if files}


def _classes(layout: Layout, origin: str, notes: list[str]) -> tuple[str, ...]:
    """Return the sorted classes; refuse those without training examples, note those that other parts lack."""
    filled = {part: {label for label, files in found.items() if files} for part, found in layout.items()}
    union = sorted(set().union(*filled.values()))
    for part, found in filled.items():
        strange = sorted(found - filled["train"])
        if strange:
            raise DataError(
                f"{origin}: the {part} part has classes without a training example: {some(strange)}",
                expected=f"only classes of the training part: {some(sorted(filled['train']))}",
                do="add training examples of them, or take them out",
            )
        lacking = [label for label in union if label not in found]
        if lacking:
            notes.append(f"{origin}: the {part} part has no examples of {some(lacking)}")
    return tuple(union)


def check(place: Place, names: Sequence[str]) -> dict[str, Checked]:
    """Decode every file and return what each is; on threads where images are large enough to gain by it.

    Small ones cost more outside their codec, which holds the GIL, than in it: there threads only get in each
    other's way.
    """

    def one(name: str) -> Checked:
        try:
            data = place.read(name)
            shape = decoding.inspect(data, name=called(place, name))
        except DataError as error:
            return Checked((0, 0, 0), b"", error)
        return Checked(shape, hashlib.blake2b(data, digest_size=16).digest(), None)

    found = [one(name) for name in names[:SERIAL]]
    pixels = sum(done.shape[0] * done.shape[1] for done in found) / max(1, len(found))
    if pixels < SMALL:
        found += [one(name) for name in names[SERIAL:]]
    else:
        with ThreadPoolExecutor(max_workers=min(16, cores())) as pool:
            found += pool.map(one, names[SERIAL:])
    return dict(zip(names, found, strict=True))


def bad_files(place: Place, bad: dict[str, DataError], count: int, on_bad: OnBad) -> str:
    """Stop because of bad files, or return the note that counts and names them."""
    names = sorted(bad)
    if on_bad == "skip" and len(bad) < count:
        return f"{len(bad)} of {count} files could not be decoded and were left out: {some(names)}"
    listed = "\n".join(f"    {bad[name].what}" for name in names[:LISTED])
    more = f"\n    … and {len(names) - LISTED} more" if len(names) > LISTED else ""
    raise DataError(
        f"{len(bad)} of {count} files in {place.origin} cannot be used:\n{listed}{more}",
        expected="images that can be decoded",
        do="replace or remove them, or leave them out with --set data.on_bad=skip" if len(bad) < count else "",
    )


def _repeated(layout: Layout, checks: dict[str, Checked]) -> list[str]:
    """Note how many images of other parts are in the training part too, byte for byte (F18)."""

    def digests(part: str) -> list[bytes]:
        return [checks[name].digest for files in layout.get(part, {}).values() for name in files]

    train = set(digests("train"))
    counts = {part: sum(found in train for found in digests(part)) for part in ("val", "test")}
    return [
        f"{count} images of the {part} part are in the training part too" for part, count in counts.items() if count
    ]


def some(names: Iterable[str]) -> str:
    """Return the first names for a message, and how many more there are."""
    every = [decoding.shown(name) for name in names]
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED} more" if len(every) > LISTED else "")


def open_folder(path: Path, *, on_bad: OnBad = "stop") -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """Read the class folders of a folder on disk (`read`)."""
    return read(FolderPlace(str(path)), on_bad=on_bad)
