"""``layerwise predict``."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from cyclopts import Parameter

from layerwise.cli.common import DeviceOption, EngineOption, Imports, Json, Overwrite, put_json, take_imports
from layerwise.errors import UsageError
from layerwise.runtime.atomic_io import check_target, open_replacing
from layerwise.text_display import format_row, write_note

SHOWN = 5  # unseen values that are named
SINGLE = (str, int, float)  # values that have room in a cell
Inputs = Annotated[str, Parameter(allow_leading_hyphen=True)]


def predict_(
    run: Path,
    *inputs: Inputs,
    out: Path | None = None,
    engine: EngineOption = "torch",
    device: DeviceOption = "auto",
    overwrite: Overwrite = False,
    tta: Literal["none", "flip"] = "none",
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Answer inputs with a run's best weights. Exit code 2 if any input failed; the others are answered all the same.

    Parameters
    ----------
    run
        a run directory
    inputs
        image files, folders, table files, rows like 5.1,3.5,1.4,0.2, or - for standard input
    out
        write the answers to this CSV file instead; it appears when all inputs are done, and not at all if none could be
        answered; names that a spreadsheet would run as formulas get an apostrophe
    tta
        flip: the mean of the answers to each image and its mirror image
    """
    if not inputs:
        raise UsageError(
            "there is nothing to answer", expected="at least one input", do=f"layerwise predict {run} FILE"
        )
    for text in inputs:
        if re.match(r"-[^\d.,]", text) and not Path(text).exists():
            raise UsageError(
                f"there is no option '{text}'", do="layerwise predict --help; a file of that name is ./" + text
            )
    if out is not None:
        refuse_out(out, inputs, overwrite=overwrite)
    take_imports(imports)
    import msgspec

    from layerwise.inference.engines.base import device_for
    from layerwise.inference.predict import Answer, Failure, Predictor, load, looking, named_inputs
    from layerwise.runtime import compute_settings

    place = device_for(engine, device)
    found = load(run, place)
    flagged = ExitStack()
    flagged.enter_context(compute_settings.applied(compute_settings.answering(str(place))))
    runner = found.engine(engine)
    answers = Predictor(looking(runner, found.task, tta), found.task).stream(named_inputs(inputs, found.task))
    failed: list[Failure] = []
    kept: list[dict[str, Any]] = []
    strange: Counter[str] = Counter()
    done = 0
    with flagged, suppress(_NothingAnswered), open_answers(out, overwrite=overwrite) as (target, delimiter):
        for answer in answers:
            if not isinstance(answer, Answer):
                failed.append(answer)
                continue
            if answer.unseen:
                strange.update(answer.unseen)
            if json and not out:
                unseen = {"unseen": list(answer.unseen)} if answer.unseen else {}
                kept.append({"input": answer.input, **msgspec.to_builtins(answer.prediction), **unseen})
                continue
            if not done:
                fields = single_fields(answer.prediction)
                values = attrgetter("__class__", *fields)  # of two names at least it gives a tuple
                if out:
                    target.write(format_row(("input", *fields), delimiter))
            target.write(format_row((answer.input, *values(answer.prediction)[1:]), delimiter))
            done += 1
        if out and not done:
            raise _NothingAnswered
    if json:
        asked: dict[str, Any] = ({} if tta == "none" else {"tta": tta}) | (
            {} if engine == "torch" else {"engine": runner.told()}
        )
        put_json(predictions=kept, failed=[{"input": f.input, "error": f.error} for f in failed], **asked)
    else:
        for failure in failed:
            write_note(f"{failure.input}: {failure.error}")
    for note in runner.notes():
        write_note(note)
    if strange:
        said = ", ".join(f"{name} ({count})" for name, count in strange.most_common(SHOWN))
        write_note(f"never seen in training, taken as unknown: {said}{', …' if len(strange) > SHOWN else ''}")
    return 2 if failed else 0


def single_fields(prediction: Any) -> list[str]:
    """Return the names of a prediction's fields that are one value each: those that have room in a cell."""
    values = ((name, getattr(prediction, name)) for name in prediction.__struct_fields__)
    return [name for name, value in values if value is None or isinstance(value, SINGLE)]


class _NothingAnswered(Exception):
    """No input could be answered: a file of answers is not written."""


def refuse_out(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """Raise `UsageError` for a file of answers that may not be written, or that is one of the inputs. Nothing is
    touched."""
    for text in inputs:
        with suppress(OSError):  # a place that is not there, or no place at all
            if out.samefile(Path(text).expanduser()):
                raise UsageError(
                    f"{out} is one of the inputs", expected="another file for the answers", do="choose another --out"
                )
    check_target(out, overwrite=overwrite)


@contextmanager
def open_answers(out: Path | None, *, overwrite: bool) -> Iterator[tuple[TextIO, str]]:
    """Yield a stream for the answers and what delimits their cells: a CSV file that appears when the block ends, or
    standard output."""
    if out is None:
        yield sys.stdout, "\t"
        return
    with open_replacing(out, overwrite=overwrite) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield text, ","
            text.flush()
        finally:
            text.detach()
