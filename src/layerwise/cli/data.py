"""``layerwise data``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from layerwise.cli.common import Json, put_json, put_table
from layerwise.data import named
from layerwise.errors import DataError, UsageError, unknown


def data_(
    name: str = "",
    *,
    get: Annotated[bool, Parameter(negative="")] = False,
    mirror: str = "",
    json: Json = False,
) -> int:
    """List the named data sets: what they are, their licence, and where they lie.

    Parameters
    ----------
    name
        only this data set
    get
        make sure that it is here: fetch what is not into the user's cache, checked, resumable
    mirror
        with --get: an address that has the files as MIRROR/NAME/FILE (default: LAYERWISE_MIRROR, else the sets' own)
    """
    sets = named.catalogue()
    if name and name not in [one.name for one in sets]:
        raise unknown("data set", name, [one.name for one in sets])
    sets = [one for one in sets if name in ("", one.name)]
    if mirror and not get:
        raise UsageError("--mirror is where --get fetches from", do="add --get")
    if get:
        _get(sets, mirror)
    rows = []
    for one in sets:
        path = named.locate(one.name)
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
            (one.name, ", ".join(one.tasks), f"{one.examples:,}", one.licence,
             row["path"] or ("in the package scikit-learn" if row["present"] else "not here"))
            for one, row in zip(sets, rows, strict=True)
        ],
    )  # fmt: skip
    return 0


def _get(sets: list[named.NamedData], mirror: str) -> None:
    """Fetch every data set that is not here; a set that cannot be fetched does not keep others from it."""
    failed: dict[str, DataError] = {}
    for one in sets:
        try:
            if not one.embedded:
                named.folder_of(one.name, mirror=mirror)
        except DataError as error:
            failed[one.name] = error
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise DataError(
            "\n".join(str(error) for error in failed.values()),
            do=f"the others are here; not fetched: {', '.join(failed)}",
        )
