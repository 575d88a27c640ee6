"""A refused command changes nothing: every call in the tests that ends with exit code 2, or raises the error for it, is
checked.

The entry points are wrapped once for all tests. Before each call the folder of the test is recorded (names, kinds,
modes, links, sizes and digests of the content; no times), and the folders of fixtures that the call names; after a
refusal all must be as before.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
LARGE = 64 << 20  # bytes of a folder; of what lies beyond, names and sizes are compared
STABLE_AFTER = 50_000_000  # nanoseconds after a change; then its times show whether a file changes again
ENTRIES = (
    "layerwise.cli:main",
    "layerwise.api:train",
    "layerwise.api:open",
    "layerwise.api:build",
    "layerwise.api:Run.export",
    "layerwise.weights.vector_files:write_vectors",
    "layerwise.training.run_training:train",
    "layerwise.embeddings.index:build_index",
    "layerwise.inspection:inspect_target",
    "layerwise.inference.export.files:export",
)
Record = dict[str, tuple[object, ...]]


class Watch:
    """What is watched now: the folder of the test that runs, and whether a call is checked already (the outermost one
    is)."""

    base = Path("/")
    folder: Path | None = None
    depth = 0
    digests: dict[tuple[int, ...], str] = {}  # noqa: RUF012


# -- what a folder holds -----------------------------------------------------------------------------------------------


def record(folder: Path) -> Record:
    """Return what lies below a folder, by path."""
    entries: Record = {}
    size = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):
                facts = os.lstat(path)
                size += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
                entries[os.path.relpath(path, folder)] = _describe(path, facts, digested=size <= LARGE)
    return entries


def _describe(path: str, facts: os.stat_result, *, digested: bool) -> tuple[object, ...]:
    """Return what one entry is."""
    if stat.S_ISLNK(facts.st_mode):
        return "a link", os.readlink(path)
    if stat.S_ISREG(facts.st_mode):
        return "a file", oct(facts.st_mode), facts.st_size, _digest(path, facts) if digested else ""
    return (oct(facts.st_mode),)


def _digest(path: str, facts: os.stat_result) -> str:
    """Return a digest of a file's content; of one that was not changed since, the digest from before."""
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    if key not in Watch.digests:
        is_stable = time.time_ns() - facts.st_ctime_ns > STABLE_AFTER
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "blake2b").hexdigest()[:16]
        if not is_stable:
            return digest
        Watch.digests[key] = digest
    return Watch.digests[key]


def find_differences(before: Record, after: Record) -> list[str]:
    """Return how two records differ, a line for each path."""
    lines = [f"{path}: is new, {after[path]}" for path in sorted(after.keys() - before.keys())]
    lines += [f"{path}: is gone" for path in sorted(before.keys() - after.keys())]
    lines += [
        f"{p}: {before[p]} became {after[p]}" for p in sorted(before.keys() & after.keys()) if before[p] != after[p]
    ]
    return lines


# -- calls
# ---------------------------------------------------------------------------------------------------------------


@contextmanager
def watch_call(named: object) -> Iterator[Callable[[str], None]]:
    """Yield a function to call with the words of a refusal: it fails the test if something below the watched folders
    changed."""
    if Watch.folder is None or Watch.depth or multiprocessing.active_children():  # which may be at work in the folder
        yield lambda _: None
        return
    parts = re.findall(re.escape(str(Watch.base)) + r"/[^/'\"\s,\]\)]+", repr(named))
    folders = {Watch.folder, *(Path(part) for part in parts if Path(part).is_dir())}
    before = {folder: record(folder) for folder in folders}

    def check(refusal: str) -> None:
        after = {folder: record(folder) for folder in folders}
        changed = [f"{folder}/{line}" for folder in folders for line in find_differences(before[folder], after[folder])]
        changed = [line for line in changed if not _holds_predictions(named, line)]
        if changed:
            pytest.fail(f"a refused call left traces: {named}\n  refusal: {refusal}\n  " + "\n  ".join(changed))

    Watch.depth += 1
    try:
        yield check
    finally:
        Watch.depth -= 1


def _holds_predictions(named: object, line: str) -> bool:
    """Whether a difference is the file of predictions of ``predict``, the one thing that exit code 2 may leave: some
    inputs were predicted, the others failed."""
    words = _flatten_words(named)
    if "predict" not in words or "--out" not in words:
        return False
    out = Path(words[words.index("--out") + 1]).absolute()
    return line.startswith((f"{out}: is new", f"{out}: (")) and out.is_file() and out.read_bytes().startswith(b"input,")


def _flatten_words(named: object) -> list[str]:
    """Return the words among what a call was given, lists in lists laid out."""
    if isinstance(named, list | tuple):
        return [word for part in named for word in _flatten_words(part)]
    return [str(named)]


@contextmanager
def watch(folder: Path, base: Path) -> Iterator[None]:
    """Watch a test's folder while the test runs, and the folders of fixtures below ``base`` that its calls name."""
    Watch.folder, Watch.base = folder, base
    yield
    Watch.folder = None


def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that checks each call of another that is refused."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        from layerwise.errors import LayerwiseError

        with watch_call((args, options)) as check:
            try:
                result = function(*args, **options)
            except LayerwiseError as error:
                if error.exit_code == 2:
                    check(str(error))
                raise
            if result == 2 and isinstance(result, int):
                check("exit code 2")
            return result

    return call


def wrap_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `subprocess.run` that checks each process of the command that ends with exit code 2."""

    @functools.wraps(function)
    def run(words: Any, *args: Any, **options: Any) -> Any:
        ours = isinstance(words, Sequence) and not isinstance(words, str) and "layerwise" in map(str, words)
        if not ours:
            return function(words, *args, **options)
        with watch_call((words, options)) as check:
            try:
                done = function(words, *args, **options)
            except subprocess.CalledProcessError as error:
                if error.returncode == 2:
                    check(str(error.stderr))
                raise
            if done.returncode == 2:
                check(str(done.stderr))
            return done

    return run


def wrap_entry_points() -> None:
    """Put the wrappers into the modules that define the entry points, and wherever the tests and the package hold them
    by name."""
    for entry in ENTRIES:
        module, _, name = entry.partition(":")
        owner_object: Any = importlib.import_module(module)
        *owners, last = name.split(".")
        for owner in owners:
            owner_object = getattr(owner_object, owner)
        original = getattr(owner_object, last)
        wrapper = wrap(original)
        setattr(owner_object, last, wrapper)
        if inspect.isfunction(original) and not owners:
            _replace(original, wrapper)
    subprocess.run = wrap_run(subprocess.run)


def _replace(original: object, wrapper: object) -> None:
    """Replace a function wherever a module of the package or of the tests has it."""
    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] == "layerwise" or Path(getattr(module, "__file__", None) or "/").is_relative_to(TESTS)
        for key, value in list(vars(module).items()) if ours else ():
            if value is original:
                setattr(module, key, wrapper)
