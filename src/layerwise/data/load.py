"""One source, told apart by content: a named data set, class folders, IDX files, an archive, a table or running
text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union

import msgspec
import numpy as np

from layerwise.data import sklearn_datasets
from layerwise.data.cache_folders import GIB
from layerwise.data.download import datasets
from layerwise.data.images import folders, idx
from layerwise.data.images.folders import ImageSource, OnBad
from layerwise.data.source import Array, ArraySource, Column, Described, Source, Splits, described
from layerwise.data.splits import split
from layerwise.data.tables.table_options import Header, Reading, Tokens
from layerwise.data.text import texts
from layerwise.errors import DataError, UsageError, nearest, unknown
from layerwise.runtime.input_files import refuse_special_file

if TYPE_CHECKING:
    from layerwise.data.tables.table_source import Table
    from layerwise.data.text.corpus import Corpus

Whole = Union[ArraySource, ImageSource, "Corpus"]
Like = tuple[tuple[str, str], ...]
LATER = {
    ".json": "JSON",
    ".wav": "audio",
    ".npz": "NumPy archives",
    ".npy": "NumPy arrays",
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is read, and how.

    ``source``: a named data set or a path. Image files: ``on_bad`` stop or skip; ``cache`` auto, off or a folder:
    where decoded images are kept that do not fit in memory, at most ``cache_gib`` GiB of them in all
    (`image_cache`). Classes: ``positive`` sets one class
    against the rest. Tables: ``target`` column (the last if empty), ``header`` auto, yes or no, ``drop`` columns,
    ``encoding`` of text, ``categories`` columns of names, ``missing`` further marks of a gap, ``dates`` the format of
    dates, and columns with a purpose
    of their own: ``id``, ``group``, ``time``, ``weight`` (`tables.Reading`), ``image`` the column that names images
    (`image_tables`). Text: ``tokens`` what a token is, ``lower`` whether capitals become small (`alphabet`),
    ``files`` which of a folder's files are read (a pattern as in a shell), ``phrases`` how many passes join words, by
    ``phrase_threshold`` and ``phrase_discount`` (`data.phrases`); ``encoding``, ``cache`` and ``cache_gib`` hold for it
    too (`corpus_build`).
    """

    source: str
    target: str = ""
    header: Header = "auto"
    drop: tuple[str, ...] = ()
    encoding: str = "utf-8"
    on_bad: OnBad = "stop"
    positive: str = ""
    categories: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    dates: str = ""
    id: str = ""
    group: str = ""
    time: str = ""
    weight: str = ""
    image: str = ""
    cache: str = "auto"
    cache_gib: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 10.0
    tokens: Tokens = "words"
    lower: bool = True
    files: str = ""
    phrases: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    phrase_threshold: Annotated[float, msgspec.Meta(ge=0)] = 100.0
    phrase_discount: Annotated[float, msgspec.Meta(ge=0)] = 5.0


TABLE = ("target", "header", "drop", "encoding", "categories", "missing", "dates", "id", "group", "time", "weight")
TABLE_ONLY = tuple(field for field in TABLE if field != "encoding")
TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
FILES = ("on_bad", "cache", "cache_gib")
NAMING = ("image",)  # tables of images
CORPUS = "tokens.bin"  # `corpus.TOKENS`
TEXT = ("tokens", "lower", "phrases", "phrase_threshold", "phrase_discount", "files")
NOT_NAMING = ("categories", "dates", "id")


class Parts(NamedTuple):
    """What a reader found: some of train, val and test, notes, and what splitting the training part must keep (N,)."""

    parts: Mapping[str, Whole]
    name: str
    notes: tuple[str, ...] = ()
    groups: Array | None = None
    times: Array | None = None
    columns: tuple[Described, ...] = ()


