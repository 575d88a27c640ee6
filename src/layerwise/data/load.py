"""Loading a source by its content: a named data set, class folders, IDX files, an archive, a table or running text."""

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
from layerwise.data.images.folders import ImageSource, OnError
from layerwise.data.source import Array, ArraySource, Column, ColumnSummary, Source, Splits, summarize_columns
from layerwise.data.splits import complete_splits
from layerwise.data.tables.table_options import Header, TableOptions, Tokens
from layerwise.data.text import text_files
from layerwise.errors import DataError, UsageError, find_nearest, make_unknown_name_error
from layerwise.runtime.input_files import refuse_special_file

if TYPE_CHECKING:
    from layerwise.data.tables.table_source import Table
    from layerwise.data.text.corpus import Corpus

LoadedSource = Union[ArraySource, ImageSource, "Corpus"]
KnownColumns = tuple[tuple[str, str], ...]
UNSUPPORTED = {
    ".json": "JSON",
    ".wav": "audio",
    ".npz": "NumPy archives",
    ".npy": "NumPy arrays",
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source of the data and how to read it.

    ``source``: a named data set or a path. Image files: ``on_error`` stop or skip; ``cache`` auto, off or a folder for
    decoded images that do not fit in memory, at most ``cache_gib`` GiB in all (`image_cache`). Classes: ``positive`` is
    one class against the rest. Tables: ``target`` column (the last if empty), ``header`` auto, yes or no, ``drop``
    columns, ``encoding`` of text, ``categories`` columns of names, ``missing`` further marks of missing values,
    ``dates`` the format of dates, and columns that are no features: ``id``, ``group``, ``time``, ``weight``
    (`table_options.TableOptions`), ``image`` the column that names images (`image_tables`). Text: ``tokens`` the kind
    of token, ``lower`` makes letters lower case (`char_classes`), ``files`` selects files of a folder (a shell
    pattern), ``phrases`` how many passes join words, by ``phrase_threshold`` and ``phrase_discount`` (`text.phrases`);
    ``encoding``, ``cache`` and ``cache_gib`` apply to text too (`corpus_build`).
    """

    source: str
    target: str = ""
    header: Header = "auto"
    drop: tuple[str, ...] = ()
    encoding: str = "utf-8"
    on_error: OnError = "stop"
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


TABLE_OPTIONS = (
    "target",
    "header",
    "drop",
    "encoding",
    "categories",
    "missing",
    "dates",
    "id",
    "group",
    "time",
    "weight",
)
TABLE_ONLY_OPTIONS = tuple(field for field in TABLE_OPTIONS if field != "encoding")
TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
IMAGE_FILE_OPTIONS = ("on_error", "cache", "cache_gib")
IMAGE_TABLE_OPTIONS = ("image",)  # tables of images
CORPUS_FILE = "tokens.bin"  # `corpus.TOKENS`
TEXT_OPTIONS = ("tokens", "lower", "phrases", "phrase_threshold", "phrase_discount", "files")
NON_IMAGE_TABLE_OPTIONS = ("categories", "dates", "id")


class Parts(NamedTuple):
    """The parts that a reader found, some of train, val and test, with notes and with the groups and times (N,) that
    splitting the training part needs."""

    parts: Mapping[str, LoadedSource]
    name: str
    notes: tuple[str, ...] = ()
    groups: Array | None = None
    times: Array | None = None
    columns: tuple[ColumnSummary, ...] = ()


def load_splits(options: Options, *, seed: int, like: Sequence[Column] = ()) -> Splits:
    """Load a source and complete it to training, validation and test parts.

    Given parts stay; missing ones are drawn with the seed (`splits.complete_splits`). With ``like`` a table's columns
    are read as these were, by name, and others are left out. Raises `UsageError` for unknown names and for options that
    do not apply to the source, and `DataError` for data that cannot be used: damaged, empty, of one class only.
    """
    parts = load_parts(options, like=like)
    if "train" in parts.parts:
        check_usable(parts.parts["train"], parts.name)
    sources: dict[str, Source] = {**parts.parts}
    splits = complete_splits(
        sources, name=parts.name, seed=seed, notes=parts.notes, groups=parts.groups, times=parts.times
    )
    return replace(splits, columns=parts.columns)


def load_parts(options: Options, *, like: Sequence[Column] = ()) -> Parts:
    """Load the parts that a source has, all of it as ``train`` if it has none; for evaluation, few examples or one
    class are allowed.

    ``like`` as in `load_splits`. Otherwise raises `UsageError` and `DataError` as `load_splits` does.
    """
    known_columns = tuple((column.name, column.kind) for column in like)
    if options.source == text_files.STANDARD_INPUT:
        _refuse_options(options, ("files",), "standard input")
        parts = _load_text({"train": text_files.open_standard_input(options.encoding)}, options, "stdin")
    else:
        parts = (
            _load_named(options, known_columns)
            if _is_dataset_name(options.source)
            else _load_path(options, known_columns)
        )
    if options.positive:
        return parts._replace(
            parts={part: relabel_one_vs_rest(source, options.positive) for part, source in parts.parts.items()}
        )
    return parts


def relabel_one_vs_rest(source: LoadedSource, positive: str) -> LoadedSource:
    """Return the source with two classes, (``not X``, ``X``). Raises `UsageError` for an unknown class."""
    schema = source.schema
    if not schema.classes or source.targets is None:
        raise UsageError(
            "data.positive needs classes",
            expected="a source with classes",
            received=f"a {schema.target} to predict",
        )
    if positive not in schema.classes:
        raise make_unknown_name_error("class", positive, schema.classes, where="data.positive")
    is_positive = source.targets == schema.classes.index(positive)
    new_schema = msgspec.structs.replace(schema, target="class", classes=(f"not {positive}", positive))
    return replace(source, schema=new_schema, targets=is_positive.astype(np.int64))


def check_usable(source: LoadedSource, name: str) -> None:
    """Raise `DataError` for empty data and for data whose targets are all the same."""
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


def _is_dataset_name(source: str) -> bool:
    """Whether a source is the name of a data set: of the catalog, or a bare word that is no path here."""
    if any(item.name == source for item in datasets.catalog()):
        return True
    is_bare_word = bool(source) and not any(mark in source for mark in "/\\.~")
    return is_bare_word and not Path(source).exists()


def _refuse_options(options: Options, fields: tuple[str, ...], source_kind: str) -> None:
    """Raise `UsageError` for options that do not apply to this kind of source."""
    for field in fields:
        if _has_options(options, (field,)):
            raise UsageError(
                f"data.{field} has no meaning for {source_kind}",
                received=f"{field} = {getattr(options, field)!r}",
                do=f"leave data.{field} out",
            )


def _has_options(options: Options, fields: tuple[str, ...]) -> bool:
    """Whether one of these options differs from its default."""
    return any(getattr(options, field) != _get_default(field) for field in fields)


def _get_default(field: str) -> Any:
    """Return the default of an option."""
    return msgspec.structs.fields(Options)[Options.__struct_fields__.index(field)].default


def _load_named(options: Options, like: KnownColumns) -> Parts:
    """Load a named data set."""
    item = datasets.find(options.source)
    if item.benchmark:
        raise UsageError(f"{item.name} is a benchmark: there is nothing in it to learn from", do=item.benchmark)
    if item.embedded:
        _refuse_options(
            options,
            (*TABLE_OPTIONS, *IMAGE_FILE_OPTIONS, *IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS),
            f"the data set {item.name}",
        )
        source = sklearn_datasets.load(item.name)
        columns = summarize_columns(source) if source.schema.kind == "row" else ()
        return Parts({"train": source}, item.name, columns=columns)
    if item.choices and not options.files:
        raise UsageError(
            f"{item.name} has the same text several times, and one is needed",
            expected=f"data.files with one of {', '.join(item.choices)}",
            do=f"--set 'data.files={item.choices[0]}'",
        )
    if item.columns:
        return _load_named_tables(item, options, like)
    return _load_folder(datasets.get_dataset_folder(item.name), options, item.name, item.classes, like=like)


def _load_named_tables(item: datasets.DatasetInfo, options: Options, like: KnownColumns) -> Parts:
    """Load a named data set of tables without a header."""
    from layerwise.data.tables import table_parts  # pyarrow is slow to import

    _refuse_options(options, (*IMAGE_FILE_OPTIONS, *IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS), "tables")
    folder = datasets.get_dataset_folder(item.name)
    table_options = make_table_options(options, names=item.columns, like=() if item.file_column else like)
    return _make_table_parts(
        table_parts.read_named_tables(
            folder, table_options, file_column=item.file_column, class_suffix=item.class_suffix
        ),
        item.name,
    )


def make_table_options(options: Options, *, names: tuple[str, ...] = (), like: KnownColumns = ()) -> TableOptions:
    """Return the options of a table."""
    return TableOptions(**{field: getattr(options, field) for field in TABLE_OPTIONS}, names=names, like=like)


def _make_table_parts(tables: Mapping[str, Table], name: str) -> Parts:
    """Return tables, one for each part, as `Parts`."""
    train = tables["train"]
    return Parts(
        {part: table.source for part, table in tables.items()},
        name,
        train.notes,
        train.groups,
        train.times,
        train.summaries,
    )


def _load_path(options: Options, like: KnownColumns) -> Parts:
    """Load a path by its content."""
    try:
        path = Path(options.source).expanduser()
        exists = bool(options.source) and path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"the path '{options.source}' cannot be used: {error}") from error
    if not exists:
        raise _make_missing_path_error(options.source, path)
    name = path.stem.removesuffix(".tar") or path.resolve().name or str(path)
    try:
        if path.is_dir():
            return _load_folder(path, options, path.resolve().name, like=like)
        return _load_file(path, options, name, like)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _make_missing_path_error(source: str, path: Path) -> UsageError:
    """Make the error for a path that does not exist, with the nearest name in its folder."""
    try:
        neighbors = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        neighbors = []
    nearest = find_nearest(path.name, neighbors)
    dataset_names = ", ".join(item.name for item in datasets.catalog())
    return UsageError(
        f"there is no file or folder '{source}'",
        expected=f"a path, or one of the named data sets: {dataset_names}",
        do=f"did you mean '{path.parent / nearest}'?" if nearest else "check the path",
    )


def _load_folder(
    path: Path, options: Options, name: str, classes: tuple[str, ...] = (), *, like: KnownColumns
) -> Parts:
    """Load a folder: IDX files, class folders, texts, a corpus that was built before, or one archive or table in it."""
    if (path / CORPUS_FILE).is_file():
        return _load_corpus(path, options, name)
    if idx.is_idx(path):
        _refuse_options(
            options, (*TABLE_OPTIONS, *IMAGE_FILE_OPTIONS, *IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS), "IDX files"
        )
        return Parts(idx.read_idx_folder(path, classes), name)
    visible = [entry for entry in path.iterdir() if not folders.is_hidden(entry.name)]
    for entry in visible:
        refuse_special_file(entry)
    if len(visible) == 1 and visible[0].is_file() and not options.files:
        return _load_file(visible[0], options, name, like)
    images = _load_image_tables(visible, options, name)
    if images is not None:
        return images
    if visible and all(entry.suffix.lower() in TABLE_ENDINGS for entry in visible):
        from layerwise.data.tables import table_parts

        _refuse_options(options, (*IMAGE_FILE_OPTIONS, *TEXT_OPTIONS), "tables")
        return _make_table_parts(table_parts.read_parts(visible, make_table_options(options, like=like)), name)
    text_parts = text_files.find_text_parts(
        path, lambda file: _can_be_running_text(file, options), encoding=options.encoding, files=options.files
    )
    if text_parts:
        return _load_text(text_parts, options, name)
    _refuse_options(options, (*TABLE_OPTIONS, *IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS), "class folders")
    parts, notes = folders.open_folder(path, on_error=options.on_error)
    return Parts(parts, name, notes)


def _load_file(path: Path, options: Options, name: str, like: KnownColumns) -> Parts:
    """Load a text, an archive or a table."""
    from layerwise.data.images import archives

    refuse_special_file(path)
    if _is_running_text(path, options):
        _refuse_options(options, ("files",), "a single file")
        return _load_text({"train": text_files.TextFiles(str(path), (str(path),), options.encoding)}, options, name)
    if archives.is_archive(path):
        _refuse_options(options, (*TABLE_OPTIONS, *IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS), "archives of class folders")
        parts, notes = archives.open_archive(path, on_error=options.on_error)
        return Parts(parts, name, notes)
    _refuse_unsupported(path)
    images = _load_image_tables([path], options, name)
    if images is not None:
        return images
    _refuse_options(options, (*IMAGE_FILE_OPTIONS, *TEXT_OPTIONS), "tables")
    from layerwise.data.tables import table_source  # pyarrow is slow to import

    return _make_table_parts({"train": table_source.read_table(path, make_table_options(options, like=like))}, name)


def _load_image_tables(entries: list[Path], options: Options, name: str) -> Parts | None:
    """Load the tables among a folder's entries if they name images; None if they do not."""
    if not entries or (len(entries) > 1 and not any(entry.suffix.lower() in TABLE_ENDINGS for entry in entries)):
        return None
    from layerwise.data.images import image_tables  # pyarrow is slow to import

    paths = image_tables.find_tables(entries, TABLE_ENDINGS) if len(entries) > 1 else {"train": entries[0]}
    if not paths or not paths["train"].is_file():
        return None
    table_options = make_table_options(options)
    image_column = image_tables.find_image_column(paths["train"], table_options, options.image)
    if not image_column:
        return None
    _refuse_options(options, (*NON_IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS), "tables of images")
    tables = image_tables.read_image_tables(paths, table_options, image=image_column, on_error=options.on_error)
    return Parts(tables.parts, name, tables.notes, tables.groups, tables.times)


def _is_running_text(path: Path, options: Options) -> bool:
    """Whether a file is running text and no table, by the options or else by its content."""
    if _has_options(options, (*TABLE_ONLY_OPTIONS, *IMAGE_TABLE_OPTIONS)):
        return False
    return _can_be_running_text(path, options) and (
        _has_options(options, TEXT_OPTIONS) or not text_files.is_table(path, options.encoding)
    )


def _can_be_running_text(path: Path, options: Options) -> bool:
    """Whether a file's content can be running text."""
    return path.suffix.lower() not in (*TABLE_ENDINGS, *UNSUPPORTED) and text_files.is_text(path, options.encoding)


def _load_text(text_parts: Mapping[str, text_files.TextFiles], options: Options, name: str) -> Parts:
    """Load the parts of a text."""
    from layerwise.data.text import corpus_build  # numba is slow to import

    _refuse_options(options, (*TABLE_ONLY_OPTIONS, *IMAGE_TABLE_OPTIONS, "on_error", "positive"), "text")
    if options.cache == "off":
        raise UsageError(
            "text is read from its tokens on disk",
            received="data.cache = 'off'",
            do="name a folder, or leave data.cache out",
        )
    tokenizer_options = corpus_build.TokenizerOptions(
        options.tokens, options.lower, options.phrases, options.phrase_threshold, options.phrase_discount
    )
    parts = corpus_build.open_corpora(
        text_parts, tokenizer_options, cache=options.cache, limit=int(options.cache_gib * GIB)
    )
    notes = [note for corpus in parts.values() for note in corpus.index.notes]
    if options.source == text_files.STANDARD_INPUT:
        notes.append(f"standard input is kept as {parts['train'].folder}: --data with that folder reads it again")
    return Parts(parts, name, tuple(notes))


def _load_corpus(path: Path, options: Options, name: str) -> Parts:
    """Load a folder with a corpus."""
    from layerwise.data.text import corpus_build

    _refuse_options(
        options,
        (*TABLE_OPTIONS, *IMAGE_TABLE_OPTIONS, *TEXT_OPTIONS, *IMAGE_FILE_OPTIONS, "positive"),
        "a corpus that was made before",
    )
    corpus = corpus_build.load_built_corpus(path)
    return Parts({"train": corpus}, name[:8], corpus.index.notes)


def _refuse_unsupported(path: Path) -> None:
    """Raise `DataError` for a single image, and for formats that are not supported yet."""
    from layerwise.data.images import decoding

    ending: Any = UNSUPPORTED.get(path.suffix.lower())
    if ending:
        raise DataError(
            f"{path}: {ending} cannot be read yet",
            expected="a table (.csv, .tsv, .parquet, .jsonl), an archive or a folder",
        )
    try:
        decoding.read_shape(path)
    except DataError:
        return
    raise DataError(
        f"{path} is a single image",
        expected="a folder with a sub-folder of images for each class",
        do="give its folder",
    )
