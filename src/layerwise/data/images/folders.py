"""Class folders: images in a folder for each class, and ``train/ val/ test/`` above them.

Classes are identified by name, never by position. Every file is decoded once before training starts; labels then need
no decoding. A `FileStore` reads the files (on disk, in an archive); their relative names alone decide the layout.
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
from layerwise.data.source import Array, Example, Examples, Schema, stack_inputs
from layerwise.errors import DataError
from layerwise.runtime.input_files import read_regular_file
from layerwise.runtime.resources import count_cores

OnError = Literal["stop", "skip"]
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
CLUTTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "$recycle.bin"})
MAX_LISTED = 10  # names in a message
SERIAL = 32  # files decoded before choosing threads
SMALL = 128 * 128  # mean pixels below which threads do not pay


class FileStore(Protocol):
    """Reads image files. Names are relative, with ``/`` between; those of folders end in ``/``."""

    @property
    def origin(self) -> str:
        """The name of the store for messages."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files and folders, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; raise `DataError` if that cannot be done."""
        ...


@dataclass(frozen=True)
class FolderStore:
    """Files in a folder on disk, at any depth."""

    root: str

    @property
    def origin(self) -> str:
        """The folder."""
        return decoding.escape_name(self.root)

    def names(self) -> list[str]:
        """Walk the folder; links to folders are followed, each folder once."""
        names: list[str] = []
        seen: set[tuple[int, int]] = set()
        for folder, folders, files in os.walk(self.root, followlinks=True, onerror=_raise_unreadable):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            base = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if base == "." else base + "/"
            names += [f"{prefix}{name}/" for name in folders]
            names += [prefix + name for name in files if not is_hidden(name)]
        return sorted(names)

    def read(self, name: str) -> bytes:
        """Read a file."""
        path = os.path.join(self.root, name)
        try:
            return read_regular_file(path)
        except OSError as error:
            raise DataError(f"{decoding.escape_name(path)} cannot be read: {error.strerror}") from error


def _raise_unreadable(error: OSError) -> None:
    """Raise `DataError` for a folder that cannot be listed, instead of leaving it out."""
    raise DataError(f"the folder {error.filename} cannot be listed: {error.strerror}", do="check its permissions")


