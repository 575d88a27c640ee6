"""``layerwise data``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from layerwise.cli.common import Json, put_json, put_table
from layerwise.data.download import datasets
from layerwise.errors import DataError, UsageError, unknown
from layerwise.text_display import escape_control, write_line, write_note

if TYPE_CHECKING:
    from layerwise.data.source import Splits

CLASSES = 20  # that are named
OFTEN = 10  # words that are shown


def data_(
    name: str = "",
    *,
    get: Annotated[bool, Parameter(negative="")] = False,
    mirror: str = "",
    set: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    json: Json = False,
) -> int:
    """List the named data sets: what they are, their licence, and where they lie; or show what a path of your own
    holds.

    Parameters
    ----------
    name
        only this data set; or a path, to see its parts, its columns and what training would be told of it
    get
        make sure that it is here: fetch what is not into the user's cache, checked, resumable
    mirror
        with --get: an address that has the files as MIRROR/NAME/FILE (default: LAYERWISE_MIRROR, else the sets' own)
    set
        with a path: how it is read, as in training (data.target=price); repeat it for more
    """
    sets = datasets.catalog()
    if name not in ("", *(one.name for one in sets)) and Path(name).expanduser().exists():
        return _show(name, set or [], json=json)
    if set:
        raise UsageError("--set says how a path is read", expected="a path", received=name or "no name")
    if name and name not in [one.name for one in sets]:
        raise unknown("data set", name, [one.name for one in sets])
    sets = [one for one in sets if name in ("", one.name)]
    if mirror and not get:
        raise UsageError("--mirror is where --get fetches from", do="add --get")
    if get:
        _get(sets, mirror)
    rows = []
    for one in sets:
        path = datasets.locate(one.name)
        rows.append(
            {
                "name": one.name,
                "tasks": list(one.tasks),
                "examples": one.examples,
                "licence": one.licence,
                "present": one.embedded or path is not None,
                "path": None if path is None else str(path),
            }
        )
    if json:
        put_json(data=rows)
        return 0
    put_table(
        ("name", "tasks", "examples", "licence", "where"),
        [
            (
                one.name,
                ", ".join(one.tasks),
                f"{one.examples:,}",
                one.licence,
                row["path"] or ("in the package scikit-learn" if row["present"] else "not here"),
            )
            for one, row in zip(sets, rows, strict=True)
        ],
    )
    return 0


def _show(source: str, settings: list[str], *, json: bool) -> int:
    """Show what a path holds: parts, columns, notes. Nothing is written."""
    from layerwise import recipe
    from layerwise.data.load import Options, open_data
    from layerwise.data.source import SPLITS, TASKS_FOR

    table: dict[str, Any] = {"data": {"source": source}}
    for setting in settings:
        if not setting.startswith("data."):
            raise UsageError(f"'{setting}' does not say how data are read", expected="--set data.KEY=VALUE")
        recipe.assign(table, setting)
    found = open_data(recipe.checked(Options, table["data"], where="[data]"), seed=0)
    schema, parts = found.train.schema, {part: len(found.part(part)) for part in SPLITS}
    tasks = ["words"] if schema.kind == "text" else list(TASKS_FOR[schema.target])
    notes = [*found.notes, *_noticed(found)]
    columns = [column._asdict() for column in found.columns]
    text = _text(found) if schema.kind == "text" else {}
    if json:
        one = {
            "name": found.name,
            "tasks": tasks,
            "examples": sum(parts.values()),
            "licence": "",
            "present": True,
            "path": source,
        }
        put_json(
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
        put_table(tuple(columns[0]), [tuple(column.values()) for column in columns])
    of = f" (blocks of {schema.shape[0]:,} tokens)" if text else ""
    write_line(f"parts\t{', '.join(f'{part} {count:,}' for part, count in parts.items())}{of}")
    write_line(f"tasks\t{', '.join(tasks)}")
    if text:
        write_line(f"words\t{text['words']:,} in the training part, {text['different']:,} different")
        write_line(f"often\t{', '.join(f'{word} {count:,}' for word, count in text['often'])}")
    if text.get("phrases"):
        write_line(f"phrases\t{', '.join(f'{word} {count:,}' for word, count in text['phrases'])}")
    if schema.classes:
        named_classes = ", ".join(escape_control(name, single_line=True) for name in schema.classes[:CLASSES])
        write_line(f"classes\t{named_classes}{', …' if len(schema.classes) > CLASSES else ''}")
    return 0


def _text(found: Splits) -> dict[str, Any]:
    """Return what the training part of a text has: how many words, how many different ones, the commonest, and the
    commonest phrases."""
    import numpy as np

    from layerwise.data.text.corpus import corpus_of, counted

    corpus, counts = corpus_of(found.train), counted(found.train)
    assert corpus is not None
    order = np.argsort(-counts, kind="stable")

    def first(numbers: Any) -> list[tuple[str, int]]:
        return [(corpus.words[int(k)], int(counts[k])) for k in numbers[:OFTEN]]

    about = {"words": int(counts.sum()), "different": int((counts > 0).sum()), "often": first(order)}
    joined = {"_".join(phrase) for found in corpus.phrases for phrase in found}
    if joined:
        about["phrases"] = first([k for k in order if counts[k] and corpus.words[int(k)] in joined])
    return about


def _noticed(found: Splits) -> tuple[str, ...]:
    """Return what training would say of the parts: uneven classes, rows of one part in another."""
    from layerwise.data.source import SPLITS, labels
    from layerwise.data.splits import repeated
    from layerwise.tasks.classification import counted, uneven

    schema, found_labels = found.train.schema, labels(found.train)
    notes: tuple[str, ...] = ()
    if all(found.part(part).schema == schema for part in SPLITS):
        notes = repeated(found)
    if schema.classes and found_labels is not None:
        notes = (*notes, *uneven(schema.classes, counted(found_labels, len(schema.classes))))
    return notes


def _get(sets: list[datasets.NamedData], mirror: str) -> None:
    """Fetch every data set that is not here; a set that cannot be fetched does not keep others from it."""
    failed: dict[str, DataError] = {}
    for one in sets:
        try:
            if not one.embedded:
                datasets.folder_of(one.name, mirror=mirror)
        except DataError as error:
            failed[one.name] = error
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise DataError(
            "\n".join(str(error) for error in failed.values()),
            do=f"the others are here; not fetched: {', '.join(failed)}",
        )