def open_data(options: Options, *, seed: int, like: Sequence[Column] = ()) -> Splits:
    """Open a source and complete it to training, validation and test parts.

    Given parts are kept; what is missing is drawn with the seed (`splits.split`). With ``like`` a table's columns are
    read as these were, by name, and others are left out. Raises `UsageError` for unknown names and for options that the
    source has no use for, and `DataError` for data that cannot be
    used: damaged, empty, of one class only (F15).
    """
    found = open_parts(options, like=like)
    if "train" in found.parts:
        check_usable(found.parts["train"], found.name)
    sources: dict[str, Source] = {**found.parts}
    made = split(sources, name=found.name, seed=seed, notes=found.notes, groups=found.groups, times=found.times)
    return replace(made, columns=found.columns)


def open_parts(options: Options, *, like: Sequence[Column] = ()) -> Parts:
    """Open a source as it is, undivided where it has no parts of its own; few examples or one class will do, to measure
    on.

    ``like`` as in `open_data`.

    Raises `UsageError` and `DataError` as `open_data` does otherwise.
    """
    known = tuple((column.name, column.kind) for column in like)
    if options.source == texts.STANDARD_INPUT:
        _refuse(options, ("files",), "standard input")
        found = _text({"train": texts.standard_input(options.encoding)}, options, "stdin")
    else:
        found = _named(options, known) if _is_name(options.source) else _path(options, known)
    if options.positive:
        return found._replace(
            parts={part: one_against_rest(source, options.positive) for part, source in found.parts.items()}
        )
    return found


def one_against_rest(source: Whole, positive: str) -> Whole:
    """Return the source with two classes, (``not X``, ``X``). Raises `UsageError` for an unknown class."""
    schema = source.schema
    if not schema.classes or source.targets is None:
        raise UsageError(
            "data.positive needs classes",
            expected="a source with classes",
            received=f"a {schema.target} to predict",
        )
    if positive not in schema.classes:
        raise unknown("class", positive, schema.classes, where="data.positive")
    hits = source.targets == schema.classes.index(positive)
    two = msgspec.structs.replace(schema, target="class", classes=(f"not {positive}", positive))
    return replace(source, schema=two, targets=hits.astype(np.int64))


def check_usable(source: Whole, name: str) -> None:
    """Refuse empty data and data whose targets are all the same (F15)."""
    targets: Array | None = source.targets
    if not len(source):
        raise DataError(f"{name} is empty", expected="examples of at least two classes", received="none")
    if targets is None or len(source) < 2 or len(np.unique(targets)) > 1:
        return
    classes = source.schema.classes
    value = f"of class '{classes[int(targets[0])]}'" if classes else f"with {source.schema.target_name} {targets[0]}"
    raise DataError(
        f"{name}: there is nothing to tell apart",
        expected="examples of at least two classes" if classes else "a target that varies",
        received=f"{len(source)} examples, all {value}",
        do="add other examples, or choose another target",
    )


def _is_name(source: str) -> bool:
    """Tell whether a source is a name: of the catalog, or a bare word that is no path here."""
    if any(item.name == source for item in datasets.catalog()):
        return True
    plain = bool(source) and not any(mark in source for mark in "/\\.~")
    return plain and not Path(source).exists()


def _refuse(options: Options, fields: tuple[str, ...], what: str) -> None:
    """Refuse options that this kind of source has no use for."""
    for field in fields:
        if _given(options, (field,)):
            raise UsageError(
                f"data.{field} has no meaning for {what}",
                received=f"{field} = {getattr(options, field)!r}",
                do=f"leave data.{field} out",
            )


def _given(options: Options, fields: tuple[str, ...]) -> bool:
    """Whether one of these options says something."""
    return any(getattr(options, field) != _default(field) for field in fields)


def _default(field: str) -> Any:
    """Return the default of an option."""
    return msgspec.structs.fields(Options)[Options.__struct_fields__.index(field)].default