@dataclass(frozen=True)
class ImageSource:
    """Images of a store, decoded on access.

    ``targets`` are labels or numbers (N,); ``digest`` covers names and contents; ``weights`` (N,): how much each counts
    in training. ``sides`` (N,) are their shorter sides; ``size`` (H, W) is the size to which decoding resizes them,
    None: their own.
    """

    schema: Schema
    store: FileStore
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
        pixels = decoding.decode(self.store.read(name), self.schema.shape[2], name=self.name_of(index), size=self.size)
        return Example(pixels, self.targets[index].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order, with their weights."""
        at = np.asarray(indices, dtype=np.int64)
        examples = [self[int(i)] for i in at]
        weights = None if self.weights is None else self.weights[at]
        return Examples(stack_inputs([e.input for e in examples]), self.targets[at], at, weights)

    def name_of(self, index: int) -> str:
        """Return the file's path."""
        return format_path(self.store, self.names[index])

    def fingerprint(self) -> str:
        """Return a digest of classes, relative names and contents when opened; the store's path does not count."""
        text = f"{self.schema}{self.digest}{self.targets.tolist()}"
        if self.weights is not None:
            text += f"{self.weights.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class FileCheck(NamedTuple):
    """The result of checking a file: its shape (H, W, C) and a digest of its contents, or an error."""

    shape: tuple[int, int, int]
    digest: bytes
    error: DataError | None


Layout = dict[str, dict[str, list[str]]]  # part -> class -> names of files


def format_path(store: FileStore, name: str) -> str:
    """Return the path of a file of a store for messages."""
    return f"{store.origin}/{decoding.escape_name(name)}"


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden or known clutter."""
    return name.startswith(".") or name.lower() in CLUTTER


def read_class_folders(
    store: FileStore, *, on_error: OnError = "stop"
) -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """Read class folders, or parts of class folders, as one source for each part, and notes on what was
    noticed.

    All parts share the sorted classes of the training part. Images are (H, W, C) uint8; the schema's H and
    W are 0 where sizes differ, and C is 1 if every image is gray. With ``on_error="skip"`` files that cannot
    be decoded are left out and counted. Raises `DataError` for bad files, for classes without training
    examples, and where there are no class folders.
    """
    layout, notes = arrange_files(store.names(), store.origin)
    names = [name for part in layout.values() for files in part.values() for name in files]
    checks = check_files(store, names)
    bad = {name: check.error for name, check in checks.items() if check.error}
    if bad:
        notes.append(report_bad_files(store, bad, len(names), on_error))
        for part, by_label in layout.items():
            layout[part] = {label: [name for name in files if name not in bad] for label, files in by_label.items()}
    classes = _collect_classes(layout, store.origin, notes)
    shape = find_common_shape(checks[name] for name in names if name not in bad)
    schema = Schema("image", shape, "class", classes)
    notes += _find_repeated_images(layout, checks)
    return {part: _make_source(store, schema, files, checks) for part, files in layout.items()}, tuple(notes)


def find_common_shape(checks: Iterable[FileCheck]) -> tuple[int, int, int]:
    """Return the shape (H, W, C) of several images: H and W are 0 where sizes differ, C is 1 if every one is gray,
    else 3."""
    shapes = {check.shape for check in checks}
    sizes = {shape[:2] for shape in shapes}
    height, width = sizes.pop() if len(sizes) == 1 else (0, 0)
    return height, width, 3 if any(shape[2] == 3 for shape in shapes) else 1


def _make_source(
    store: FileStore, schema: Schema, files_by_class: dict[str, list[str]], checks: dict[str, FileCheck]
) -> ImageSource:
    """Make the source of one part, in the order of class and name."""
    pairs = [(name, schema.classes.index(label)) for label in sorted(files_by_class) for name in files_by_class[label]]
    digest = hashlib.sha256()
    for name, _ in pairs:
        digest.update(os.fsencode(name) + b"\0" + checks[name].digest)
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    names = tuple(name for name, _ in pairs)
    return ImageSource(schema, store, names, labels, digest.hexdigest(), sides=compute_shorter_sides(names, checks))


def compute_shorter_sides(names: Sequence[str], checks: Mapping[str, FileCheck]) -> Array:
    """Return the shorter sides of images, (N,)."""
    return np.array([min(checks[name].shape[:2]) for name in names], dtype=np.int64)


def arrange_files(names: Sequence[str], origin: str) -> tuple[Layout, list[str]]:
    """Return the parts and classes that relative names give. A single folder around everything is skipped.

    Raises `DataError` where there are no class folders, no training part, or folders beside the parts.
    """
    visible = [n for n in names if not any(is_hidden(step) for step in n.split("/") if step)]
    steps = strip_wrappers([tuple(n.split("/")) for n in visible])  # a folder's name ends in an empty step
    paths = {tail: "/".join(full) for tail, full in steps}
    folders = sorted({tail[0] for tail in paths if len(tail) > 1})
    notes: list[str] = []
    parts = {top: PARTS[top.lower()] for top in folders if top.lower() in PARTS}
    if "train" not in parts.values() or (len(parts) == 1 and len(folders) > 1):
        if parts and len(parts) == len(folders):
            raise DataError(f"{origin} has no training part", expected="a folder train/", received=", ".join(folders))
        return {"train": _group_by_class(paths, origin, notes)}, notes
    _check_parts(parts, folders, origin)
    layout = {}
    for top, part in parts.items():
        inner = {tail[1:]: name for tail, name in paths.items() if tail[0] == top and tail[1:] != ("",)}
        layout[part] = _group_by_class(inner, f"{origin}/{top}", notes)
    return layout, notes


def strip_wrappers(paths: list[tuple[str, ...]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return each path without the folders that wrap everything, with the full path.

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
    """Raise `DataError` for two folders for one part, and for folders that are no part."""
    duplicates = [part for part, count in Counter(parts.values()).items() if count > 1]
    if duplicates:
        both = ", ".join(top for top, part in parts.items() if part == duplicates[0])
        raise DataError(f"{origin} has several folders for the {duplicates[0]} part", expected="one", received=both)
    if len(parts) < len(folders):
        raise DataError(
            f"{origin} has folders beside {', '.join(parts)}",
            expected="only train/, val/ and test/, or only class folders",
            received=", ".join(top for top in folders if top not in parts),
            do="move them elsewhere",
        )


def _group_by_class(paths: dict[tuple[str, ...], str], origin: str, notes: list[str]) -> dict[str, list[str]]:
    """Group files by their class folder; note files outside and empty folders."""
    classes: dict[str, list[str]] = {}
    loose = 0
    for tail, name in sorted(paths.items()):
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
        notes.append(f"{origin}: no images in {format_names(empty)}, which is not counted as a class here")
    return {label: files for label, files in classes.items() if files}


def _collect_classes(layout: Layout, origin: str, notes: list[str]) -> tuple[str, ...]:
    """Return the sorted classes; raise `DataError` for those without training examples, note those that other parts
    lack."""
    filled = {part: {label for label, files in classes.items() if files} for part, classes in layout.items()}
    union = sorted(set().union(*filled.values()))
    for part, labels in filled.items():
        unknown = sorted(labels - filled["train"])
        if unknown:
            raise DataError(
                f"{origin}: the {part} part has classes without a training example: {format_names(unknown)}",
                expected=f"only classes of the training part: {format_names(sorted(filled['train']))}",
                do="add training examples of them, or take them out",
            )
        lacking = [label for label in union if label not in labels]
        if lacking:
            notes.append(f"{origin}: the {part} part has no examples of {format_names(lacking)}")
    return tuple(union)


def check_files(store: FileStore, names: Sequence[str]) -> dict[str, FileCheck]:
    """Decode every file and return the results; on threads where images are large enough.

    Small images cost more outside their codec, where the GIL is held, than in it: threads would only slow it down.
    """

    def check_file(name: str) -> FileCheck:
        try:
            data = store.read(name)
            shape = decoding.inspect_image(data, name=format_path(store, name))
        except DataError as error:
            return FileCheck((0, 0, 0), b"", error)
        return FileCheck(shape, hashlib.blake2b(data, digest_size=16).digest(), None)

    checks = [check_file(name) for name in names[:SERIAL]]
    pixels = sum(check.shape[0] * check.shape[1] for check in checks) / max(1, len(checks))
    if pixels < SMALL:
        checks += [check_file(name) for name in names[SERIAL:]]
    else:
        with ThreadPoolExecutor(max_workers=min(16, count_cores())) as pool:
            checks += pool.map(check_file, names[SERIAL:])
    return dict(zip(names, checks, strict=True))


def report_bad_files(store: FileStore, bad: dict[str, DataError], count: int, on_error: OnError) -> str:
    """Return a note on skipped files, or raise `DataError` unless ``on_error`` is "skip" and some files are good."""
    names = sorted(bad)
    if on_error == "skip" and len(bad) < count:
        return f"{len(bad)} of {count} files could not be decoded and were skipped: {format_names(names)}"
    listed = "\n".join(f"    {bad[name].what}" for name in names[:MAX_LISTED])
    more = f"\n    … and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    raise DataError(
        f"{len(bad)} of {count} files in {store.origin} cannot be used:\n{listed}{more}",
        expected="decodable images",
        do="replace or remove them, or leave them out with --set data.on_error=skip" if len(bad) < count else "",
    )


def _find_repeated_images(layout: Layout, checks: dict[str, FileCheck]) -> list[str]:
    """Return notes on images of other parts that are in the training part too, byte for byte."""

    def list_digests(part: str) -> list[bytes]:
        return [checks[name].digest for files in layout.get(part, {}).values() for name in files]

    train = set(list_digests("train"))
    counts = {part: sum(digest in train for digest in list_digests(part)) for part in ("val", "test")}
    return [
        f"{count} images of the {part} part are in the training part too" for part, count in counts.items() if count
    ]


def format_names(names: Iterable[str]) -> str:
    """Return the first names for a message, and how many more there are."""
    escaped = [decoding.escape_name(name) for name in names]
    return ", ".join(escaped[:MAX_LISTED]) + (
        f" and {len(escaped) - MAX_LISTED} more" if len(escaped) > MAX_LISTED else ""
    )


def open_folder(path: Path, *, on_error: OnError = "stop") -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """Read the class folders of a folder on disk (`read_class_folders`)."""
    return read_class_folders(FolderStore(str(path)), on_error=on_error)
