"""``layerwise predict``."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerwise.atomic_io import check_target, open_replacing
from layerwise.cli.common import DeviceOption, EngineOption, Imports, Json, Overwrite, put_json, take_imports
from layerwise.errors import UsageError

SHOWN = 5  # unseen values that are named
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
        picture files, folders, table files, rows like 5.1,3.5,1.4,0.2, or - for standard input
    out
        write the answers to this CSV file instead; it appears when all inputs are done, and not at all if none could be answered
    tta
        flip: the mean of the answers to each picture and its mirror image
    """
    if not inputs:
        raise UsageError("there is nothing to answer", expected="at least one input", do=f"layerwise predict {run} FILE")
    for text in inputs:
        if re.match(r"-[^\d.,]", text) and not Path(text).exists():
            raise UsageError(f"there is no option '{text}'", do="layerwise predict --help; a file of that name is ./" + text)
    if out is not None:
        refuse_out(out, inputs, overwrite=overwrite)
    take_imports(imports)
    import msgspec

    from layerwise.engines.base import device_for
    from layerwise.predict import Answer, Failure, Predictor, load, looking, named_inputs
    from layerwise.runtime import flags

    place = device_for(engine, device)
    found = load(run, place)
    flagged = ExitStack()
    flagged.enter_context(flags.applied(flags.answering(str(place))))
    runner = found.engine(engine)
    answers = Predictor(looking(runner, found.task, tta), found.task).stream(named_inputs(inputs, found.task))
    failed: list[Failure] = []
    kept: list[dict[str, Any]] = []
    strange: Counter[str] = Counter()
    done = 0
    with flagged, suppress(_NothingAnswered), open_answers(out, overwrite=overwrite) as writer:
        for answer in answers:
            if not isinstance(answer, Answer):
                failed.append(answer)
                continue
            row = {"input": answer.input, **msgspec.to_builtins(answer.prediction)}
            if answer.unseen:
                row["unseen"] = list(answer.unseen)
                strange.update(answer.unseen)
            if json and not out:
                kept.append(row)
                continue
            flat = {k: v for k, v in row.items() if not isinstance(v, dict | list)}
            if out and not done:
                writer.writerow(flat)
            writer.writerow(flat.values())
            done += 1
        if out and not done:
            raise _NothingAnswered
    if json:
        asked: dict[str, Any] = ({} if tta == "none" else {"tta": tta}) | ({} if engine == "torch" else {"engine": runner.told()})
        put_json(predictions=kept, failed=[{"input": f.input, "error": f.error} for f in failed], **asked)
    else:
        for failure in failed:
            print(f"layerwise: {failure.input}: {failure.error}", file=sys.stderr)
    for note in runner.notes():
        print(f"layerwise: {note}", file=sys.stderr)
    if strange:
        said = ", ".join(f"{name} ({count})" for name, count in strange.most_common(SHOWN))
        print(f"layerwise: never seen in training, taken as unknown: {said}{', …' if len(strange) > SHOWN else ''}", file=sys.stderr)
    return 2 if failed else 0


class _NothingAnswered(Exception):
    """No input could be answered: a file of answers is not written."""


def refuse_out(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """Raise `UsageError` for a file of answers that may not be written, or that is one of the inputs. Nothing is touched."""
    for text in inputs:
        with suppress(OSError):  # a place that is not there, or no place at all
            if out.samefile(Path(text).expanduser()):
                raise UsageError(f"{out} is one of the inputs", expected="another file for the answers", do="choose another --out")
    check_target(out, overwrite=overwrite)


@contextmanager
def open_answers(out: Path | None, *, overwrite: bool) -> Iterator[Any]:
    """Yield a CSV writer for the answers: to a file that appears when the block ends, or between tabs to standard output."""
    if out is None:
        yield csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
        return
    with open_replacing(out, overwrite=overwrite) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        try:
            yield csv.writer(text, lineterminator="\n")
            text.flush()
        finally:
            text.detach()
