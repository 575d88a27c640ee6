"""From raw input to answer, the one way that commands, servers, pages and exports share."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import torch
from torch import nn

from layerwise import recipe, registry
from layerwise.data.images import image_tables
from layerwise.data.images.folders import hidden
from layerwise.data.load import TABLES
from layerwise.data.loader import Batch
from layerwise.data.source import Array
from layerwise.data.tables import table_files
from layerwise.data.tables.table_options import Reading
from layerwise.errors import DataError, LayerwiseError, UsageError
from layerwise.inference.engines.base import Engine
from layerwise.inference.export.base import Subject
from layerwise.nn.modes import in_evaluation
from layerwise.run_directory import RunDirectory
from layerwise.runtime import compute_settings, rng
from layerwise.runtime.input_files import open_regular_file, refuse_special_file
from layerwise.runtime.machine import cores
from layerwise.tasks import columnar
from layerwise.tasks import registry as tasks
from layerwise.tasks.base import Task
from layerwise.tasks.coders import CategoryCoder
from layerwise.tasks.rows import RowInputs
from layerwise.weights.saved_model import WEIGHTS, build_saved_model, check_task_fits, check_types

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 256
IMAGES = 64  # at a time: two such pieces are held, one in the network and one that is decoded
ROWS = 4096  # of a table at a time


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to inference and back; random draws inside leave the training's state untouched."""
    with in_evaluation(model), torch.inference_mode(), rng.untouched(device):
        yield


Looks = Literal["none", "flip"]


class Mirrored(nn.Module):
    """A network that looks at each image and at its mirror image, left to right: the mean of both answers."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, C, H, W) to the outputs of the mean answer."""
        return self.task.averaged([self.model(x), self.model(x.flip(3))])


def looking(model: nn.Module, task: Task, tta: Looks) -> nn.Module:
    """Return the network as it looks at examples (test-time augmentation): once, or at their mirror images too.

    Raises `UsageError` for examples that are no images, and for tasks whose answers have no mean.
    """
    if tta == "none":
        return model
    if task.inputs.kind != "image":
        raise UsageError(
            f"{task.inputs.kind}s have no mirror image", expected="a run on images", received=f"--tta {tta}"
        )
    task.averaged([torch.zeros(1, 1)])  # refuses at once
    return Mirrored(model, task)


@dataclass(frozen=True)
class Loaded:
    """A run's network with its best weights, and its task. ``weights`` is the checksum of the file they lie in."""

    directory: RunDirectory
    spec: registry.ModelSpec
    model: nn.Module
    task: Task
    info: dict[str, Any]
    weights: str

    @property
    def subject(self) -> Subject:
        """What an export of this run is of."""
        return Subject(self.spec, self.info["model"]["arguments"], self.model, self.task, self.weights)

    def engine(self, name: str = "torch") -> Engine:
        """Make the engine of this name (`layerwise.inference.engines.base.NAMES`, or ``auto``), checked against the
        network.

        Raises `UsageError` for an unknown name, a missing extra or a network that is no fixed graph, and `DamagedError`
        where an engine's outputs are not the network's.
        """
        from layerwise.inference.engines import choice

        return choice.make(self.subject, name, self.directory.path)


def load(path: Path, device: torch.device | None = None) -> Loaded:
    """Open a run: build its network, put the best weights in, read its task. Every file that is read is verified.

    Raises `UsageError` for a folder that is no run and `DamagedError` for damaged files.
    """
    directory = RunDirectory.open(path)
    info = directory.info()
    made = recipe.from_toml(directory.read("recipe.toml"), str(path / "recipe.toml"))
    best = directory.restore("best")
    if best is None:
        raise UsageError(
            f"{path} has no weights yet", expected="a run that finished an epoch", do="let it train, or --resume it"
        )
    spec, model, arguments = build_saved_model(info, best.model, path)
    task = tasks.from_json(directory.task(), path / "task.json")
    check_task_fits(task.model_args(), arguments, path / "task.json")
    precision = "fp64" if made.train.precision == "fp64" else "fp32"
    model = model.to(compute_settings.dtype(precision))
    check_types(model, best.model, path / WEIGHTS)
    model.load_state_dict(best.model)
    model = model.to(device or torch.device("cpu")).eval()
    compute_settings.lay_out(model, compute_settings.layout_of(model, precision))
    return Loaded(directory, spec, model, task, info, best.info["files"]["model.safetensors"])


