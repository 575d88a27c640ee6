"""``layerwise data``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from layerwise.cli.common import Json, print_json, print_table
from layerwise.data.download import datasets
from layerwise.errors import DataError, UsageError, make_unknown_name_error
from layerwise.text_display import escape_control, write_line, write_note

if TYPE_CHECKING:
    from layerwise.data.source import Splits

CLASSES = 20  # class names that are printed
OFTEN = 10  # most frequent words that are printed


def run_data(
    name: str = "",
    *,
    download: Annotated[bool, Parameter(negative="")] = False,
    mirror: str = "",
    settings: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    as_json: Json = False,
) -> int:
    """List the named data sets with their tasks, licence and path; or show what a path of your own holds.

    Parameters
    ----------
    name
        only this data set; or a path, to see its parts, its columns and the notes that training would print
    download
        download what is not here into the user's cache, resumable and checked by checksum
    mirror
        with --download: an address with the files MIRROR/NAME/FILE (default: LAYERWISE_MIRROR, else the data set's own)
    settings
        with a path: how to read it, as in training (data.target=price); repeat it for more
    """
    sets = datasets.catalog()
    if name not in ("", *(one.name for one in sets)) and Path(name).expanduser().exists():
        return _print_path(name, settings or [], as_json=as_json)
    if settings:
        raise UsageError("--set tells how to read a path", expected="a path", received=name or "no name")
    if name and name not in [one.name for one in sets]:
        raise make_unknown_name_error("data set", name, [one.name for one in sets])
    sets = [one for one in sets if name in ("", one.name)]
    if mirror and not download:
        raise UsageError("--mirror is the address that --download uses", do="add --download")
    if download:
        _download_sets(sets, mirror)
    rows = []
    for one in sets:
        path = datasets.locate(one.name)
        rows.append(
            {
                "name": one.name,
                "tasks": list(one.tasks),
                "examples": one.examples,
                "licence": one.license,
                "present": one.embedded or path is not None,
                "path": None if path is None else str(path),
            }
        )
    if as_json:
        print_json(data=rows)
        return 0
    print_table(
        ("name", "tasks", "examples", "licence", "where"),
        [
            (
                one.name,
                ", ".join(one.tasks),
                f"{one.examples:,}",
                one.license,
                row["path"] or ("in the package scikit-learn" if row["present"] else "not here"),
            )
            for one, row in zip(sets, rows, strict=True)
        ],
    )
    return 0


def _print_path(source: str, settings: list[str], *, as_json: bool) -> int:
    """Print what a path holds: parts, columns, notes. Writes nothing."""
    from layerwise import recipe
    from layerwise.data.load import Options, load_splits
    from layerwise.data.source import SPLITS, TASKS_FOR

    table: dict[str, Any] = {"data": {"source": source}}
    for setting in settings:
        if not setting.startswith("data."):
            raise UsageError(f"'{setting}' does not tell how to read data", expected="--set data.KEY=VALUE")
        recipe.assign(table, setting)
    splits = load_splits(recipe.check_table(Options, table["data"], where="[data]"), seed=0)
    schema, parts = splits.train.schema, {part: len(splits.part(part)) for part in SPLITS}
    tasks = ["words"] if schema.kind == "text" else list(TASKS_FOR[schema.target])
    notes = [*splits.notes, *_find_problems(splits)]
    columns = [column._asdict() for column in splits.columns]
    text = _count_text(splits) if schema.kind == "text" else {}
    if as_json:
        one = {
            "name": splits.name,
            "tasks": tasks,
            "examples": sum(parts.values()),
            "licence": "",
            "present": True,
            "path": source,
        }
        print_json(
            data=[one],
            parts=parts,
            classes=list(schema.classes),
            columns=columns,
            notes=notes,
            **({"text": text} if text else {}),
        )
        return 0
    for note in notes:
        write_note(note)
    if columns:
        print_table(tuple(columns[0]), [tuple(column.values()) for column in columns])
    unit = f" (blocks of {schema.shape[0]:,} tokens)" if text else ""
    write_line(f"parts\t{', '.join(f'{part} {count:,}' for part, count in parts.items())}{unit}")
    write_line(f"tasks\t{', '.join(tasks)}")
    if text:
        write_line(f"words\t{text['words']:,} in the training part, {text['different']:,} different")
        write_line(f"often\t{', '.join(f'{word} {count:,}' for word, count in text['often'])}")
    if text.get("phrases"):
        write_line(f"phrases\t{', '.join(f'{word} {count:,}' for word, count in text['phrases'])}")
    if schema.classes:
        class_names = ", ".join(escape_control(name, single_line=True) for name in schema.classes[:CLASSES])
        write_line(f"classes\t{class_names}{', …' if len(schema.classes) > CLASSES else ''}")
    return 0


def _count_text(splits: Splits) -> dict[str, Any]:
    """Return facts about the training part of a text: how many words, how many different ones, the most frequent words
    and phrases."""
    import numpy as np

    from layerwise.data.text.corpus import count_words, find_corpus

    corpus, counts = find_corpus(splits.train), count_words(splits.train)
    assert corpus is not None
    order = np.argsort(-counts, kind="stable")

    def count_first(numbers: Any) -> list[tuple[str, int]]:
        return [(corpus.words[int(k)], int(counts[k])) for k in numbers[:OFTEN]]

    facts = {"words": int(counts.sum()), "different": int((counts > 0).sum()), "often": count_first(order)}
    phrases = {"_".join(phrase) for level in corpus.phrases for phrase in level}
    if phrases:
        facts["phrases"] = count_first([k for k in order if counts[k] and corpus.words[int(k)] in phrases])
    return facts


def _find_problems(splits: Splits) -> tuple[str, ...]:
    """Return the warnings that training would print: uneven classes, rows that are in two parts."""
    from layerwise.data.source import SPLITS, get_targets
    from layerwise.data.splits import find_repeated_rows
    from layerwise.tasks.classification import count_classes, describe_imbalance

    schema, class_labels = splits.train.schema, get_targets(splits.train)
    notes: tuple[str, ...] = ()
    if all(splits.part(part).schema == schema for part in SPLITS):
        notes = find_repeated_rows(splits)
    if schema.classes and class_labels is not None:
        notes = (*notes, *describe_imbalance(schema.classes, count_classes(class_labels, len(schema.classes))))
    return notes


def _download_sets(sets: list[datasets.DatasetInfo], mirror: str) -> None:
    """Download every data set that is not here. If one fails, the others are still downloaded."""
    failed: dict[str, DataError] = {}
    for one in sets:
        try:
            if not one.embedded:
                datasets.get_dataset_folder(one.name, mirror=mirror)
        except DataError as error:
            failed[one.name] = error
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise DataError(
            "\n".join(str(error) for error in failed.values()),
            do=f"the others are here; not downloaded: {', '.join(failed)}",
        )
