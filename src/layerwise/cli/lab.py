"""``layerwise lab``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from layerwise import labs
from layerwise.cli.common import Json, LangOption, Overwrite, print_json, resolve_language
from layerwise.errors import UsageError
from layerwise.runtime.write_checks import check_target
from layerwise.text_display import write_line

if TYPE_CHECKING:
    from layerwise.labs.base import Mode

Flag = Annotated[bool, Parameter(negative="")]


def run_lab(
    *names: str,
    all_labs: Annotated[bool, Parameter(name="--all", negative="")] = False,
    quick: Flag = False,
    full: Flag = False,
    out: Path = Path("labs"),
    overwrite: Overwrite = False,
    lang: LangOption = None,
    as_json: Json = False,
) -> int:
    """Run small experiments that check the field's claims. Exit code 1 if a claim did not hold.

    Parameters
    ----------
    names
        the labs to run; without a name, list them
    all_labs
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
    if not names and not all_labs:
        write_line("\n".join(labs.list_labs()))
        return 0
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"{out} is a file, not a folder", expected="a folder for the figures", do="choose another --out"
        )
    chosen = [labs.find(name) for name in (labs.list_labs() if all_labs else names)]
    for lab in chosen if out.is_dir() else ():
        check_target(out / f"{lab.name}.svg", overwrite=overwrite)
    mode: Mode = "quick" if quick else "full" if full else "normal"
    results = []
    for lab in chosen:
        result = labs.run(lab, mode=mode, out=out, lang=resolve_language(lang))
        results.append(result)
        if not as_json:
            write_line(labs.describe(result, resolve_language(lang)))
    if as_json:
        print_json(labs=[result.to_json() for result in results])
    return 0 if all(result.held for result in results) else 1