@dataclass(frozen=True)
class Failure:
    """An input that could not be answered, and why."""

    input: str
    error: str


@dataclass(frozen=True)
class Answer:
    """An input and the task's prediction for it. ``unseen``: its categories that training never had, taken as
    unknown."""

    input: str
    prediction: msgspec.Struct
    unseen: tuple[str, ...] = ()


class Piece(NamedTuple):
    """Some named inputs: raw ones, or the rows of a table."""

    names: list[str]
    raw: Sequence[object] | pa.Table


class Predictor:
    """Answers raw inputs: paths, images, arrays, rows."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        """``model``: the network itself, or an engine that runs it."""
        self.model, self.task = model, task
        first = next(model.parameters(), torch.zeros(()))  # the runtimes have none: they take float32 on the CPU
        self.device, self.dtype = first.device, first.dtype

    def __call__(self, *raw: object) -> list[msgspec.Struct]:
        """Return one prediction for each input. Raises the first input's error, if any is bad, or if its answer is not
        finite."""
        out: list[msgspec.Struct] = []
        for start in range(0, len(raw), BATCH):
            for answer in self._answer(torch.stack([self.task.encode(item) for item in raw[start : start + BATCH]])):
                if isinstance(answer, LayerwiseError):
                    raise answer
                out.append(answer)
        return out

    def stream(self, pieces: Iterable[Piece]) -> Iterator[Answer | Failure]:
        """Yield an answer or a failure for each named input, in order; a bad item fails alone. Memory stays bounded."""
        if self.task.inputs.kind == "image":
            yield from self._images(pieces)
            return
        for piece in pieces:
            raw = piece.raw
            if not isinstance(raw, Sequence):
                cells = columnar.cells_of(self.task.inputs, raw) if isinstance(self.task.inputs, RowInputs) else None
                if cells is not None:
                    yield from self._rows(piece.names, cells, raw)
                    continue
                raw = [positional(row) for row in raw.to_pylist()]
            yield from self._each(piece.names, raw)

    def _rows(self, names: list[str], cells: Array, table: pa.Table) -> Iterator[Answer | Failure]:
        """Answer the rows of a table whose cells (N, D) are all in order."""
        assert isinstance(self.task.inputs, RowInputs)
        answers = self._answer(self.task.inputs.tensor(cells))
        strange = columnar.unseen(self.task.inputs, cells)
        features = self.task.inputs.features
        order = features if columnar.bare(table.column_names) else tuple(table.column_names)
        for at, (name, answer) in enumerate(zip(names, answers, strict=True)):
            found = (
                [f"{features[c]} '{str(table[order.index(features[c])][at]).strip()}'" for c in strange[at]]
                if at in strange
                else ()
            )
            yield _named(name, answer, found)

    def _images(self, pieces: Iterable[Piece]) -> Iterator[Answer | Failure]:
        """Answer images, decoded on threads; the next piece is decoded while the network looks at one."""
        with ThreadPoolExecutor(max_workers=cores()) as pool:
            waiting: tuple[Piece, list[Future[torch.Tensor | Failure]]] | None = None
            for piece in chain(pieces, (None,)):
                begun = (
                    None
                    if piece is None
                    else (piece, [pool.submit(self._encoded, *pair) for pair in zip(*piece, strict=True)])
                )
                if waiting is not None:
                    (names, raw), futures = waiting
                    assert isinstance(raw, Sequence)
                    yield from self._answered(names, raw, [future.result() for future in futures])
                waiting = begun

    def _encoded(self, name: str, item: object) -> torch.Tensor | Failure:
        """Encode one input, or say why that cannot be done."""
        try:
            if isinstance(item, LayerwiseError):
                raise item
            return self.task.encode(item)
        except LayerwiseError as error:
            return Failure(name, str(error))

    def _each(self, names: list[str], raw: Sequence[object]) -> Iterator[Answer | Failure]:
        """Answer inputs that are encoded one by one."""
        return self._answered(names, raw, [self._encoded(name, item) for name, item in zip(names, raw, strict=True)])

    def _answered(
        self, names: list[str], raw: Sequence[object], encoded: list[torch.Tensor | Failure]
    ) -> Iterator[Answer | Failure]:
        """Answer encoded inputs together."""
        good = [item for item in encoded if not isinstance(item, Failure)]
        answers = iter(self._answer(torch.stack(good)) if good else [])
        for name, item, given in zip(names, encoded, raw, strict=True):
            yield item if isinstance(item, Failure) else _named(name, next(answers), self._unseen(given))

    def _unseen(self, raw: object) -> tuple[str, ...]:
        """Return a raw row's categories that training never had."""
        inputs = self.task.inputs
        if not isinstance(inputs, RowInputs) or not any(isinstance(coder, CategoryCoder) for coder in inputs.coders):
            return ()
        at = columnar.unseen(inputs, inputs.cells(raw)[None]).get(0, [])
        cells = inputs.given(raw)
        return tuple(f"{inputs.features[place]} '{cells[place]}'" for place in at)

    def _answer(self, inputs: torch.Tensor) -> list[msgspec.Struct | LayerwiseError]:
        """Run the network on encoded inputs (N, …). An input whose outputs are not finite gets an error in its
        place."""
        inputs = inputs.to(self.device, self.dtype)
        batch = Batch(inputs, None, torch.arange(len(inputs)))
        with evaluating(self.model, self.device):
            outputs: torch.Tensor = self.model(inputs)
            answers: list[msgspec.Struct | LayerwiseError] = [*self.task.decode(outputs, batch)]
            if bool(outputs.isfinite().all()):  # of a million rows nearly all
                return answers
            finite = outputs.reshape(len(inputs), -1).isfinite().all(1).tolist()
        return [answer if fine else _overflowed() for answer, fine in zip(answers, finite, strict=True)]


