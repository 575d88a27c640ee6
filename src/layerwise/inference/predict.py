"""From raw input to prediction, as commands, servers, pages and exports share it."""

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
from layerwise.data.batch import Batch
from layerwise.data.images import image_tables
from layerwise.data.images.folders import is_hidden
from layerwise.data.load import TABLE_ENDINGS
from layerwise.data.source import Array
from layerwise.data.tables import table_files
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError, LayerwiseError, UsageError
from layerwise.inference.engines.base import Engine
from layerwise.inference.export.base import ExportSource
from layerwise.nn.modes import eval_mode
from layerwise.run_directory import RunDirectory
from layerwise.runtime import compute_settings, rng
from layerwise.runtime.input_files import open_regular_file, refuse_special_file
from layerwise.runtime.resources import count_cores
from layerwise.tasks import table_encoding
from layerwise.tasks.base import Task
from layerwise.tasks.column_encoders import CategoryEncoder
from layerwise.tasks.registry import load_task
from layerwise.tasks.row_inputs import RowInputs
from layerwise.weights.saved_model import WEIGHTS, build_saved_model, check_task_fits, check_types

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 256
IMAGE_CHUNK = 64  # images at a time; memory holds two chunks: one in the network, one being decoded
ROW_CHUNK = 4096  # rows of a table at a time


