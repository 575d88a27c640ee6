"""``layerwise lab``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from layerwise import labs
from layerwise.cli.common import Json, LangOption, Overwrite, language, put_json
from layerwise.errors import UsageError
from layerwise.runtime.atomic_io import check_target
from layerwise.text_display import write_line

if TYPE_CHECKING:
    from layerwise.labs.base import Mode, Result

Flag = Annotated[bool, Parameter(negative="")]


def lab_(
    *names: str,
    all: Flag = False,
    quick: Flag = False,
    full: Flag = False,
    out: Path = Path("labs"),
    overwrite: Overwrite = False,
    lang: LangOption = None,
    json: Json = False,
) -> int:
    """Run small experiments that check the field's claims. Exit code 1 if a claim did not hold.

    Parameters
    ----------
    names
        the labs to run; without a name, what there is
    all
        run every lab
    quick
        the short form, some seconds each
    full
        the long form
    out
        folder for the figures
    """
    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    if not names and not all:
        write_line("\n".join(labs.names()))
        return 0
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"{out} is a file, not a folder", expected="a folder for the figures", do="choose another --out"
        )
    chosen = [labs.find(name) for name in (labs.names() if all else names)]
    for lab in chosen if out.is_dir() else ():
        check_target(out / f"{lab.name}.svg", overwrite=overwrite)
    mode: Mode = "quick" if quick else "full" if full else "normal"
    results = []
    for lab in chosen:
        result = labs.run(lab, mode=mode, out=out, lang=language(lang))
        results.append(result)
        if not json:
            write_line(labs.describe(result, language(lang)))
    if json:
        put_json(labs=[result.to_json() for result in results])
    return 0 if all_held(results) else 1


def all_held(results: list[Result]) -> bool:
    """Whether every claim held."""
    return not [result for result in results if not result.held]