def _named(name: str, answer: msgspec.Struct | LayerwiseError, unseen: Iterable[str]) -> Answer | Failure:
    """Return an answer under its input's name, or why there is none."""
    if isinstance(answer, LayerwiseError):
        return Failure(name, str(answer))
    return Answer(name, answer, tuple(unseen)) if unseen else Answer(name, answer)


def _overflowed() -> DataError:
    """Make the error for an input from which the network computes infinity or NaN."""
    return DataError(
        "the network's outputs for this input are not finite",
        expected="an input like those of the training part",
        received="infinity or NaN: most often an input's numbers are too large for float32 on the way through the "
        "network",
        do="check this input's units and values",
    )


def named_inputs(given: Sequence[str], task: Task) -> Iterator[Piece]:
    """Turn command-line inputs into pieces of named raw inputs: files, folders, rows, tables, ``-`` for standard input.

    What cannot be opened is given as an error in its place, so that it fails alone.
    """
    for text in given:
        try:
            refuse_special_file(Path(text).expanduser())
        except DataError as error:
            yield Piece([text], (error,))
            continue
        some = False
        for piece in _pieces_of(text, task):
            some = True
            yield piece
        if not some:
            yield Piece([text], (_nothing_in(text, task),))


def _pieces_of(text: str, task: Task) -> Iterator[Piece]:
    """Return one command-line input's pieces; none where a file, or standard input, holds nothing to answer."""
    if task.inputs.kind == "image":
        return _in_pieces(_images(text), IMAGES)
    if task.inputs.kind == "text":
        return _in_pieces(_questions(text))
    if Path(text).expanduser().is_file():
        return _tables(text, task.inputs.encoding if isinstance(task.inputs, RowInputs) else "utf-8")
    return _in_pieces(_rows(text))


