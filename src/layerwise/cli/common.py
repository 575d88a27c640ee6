"""What the commands share: options, JSON, languages, tables."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerwise.runtime import strict_json
from layerwise.text_display import escape_control, escape_json

Lang = Literal["en", "zh"]
Json = Annotated[bool, Parameter(name="--json", negative="", help="one JSON object on standard output")]
LangOption = Annotated[
    Lang | None, Parameter(name="--lang", help="language of prose: en or zh (default: the locale's)")
]
Imports = Annotated[
    list[Path] | None, Parameter(name="--import", negative="", help="a Python file with your own @register models")
]

EngineOption = Annotated[
    Literal["torch", "compiled", "onnxruntime", "openvino", "auto"],
    Parameter(name="--engine", help="what runs the network; auto: the fastest here"),
]

DeviceOption = Annotated[str, Parameter(name="--device", help="auto (cuda where it is, else cpu), cpu, cuda or cuda:1")]


Overwrite = Annotated[bool, Parameter(name="--overwrite", negative="", help="replace files that are there")]


def resolve_language(wanted: Lang | None) -> Lang:
    """Return ``en`` or ``zh``: the requested language, else that of the locale."""
    if wanted:
        return wanted
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return "zh" if locale.lower().startswith("zh") else "en"


def import_user_modules(paths: Sequence[Path] | None) -> None:
    """Run the files of ``--import``, which register models."""
    from layerwise.registry import import_file

    for path in paths or ():
        import_file(path)


def print_json(**content: Any) -> None:
    """Print the command's one JSON object. Numbers that are not finite become null; control characters are escaped."""
    print(escape_json(strict_json.dumps({"format": 1, **content}, default=str)))


def format_metric(value: float | None, digits: int = 4) -> str:
    """Return a metric as text: so many decimals, a dash for one that is not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to standard output, as tab-separated lines if that is not a terminal. Control characters are
    escaped."""
    lines = [[escape_control(str(cell), single_line=True) for cell in line] for line in (columns, *rows)]
    if not sys.stdout.isatty():
        for line in lines:
            print("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in lines[0]:
        table.add_column(Text(column), overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # text, not markup: a name may be [red]
    Console().print(table)
