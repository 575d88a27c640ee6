"""``layerwise data``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from layerwise.cli.common import Json, put_json, put_table
from layerwise.data import named
from layerwise.errors import UsageError, unknown


def data_(
    name: str = "", *, get: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> int:
    """List the named data sets: what they are, their licence, and where they lie.

    Parameters
    ----------
    name
        only this data set
    get
        make sure that it is here
    """
    sets = named.catalogue()
    if name and name not in [one.name for one in sets]:
        raise unknown("data set", name, [one.name for one in sets])
    sets = [one for one in sets if name in ("", one.name)]
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
    absent = [row["name"] for row in rows if not row["present"]]
    if get and absent:
        raise UsageError(
            f"not here: {', '.join(map(str, absent))}",
            expected="the files in $LAYERWISE_DATA or in the user's cache",
            do="this version does not download; put the files there as `layerwise data NAME` describes",
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