def _nothing_in(text: str, task: Task) -> DataError:
    """Make the error for an input that holds nothing to answer."""
    place, lines = "standard input" if text == "-" else text, task.inputs.kind == "text"
    return DataError(
        f"{place} has no {'lines' if lines else 'rows'}",
        expected="a question in each line" if lines else "a row for each example, below the header if there is one",
        received="a header only, or an empty file" if text != "-" else "nothing",
        do="check that the file was written completely, or give another input"
        if text != "-"
        else "pipe something into the command",
    )


def _in_pieces(items: Iterator[tuple[str, object]], size: int = BATCH) -> Iterator[Piece]:
    """Gather named inputs into pieces."""
    while chunk := list(islice(items, size)):
        names, raw = zip(*chunk, strict=True)
        yield Piece(list(names), raw)


def _tables(text: str, encoding: str) -> Iterator[Piece]:
    """Yield the rows of a table file."""
    count = 0
    try:
        with closing(table_files.pieces(Path(text).expanduser(), encoding=encoding, size=ROWS)) as found:
            for table in found:
                yield Piece([f"{text}[{count + n}]" for n in range(1, len(table) + 1)], table)
                count += len(table)
    except LayerwiseError as error:
        yield Piece([text], (error,))


def _images(text: str) -> Iterator[tuple[str, object]]:
    """Yield an image file, all files of a folder, the images that a table names, or the image on standard
    input."""
    path = Path(text).expanduser()
    if text == "-":
        yield "-", sys.stdin.buffer.read()
    elif path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if not p.is_dir() and not hidden(p.relative_to(path).as_posix())]
        if not found:
            yield text, DataError(f"the folder {path} holds no files", expected="images")
        yield from ((str(p), p) for p in found)
    elif path.is_file() and (column := _names_images(path)):
        for rows in table_files.rows(path):
            yield from ((str(row[column]), path.parent / str(row[column]).strip()) for row in rows)
    elif path.is_file():
        yield text, path
    else:
        yield text, DataError(f"there is no file or folder {path}", expected="an image, a folder of images, or -")


def _names_images(path: Path) -> str:
    """Return the column of a table that names images, the empty text for other files."""
    return image_tables.column_in(path, Reading()) if path.suffix.lower() in TABLES else ""


def _rows(text: str) -> Iterator[tuple[str, object]]:
    """Yield the rows of standard input, or the one row that was typed."""
    path = Path(text).expanduser()
    if text == "-":
        yield from ((f"-[{n}]", line.strip()) for n, line in enumerate(sys.stdin, start=1) if line.strip())
    elif path.suffix and "," not in text:
        yield text, DataError(f"there is no file {path}", expected="a table, a row like 5.1,3.5,1.4,0.2, or -")
    else:
        yield text, text


def _questions(text: str) -> Iterator[tuple[str, object]]:
    """Yield the lines of standard input or of a text file, or the one question that was typed."""
    path = Path(text).expanduser()
    if text == "-":
        yield from ((line.strip(), line.strip()) for line in sys.stdin if line.strip())
    elif path.suffix and path.is_file():
        try:
            with io.TextIOWrapper(open_regular_file(path), encoding="utf-8") as file:
                yield from ((line.strip(), line.strip()) for line in file if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            yield text, DataError(f"{path} cannot be read as text: {error}", expected="a question a line, in UTF-8")
    else:
        yield text, text


def positional(row: dict[str, Any]) -> object:
    """Return a row of a table without a header (its columns are then called column1, column2 …) by position, as a typed
    row is."""
    return list(row.values()) if columnar.bare(list(row)) else row
