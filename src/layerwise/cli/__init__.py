"""The commands, one file per verb, imported only when called. Nothing here imports torch."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerwise import __version__
from layerwise.errors import LayerwiseError, find_nearest
from layerwise.runtime.resources import is_out_of_memory
from layerwise.text_display import write_line, write_note

if TYPE_CHECKING:
    from cyclopts import App

ABOUT = "Train, evaluate, inspect and export every network of the field, from the 1943 neuron on, on your own data."
VERBS = {
    "models": "List every model.",
    "data": "List the named data sets: what, licence, where.",
    "train": "Train a network on your data.",
    "eval": "Measure a run on a part of its data, or on other data.",
    "predict": "Predict for files, folders, rows or standard input.",
    "inspect": "Look inside a run or a network.",
    "index": "Make a folder of texts, a text file or a table's column searchable by vectors.",
    "search": "Find the passages of an index that are nearest to a question.",
    "map": "Map one language's word vectors to another's, and measure how well words are translated.",
    "export": "Write a run's network to an .onnx, .pt2 or .safetensors file.",
    "lab": "Run small experiments that check the field's claims.",
    "bench": "Time Layerwise beside its peers.",
    "doctor": "Show what this machine can do, or check a run's files.",
}


def make_app() -> App:
    """Return the command-line application; verbs are loaded when they are called."""
    from cyclopts import App  # takes a tenth of a second: the overview and a typo do without it

    app = App(
        name="layerwise",
        help=ABOUT,
        version=__version__,
        result_action="return_value",
        help_format="plaintext",  # markdown takes a fifth longer to load
        suppress_keyboard_interrupt=False,
    )
    for verb, help_text in VERBS.items():
        app.command(f"layerwise.cli.{verb}:run_{verb}", name=verb, help=help_text)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given in (["--help"], ["-h"]):
        write_line(format_overview())
        return 0
    try:
        if not given[0].startswith("-") and given[0] not in VERBS:
            near = find_nearest(given[0], VERBS)
            return _report_error(
                f"there is no command '{given[0]}'\n  expected: one of {', '.join(VERBS)}"
                + (f"\n  do this:  did you mean '{near}'?" if near else ""),
                2,
            )
        return _run_verb(given)
    except LayerwiseError as error:
        return _report_error(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _report_error("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _report_error(
            f"there is no memory left: {(str(error) or 'Python could not allocate any').splitlines()[0]}\n"
            "  expected: memory for the network, its inputs and its feature maps\n"
            "  do this:  close other programs, or use --device cpu if the GPU's memory is full",
            1,
        )
    except OSError as error:
        if error.filename is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        return _report_error(
            f"{os.fsdecode(error.filename)}: {error.strerror}\n  expected: a path that can be used",
            1 if full else 2,
        )


def format_overview() -> str:
    """Return what ``layerwise --help`` shows."""
    verbs = "\n".join(f"  {verb:<9} {text}" for verb, text in VERBS.items())
    return (
        f"Usage: layerwise COMMAND\n\n{ABOUT}\n\nCommands:\n{verbs}\n\n"
        "layerwise COMMAND --help lists a command's options; layerwise --version prints the version."
    )


def _run_verb(given: list[str]) -> int:
    """Run a verb and return its exit code."""
    from cyclopts import CycloptsError

    try:
        return int(make_app()(_attach_hyphens(given), exit_on_error=False, print_error=False) or 0)
    except CycloptsError as error:
        return _report_error(f"{error}\n  do this:  layerwise {given[0]} --help", 2)


def _attach_hyphens(given: list[str]) -> list[str]:
    """Write ``--data -`` as ``--data=-``: the parser reads every word that begins with a hyphen as an option."""
    out: list[str] = []
    for word in given:
        if word == "-" and out and out[-1].startswith("--") and "=" not in out[-1]:
            out[-1] += "=-"
        else:
            out.append(word)
    return out


def _report_error(message: str, code: int) -> int:
    """Print an error and return its exit code."""
    write_note(message)
    return code