def _named(options: Options, like: Like) -> Parts:
    """Open a named data set."""
    item = datasets.find(options.source)
    if item.benchmark:
        raise UsageError(f"{item.name} is a benchmark: there is nothing in it to learn from", do=item.benchmark)
    if item.embedded:
        _refuse(options, (*TABLE, *FILES, *NAMING, *TEXT), f"the data set {item.name}")
        source = sklearn_datasets.load(item.name)
        columns = described(source) if source.schema.kind == "row" else ()
        return Parts({"train": source}, item.name, columns=columns)
    if item.choices and not options.files:
        raise UsageError(
            f"{item.name} has the same text several times, and one is needed",
            expected=f"data.files with one of {', '.join(item.choices)}",
            do=f"--set 'data.files={item.choices[0]}'",
        )
    if item.columns:
        return _named_table(item, options, like)
    return _folder(datasets.folder_of(item.name), options, item.name, item.classes, like=like)


def _named_table(item: datasets.NamedData, options: Options, like: Like) -> Parts:
    """Open a named data set of tables without a header."""
    from layerwise.data.tables import table_parts  # pyarrow is slow to import

    _refuse(options, (*FILES, *NAMING, *TEXT), "tables")
    folder = datasets.folder_of(item.name)
    reading = reading_of(options, names=item.columns, like=() if item.apart else like)
    return _tables(table_parts.read_named(folder, reading, apart=item.apart, trim=item.trim), item.name)


def reading_of(options: Options, *, names: tuple[str, ...] = (), like: Like = ()) -> Reading:
    """Return the options of a table."""
    return Reading(**{field: getattr(options, field) for field in TABLE}, names=names, like=like)


def _tables(found: Mapping[str, Table], name: str) -> Parts:
    """Return tables, one a part, as parts."""
    train = found["train"]
    return Parts(
        {part: table.source for part, table in found.items()},
        name,
        train.notes,
        train.groups,
        train.times,
        train.described,
    )


def _path(options: Options, like: Like) -> Parts:
    """Open a path by its content."""
    try:
        path = Path(options.source).expanduser()
        exists = bool(options.source) and path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"the path '{options.source}' cannot be used: {error}") from error
    if not exists:
        raise _absent(options.source, path)
    name = path.stem.removesuffix(".tar") or path.resolve().name or str(path)
    try:
        if path.is_dir():
            return _folder(path, options, path.resolve().name, like=like)
        return _file(path, options, name, like)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _absent(source: str, path: Path) -> UsageError:
    """Make the error for a path that is not there, with the nearest name beside it."""
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    near = nearest(path.name, beside)
    known = ", ".join(item.name for item in datasets.catalog())
    return UsageError(
        f"there is no file or folder '{source}'",
        expected=f"a path, or one of the named data sets: {known}",
        do=f"did you mean '{path.parent / near}'?" if near else "check the path",
    )


def _folder(path: Path, options: Options, name: str, classes: tuple[str, ...] = (), *, like: Like) -> Parts:
    """Open a folder: IDX files, class folders, texts, a corpus that was made before, or one archive or table in it."""
    if (path / CORPUS).is_file():
        return _corpus(path, options, name)
    if idx.is_idx(path):
        _refuse(options, (*TABLE, *FILES, *NAMING, *TEXT), "IDX files")
        return Parts(idx.read(path, classes), name)
    visible = [entry for entry in path.iterdir() if not folders.hidden(entry.name)]
    for entry in visible:
        refuse_special_file(entry)
    if len(visible) == 1 and visible[0].is_file() and not options.files:
        return _file(visible[0], options, name, like)
    images = _image_tables(visible, options, name)
    if images is not None:
        return images
    if visible and all(entry.suffix.lower() in TABLES for entry in visible):
        from layerwise.data.tables import table_parts

        _refuse(options, (*FILES, *TEXT), "tables")
        return _tables(table_parts.read_parts(visible, reading_of(options, like=like)), name)
    running = texts.parts_of(path, lambda file: _may_run(file, options), encoding=options.encoding, files=options.files)
    if running:
        return _text(running, options, name)
    _refuse(options, (*TABLE, *NAMING, *TEXT), "class folders")
    parts, notes = folders.open_folder(path, on_bad=options.on_bad)
    return Parts(parts, name, notes)


