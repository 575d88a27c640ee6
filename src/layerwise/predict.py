"""From raw input to answer, the one way that commands, servers, pages and exports share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from layerwise import catalog, recipe
from layerwise.data.folders import hidden
from layerwise.data.loader import Batch
from layerwise.data.table_files import rows
from layerwise.errors import DataError, LayerwiseError, UsageError
from layerwise.run import RunDirectory, damaged
from layerwise.runtime import draws
from layerwise.tasks import registry as tasks
from layerwise.tasks.base import Task
from layerwise.weights import check

BATCH = 256


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to inference and back; random draws inside leave the training's state untouched."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), draws.untouched(device):
            yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Loaded:
    """A run's network with its best weights, and its task."""

    directory: RunDirectory
    card: catalog.Card
    model: nn.Module
    task: Task
    info: dict[str, Any]


def load(path: Path, device: torch.device | None = None) -> Loaded:
    """Open a run: build its network, put the best weights in, read its task. Every file that is read is verified.

    Raises `UsageError` for a folder that is no run and `DamagedError` for damaged files.
    """
    directory = RunDirectory.open(path)
    info = directory.info()
    recipe.from_toml(directory.read("recipe.toml"), str(path / "recipe.toml"))
    card = catalog.find(str(info["model"]["name"]))
    model: nn.Module = catalog.builder(card)(**info["model"]["arguments"])
    best = directory.restore("best")
    if best is None:
        raise UsageError(
            f"{path} has no weights yet", expected="a run that finished an epoch", do="let it train, or --resume it"
        )
    check(model, best.model, str(path))
    if any(t.dtype == torch.float64 for t in best.model.values()):
        model = model.double()
    model.load_state_dict(best.model)
    try:
        task = tasks.from_json(directory.task())
    except (KeyError, TypeError, msgspec.DecodeError) as error:
        raise damaged(path / "task.json", "it does not describe a task") from error
    return Loaded(directory, card, model.to(device or torch.device("cpu")).eval(), task, info)


@dataclass(frozen=True)
class Failure:
    """An input that could not be answered, and why."""

    input: str
    error: str


@dataclass(frozen=True)
class Answer:
    """An input and the task's prediction for it."""

    input: str
    prediction: msgspec.Struct


class Predictor:
    """Answers raw inputs: paths, pictures, arrays, rows."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self.model, self.task = model, task
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype

    def __call__(self, *raw: object) -> list[msgspec.Struct]:
        """Return one prediction for each input. Raises the first input's error, if any is bad."""
        out: list[msgspec.Struct] = []
        for start in range(0, len(raw), BATCH):
            out += self._answer([self.task.encode(item) for item in raw[start : start + BATCH]])
        return out

    def stream(self, items: Iterable[tuple[str, object]]) -> Iterator[Answer | Failure]:
        """Yield an answer or a failure for each named input, in order; a bad item fails alone. Memory stays bounded."""
        waiting = iter(items)
        while chunk := list(islice(waiting, BATCH)):
            encoded: list[torch.Tensor | Failure] = []
            for name, raw in chunk:
                try:
                    if isinstance(raw, LayerwiseError):
                        raise raw
                    encoded.append(self.task.encode(raw))
                except LayerwiseError as error:
                    encoded.append(Failure(name, str(error)))
            answers = iter(self._answer([e for e in encoded if not isinstance(e, Failure)]))
            for (name, _), item in zip(chunk, encoded, strict=True):
                yield item if isinstance(item, Failure) else Answer(name, next(answers))

    def _answer(self, encoded: list[torch.Tensor]) -> list[msgspec.Struct]:
        """Run the network on encoded inputs."""
        if not encoded:
            return []
        inputs = torch.stack(encoded).to(self.device, self.dtype)
        batch = Batch(inputs, None, torch.arange(len(encoded)))
        with evaluating(self.model, self.device):
            return self.task.decode(self.model(inputs), batch)


def named_inputs(given: Sequence[str], task: Task) -> Iterator[tuple[str, object]]:
    """Turn command-line inputs into named raw inputs: files, folders, rows, tables, ``-`` for standard input.

    What cannot be opened is yielded as an error in its place, so that it fails alone.
    """
    for text in given:
        if task.inputs.kind == "image":
            yield from _pictures(text)
        else:
            yield from _rows(text)


def _pictures(text: str) -> Iterator[tuple[str, object]]:
    """Yield a picture file, all files of a folder, or the picture on standard input."""
    path = Path(text).expanduser()
    if text == "-":
        yield "-", sys.stdin.buffer.read()
    elif path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and not hidden(p.relative_to(path).as_posix())]
        if not found:
            yield text, DataError(f"the folder {path} holds no files", expected="pictures")
        yield from ((str(p), p) for p in found)
    elif path.is_file():
        yield text, path
    else:
        yield text, DataError(f"there is no file or folder {path}", expected="a picture, a folder of pictures, or -")


def _rows(text: str) -> Iterator[tuple[str, object]]:
    """Yield the rows of a table file or of standard input, or the one row that was typed."""
    path = Path(text).expanduser()
    if text == "-":
        yield from ((f"-[{n}]", line.strip()) for n, line in enumerate(sys.stdin, start=1) if line.strip())
    elif path.is_file():
        try:
            yield from ((f"{text}[{n}]", positional(row)) for n, row in enumerate(chain.from_iterable(rows(path)), start=1))
        except LayerwiseError as error:
            yield text, error
    elif path.suffix and "," not in text:
        yield text, DataError(f"there is no file {path}", expected="a table, a row like 5.1,3.5,1.4,0.2, or -")
    else:
        yield text, text


def positional(row: dict[str, Any]) -> object:
    """Return a row of a table without a header (its columns are then called column1, column2 …) by position, as a typed row is."""
    bare = list(row) == [f"column{number}" for number in range(1, len(row) + 1)]
    return list(row.values()) if bare else row