@contextmanager
def inference_context(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to inference and back; random draws inside do not change the training's random state."""
    with eval_mode(model), torch.inference_mode(), rng.preserve_rng_state(device):
        yield


TTA = Literal["none", "flip"]


class FlipTTA(nn.Module):
    """Test-time augmentation by mirroring left to right: the mean prediction for each image and its mirror image."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, C, H, W) to the outputs of the mean prediction."""
        return self.task.average_outputs([self.model(x), self.model(x.flip(3))])


def with_tta(model: nn.Module, task: Task, tta: TTA) -> nn.Module:
    """Return the network with test-time augmentation: none, or the mean over each image and its mirror image.

    Raises `UsageError` for examples that are no images, and for tasks whose predictions have no mean.
    """
    if tta == "none":
        return model
    if task.inputs.kind != "image":
        raise UsageError(
            f"{task.inputs.kind}s have no mirror image", expected="a run on images", received=f"--tta {tta}"
        )
    task.average_outputs([torch.zeros(1, 1)])  # raises at once where there is no mean
    return FlipTTA(model, task)


@dataclass(frozen=True)
class LoadedRun:
    """A run's network with its best weights, and its task. ``weights`` is the checksum of the weights' file."""

    directory: RunDirectory
    spec: registry.ModelSpec
    model: nn.Module
    task: Task
    info: dict[str, Any]
    weights: str

    @property
    def export_source(self) -> ExportSource:
        """The network and its task, as an export or an engine takes them."""
        return ExportSource(self.spec, self.info["model"]["arguments"], self.model, self.task, self.weights)

    def make_engine(self, name: str = "torch") -> Engine:
        """Make the engine of this name (`layerwise.inference.engines.base.NAMES`, or ``auto``), checked against the
        network.

        Raises `UsageError` for an unknown name, a missing extra or a network that is no fixed graph, and `DamagedError`
        where an engine's outputs are not the network's.
        """
        from layerwise.inference.engines import engine_choice

        return engine_choice.make_engine(self.export_source, name, self.directory.path)


def load_run(path: Path, device: torch.device | None = None) -> LoadedRun:
    """Open a run: build its network, load the best weights, read its task. Every file that is read is verified.

    Raises `UsageError` for a folder that is no run and `DamagedError` for damaged files.
    """
    directory = RunDirectory.open(path)
    info = directory.info()
    run_recipe = recipe.from_toml(directory.read("recipe.toml"), str(path / "recipe.toml"))
    best = directory.restore("best")
    if best is None:
        raise UsageError(
            f"{path} has no weights yet", expected="a run that finished an epoch", do="let it train, or --resume it"
        )
    spec, model, arguments = build_saved_model(info, best.model, path)
    task = load_task(directory.read_task(), path / "task.json")
    check_task_fits(task.model_args(), arguments, path / "task.json")
    precision = "fp64" if run_recipe.train.precision == "fp64" else "fp32"
    model = model.to(compute_settings.get_dtype(precision))
    check_types(model, best.model, path / WEIGHTS)
    model.load_state_dict(best.model)
    model = model.to(device or torch.device("cpu")).eval()
    compute_settings.apply_layout(model, compute_settings.choose_layout(model, precision))
    return LoadedRun(directory, spec, model, task, info, best.info["files"]["model.safetensors"])


@dataclass(frozen=True)
class Failure:
    """An input without a prediction, and why."""

    input: str
    error: str


@dataclass(frozen=True)
class NamedPrediction:
    """An input and the task's prediction for it. ``unseen``: its categories that training never had, taken as
    unknown."""

    input: str
    prediction: msgspec.Struct
    unseen: tuple[str, ...] = ()


class InputChunk(NamedTuple):
    """Some named inputs: raw ones, or the rows of a table."""

    names: list[str]
    raw: Sequence[object] | pa.Table


class Predictor:
    """Predicts from raw inputs: paths, images, arrays, rows."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        """``model``: the network itself, or an engine that runs it."""
        self.model, self.task = model, task
        first = next(model.parameters(), torch.zeros(()))  # the runtimes have none: they take float32 on the CPU
        self.device, self.dtype = first.device, first.dtype

    def __call__(self, *raw: object) -> list[msgspec.Struct]:
        """Return one prediction for each input. Raises the first error of an invalid input or of a prediction that is
        not finite."""
        out: list[msgspec.Struct] = []
        for start in range(0, len(raw), BATCH):
            inputs = torch.stack([self.task.encode(item) for item in raw[start : start + BATCH]])
            for prediction in self._predict_batch(inputs):
                if isinstance(prediction, LayerwiseError):
                    raise prediction
                out.append(prediction)
        return out

    def stream(self, chunks: Iterable[InputChunk]) -> Iterator[NamedPrediction | Failure]:
        """Yield a prediction or a failure for each named input, in order; an invalid input fails alone.

        Memory is bounded.
        """
        if self.task.inputs.kind == "image":
            yield from self._predict_images(chunks)
            return
        for chunk in chunks:
            raw = chunk.raw
            if not isinstance(raw, Sequence):
                cells = (
                    table_encoding.parse_table(self.task.inputs, raw)
                    if isinstance(self.task.inputs, RowInputs)
                    else None
                )
                if cells is not None:
                    yield from self._predict_table(chunk.names, cells, raw)
                    continue
                raw = [drop_default_names(row) for row in raw.to_pylist()]
            yield from self._predict_each(chunk.names, raw)

    def _predict_table(self, names: list[str], cells: Array, table: pa.Table) -> Iterator[NamedPrediction | Failure]:
        """Predict from the rows of a table whose cells (N, D) are all valid."""
        assert isinstance(self.task.inputs, RowInputs)
        predictions = self._predict_batch(self.task.inputs.tensor(cells))
        unseen_cells = table_encoding.find_unseen(self.task.inputs, cells)
        features = self.task.inputs.features
        order = features if table_encoding.has_default_names(table.column_names) else tuple(table.column_names)
        for at, (name, prediction) in enumerate(zip(names, predictions, strict=True)):
            unseen = (
                [f"{features[c]} '{str(table[order.index(features[c])][at]).strip()}'" for c in unseen_cells[at]]
                if at in unseen_cells
                else ()
            )
            yield _name_prediction(name, prediction, unseen)

    def _predict_images(self, chunks: Iterable[InputChunk]) -> Iterator[NamedPrediction | Failure]:
        """Predict from images, decoded on threads; the next chunk is decoded while the network runs on one."""
        with ThreadPoolExecutor(max_workers=count_cores()) as pool:
            waiting: tuple[InputChunk, list[Future[torch.Tensor | Failure]]] | None = None
            for chunk in chain(chunks, (None,)):
                started = (
                    None
                    if chunk is None
                    else (chunk, [pool.submit(self._encode, *pair) for pair in zip(*chunk, strict=True)])
                )
                if waiting is not None:
                    (names, raw), futures = waiting
                    assert isinstance(raw, Sequence)
                    yield from self._predict_encoded(names, raw, [future.result() for future in futures])
                waiting = started

    def _encode(self, name: str, item: object) -> torch.Tensor | Failure:
        """Encode one input, or return why that failed."""
        try:
            if isinstance(item, LayerwiseError):
                raise item
            return self.task.encode(item)
        except LayerwiseError as error:
            return Failure(name, str(error))

    def _predict_each(self, names: list[str], raw: Sequence[object]) -> Iterator[NamedPrediction | Failure]:
        """Predict from inputs that are encoded one by one."""
        return self._predict_encoded(
            names, raw, [self._encode(name, item) for name, item in zip(names, raw, strict=True)]
        )

    def _predict_encoded(
        self, names: list[str], raw: Sequence[object], encoded: list[torch.Tensor | Failure]
    ) -> Iterator[NamedPrediction | Failure]:
        """Predict from encoded inputs together."""
        valid = [item for item in encoded if not isinstance(item, Failure)]
        predictions = iter(self._predict_batch(torch.stack(valid)) if valid else [])
        for name, item, given in zip(names, encoded, raw, strict=True):
            if isinstance(item, Failure):
                yield item
            else:
                yield _name_prediction(name, next(predictions), self._find_unseen(given))

    def _find_unseen(self, raw: object) -> tuple[str, ...]:
        """Return a raw row's categories that training never had."""
        inputs = self.task.inputs
        if not isinstance(inputs, RowInputs) or not any(
            isinstance(encoder, CategoryEncoder) for encoder in inputs.encoders
        ):
            return ()
        positions = table_encoding.find_unseen(inputs, inputs.parse_row(raw)[None]).get(0, [])
        cells = inputs.order_cells(raw)
        return tuple(f"{inputs.features[position]} '{cells[position]}'" for position in positions)

    def _predict_batch(self, inputs: torch.Tensor) -> list[msgspec.Struct | LayerwiseError]:
        """Run the network on encoded inputs (N, …). An input whose outputs are not finite gets an error."""
        inputs = inputs.to(self.device, self.dtype)
        batch = Batch(inputs, None, torch.arange(len(inputs)))
        with inference_context(self.model, self.device):
            outputs: torch.Tensor = self.model(inputs)
            predictions: list[msgspec.Struct | LayerwiseError] = [*self.task.decode(outputs, batch)]
            if bool(outputs.isfinite().all()):  # of a million rows nearly all
                return predictions
            finite = outputs.reshape(len(inputs), -1).isfinite().all(1)
        for index in torch.nonzero(~finite)[:, 0].tolist():
            predictions[index] = _make_overflow_error()
        return predictions


def _name_prediction(
    name: str, prediction: msgspec.Struct | LayerwiseError, unseen: Iterable[str]
) -> NamedPrediction | Failure:
    """Return a prediction with its input's name, or why there is none."""
    if isinstance(prediction, LayerwiseError):
        return Failure(name, str(prediction))
    return NamedPrediction(name, prediction, tuple(unseen)) if unseen else NamedPrediction(name, prediction)


def _make_overflow_error() -> DataError:
    """Return the error for an input from which the network computes infinity or NaN."""
    return DataError(
        "the network's outputs for this input are not finite",
        expected="an input like those of the training part",
        received="infinity or NaN: most often an input's numbers are too large for float32 on the way through the "
        "network",
        do="check this input's units and values",
    )


def read_inputs(given: Sequence[str], task: Task) -> Iterator[InputChunk]:
    """Read command-line inputs as chunks of named raw inputs: files, folders, rows, tables, ``-`` for standard input.

    An input that cannot be opened becomes an error in its chunk, so that it fails alone.
    """
    for text in given:
        try:
            refuse_special_file(Path(text).expanduser())
        except DataError as error:
            yield InputChunk([text], (error,))
            continue
        is_empty = True
        for chunk in _read_chunks(text, task):
            is_empty = False
            yield chunk
        if is_empty:
            yield InputChunk([text], (_make_empty_error(text, task),))


def _read_chunks(text: str, task: Task) -> Iterator[InputChunk]:
    """Return one command-line input's chunks; none where a file, or standard input, is empty."""
    if task.inputs.kind == "image":
        return _split_chunks(_find_images(text), IMAGE_CHUNK)
    if task.inputs.kind == "text":
        return _split_chunks(_read_questions(text))
    if Path(text).expanduser().is_file():
        return _read_table(text, task.inputs.encoding if isinstance(task.inputs, RowInputs) else "utf-8")
    return _split_chunks(_read_rows(text))


def _make_empty_error(text: str, task: Task) -> DataError:
    """Return the error for an empty input."""
    origin, has_lines = "standard input" if text == "-" else text, task.inputs.kind == "text"
    return DataError(
        f"{origin} has no {'lines' if has_lines else 'rows'}",
        expected="a question in each line" if has_lines else "a row for each example, below the header if there is one",
        received="a header only, or an empty file" if text != "-" else "nothing",
        do="check that the file was written completely, or give another input"
        if text != "-"
        else "pipe something into the command",
    )


def _split_chunks(items: Iterator[tuple[str, object]], size: int = BATCH) -> Iterator[InputChunk]:
    """Gather named inputs into chunks."""
    while chunk := list(islice(items, size)):
        names, raw = zip(*chunk, strict=True)
        yield InputChunk(list(names), raw)


def _read_table(text: str, encoding: str) -> Iterator[InputChunk]:
    """Yield the rows of a table file."""
    count = 0
    try:
        with closing(table_files.iterate_tables(Path(text).expanduser(), encoding=encoding, size=ROW_CHUNK)) as tables:
            for table in tables:
                yield InputChunk([f"{text}[{count + n}]" for n in range(1, len(table) + 1)], table)
                count += len(table)
    except LayerwiseError as error:
        yield InputChunk([text], (error,))


def _find_images(text: str) -> Iterator[tuple[str, object]]:
    """Yield an image file, all files of a folder, the images that a table names, or the image on standard
    input."""
    path = Path(text).expanduser()
    if text == "-":
        yield "-", sys.stdin.buffer.read()
    elif path.is_dir():
        paths = [p for p in sorted(path.rglob("*")) if not p.is_dir() and not is_hidden(p.relative_to(path).as_posix())]
        if not paths:
            yield text, DataError(f"the folder {path} holds no files", expected="images")
        yield from ((str(p), p) for p in paths)
    elif path.is_file() and (column := _find_image_column(path)):
        for rows in table_files.iterate_rows(path):
            yield from ((str(row[column]), path.parent / str(row[column]).strip()) for row in rows)
    elif path.is_file():
        yield text, path
    else:
        yield text, DataError(f"there is no file or folder {path}", expected="an image, a folder of images, or -")


def _find_image_column(path: Path) -> str:
    """Return the column of a table that names images, the empty text for other files."""
    return image_tables.find_image_column(path, TableOptions()) if path.suffix.lower() in TABLE_ENDINGS else ""


def _read_rows(text: str) -> Iterator[tuple[str, object]]:
    """Yield the rows of standard input, or the one row that was typed."""
    path = Path(text).expanduser()
    if text == "-":
        yield from ((f"-[{n}]", line.strip()) for n, line in enumerate(sys.stdin, start=1) if line.strip())
    elif path.suffix and "," not in text:
        yield text, DataError(f"there is no file {path}", expected="a table, a row like 5.1,3.5,1.4,0.2, or -")
    else:
        yield text, text


def _read_questions(text: str) -> Iterator[tuple[str, object]]:
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


def drop_default_names(row: dict[str, Any]) -> object:
    """Return a row of a table without a header (its columns are then called column1, column2 …) by position, as a typed
    row is."""
    return list(row.values()) if table_encoding.has_default_names(list(row)) else row