def _file(path: Path, options: Options, name: str, like: Like) -> Parts:
    """Open an archive or a table."""
    from layerwise.data.images import archives

    refuse_special_file(path)
    if _is_running(path, options):
        _refuse(options, ("files",), "a single file")
        return _text({"train": texts.Texts(str(path), (str(path),), options.encoding)}, options, name)
    if archives.is_archive(path):
        _refuse(options, (*TABLE, *NAMING, *TEXT), "archives of class folders")
        parts, notes = archives.open_archive(path, on_bad=options.on_bad)
        return Parts(parts, name, notes)
    _refuse_other(path)
    images = _image_tables([path], options, name)
    if images is not None:
        return images
    _refuse(options, (*FILES, *TEXT), "tables")
    from layerwise.data.tables import table_source  # pyarrow is slow to import

    return _tables({"train": table_source.read(path, reading_of(options, like=like))}, name)


def _image_tables(entries: list[Path], options: Options, name: str) -> Parts | None:
    """Open the tables among a folder's entries if they name images; None if they do not."""
    if not entries or (len(entries) > 1 and not any(entry.suffix.lower() in TABLES for entry in entries)):
        return None
    from layerwise.data.images import image_tables  # pyarrow is slow to import

    paths = image_tables.tables_in(entries, TABLES) if len(entries) > 1 else {"train": entries[0]}
    if not paths or not paths["train"].is_file():
        return None
    reading = reading_of(options)
    image = image_tables.column_in(paths["train"], reading, options.image)
    if not image:
        return None
    _refuse(options, (*NOT_NAMING, *TEXT), "tables of images")
    found = image_tables.read(paths, reading, image=image, on_bad=options.on_bad)
    return Parts(found.parts, name, found.notes, found.groups, found.times)


def _is_running(path: Path, options: Options) -> bool:
    """Tell by content, unless the options tell, whether a file is running text and no table."""
    if _given(options, (*TABLE_ONLY, *NAMING)):
        return False
    return _may_run(path, options) and (_given(options, TEXT) or not texts.is_table(path, options.encoding))


def _may_run(path: Path, options: Options) -> bool:
    """Tell by content whether a file is text that may be running text."""
    return path.suffix.lower() not in (*TABLES, *LATER) and texts.is_text(path, options.encoding)


def _text(found: Mapping[str, texts.Texts], options: Options, name: str) -> Parts:
    """Open the parts of a text."""
    from layerwise.data.text import text_parts  # numba is slow to import
    from layerwise.data.text.corpus_build import Cutting

    _refuse(options, (*TABLE_ONLY, *NAMING, "on_bad", "positive"), "text")
    if options.cache == "off":
        raise UsageError(
            "text is read from its tokens on disk",
            received="data.cache = 'off'",
            do="name a folder, or leave data.cache out",
        )
    cutting = Cutting(options.tokens, options.lower, options.phrases, options.phrase_threshold, options.phrase_discount)
    parts = text_parts.read(found, cutting, cache=options.cache, limit=int(options.cache_gib * GIB))
    notes = [note for corpus in parts.values() for note in corpus.index.notes]
    if options.source == texts.STANDARD_INPUT:
        notes.append(f"standard input is kept as {parts['train'].folder}: --data with that folder reads it again")
    return Parts(parts, name, tuple(notes))


def _corpus(path: Path, options: Options, name: str) -> Parts:
    """Open a folder with a corpus."""
    from layerwise.data.text import text_parts

    _refuse(options, (*TABLE, *NAMING, *TEXT, *FILES, "positive"), "a corpus that was made before")
    corpus = text_parts.built(path)
    return Parts({"train": corpus}, name[:8], corpus.index.notes)


def _refuse_other(path: Path) -> None:
    """Refuse a single image, and formats that are not read yet."""
    from layerwise.data.images import decoding

    ending: Any = LATER.get(path.suffix.lower())
    if ending:
        raise DataError(
            f"{path}: {ending} cannot be read yet",
            expected="a table (.csv, .tsv, .parquet, .jsonl), an archive or a folder",
        )
    try:
        decoding.probe(path)
    except DataError:
        return
    raise DataError(
        f"{path} is a single image",
        expected="a folder with a sub-folder of images for each class",
        do="give its folder",
    )
