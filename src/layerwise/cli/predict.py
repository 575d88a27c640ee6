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

from layerwise.cli.common import DeviceOption, EngineOption, Imports, Json, Overwrite, import_user_modules, print_json
from layerwise.errors import UsageError
from layerwise.runtime.atomic_io import open_replacing
from layerwise.runtime.write_checks import check_target
from layerwise.text_display import format_row, write_note

NAMED = 5  # unseen values that are printed
SINGLE = (str, int, float)  # types that fit a table cell
Inputs = Annotated[str, Parameter(allow_leading_hyphen=True)]


def run_predict(
    run: Path,
    *inputs: Inputs,
    out: Path | None = None,
    engine: EngineOption = "torch",
    device: DeviceOption = "auto",
    overwrite: Overwrite = False,
    tta: Literal["none", "flip"] = "none",
    imports: Imports = None,
    as_json: Json = False,
) -> int:
    """Predict with a run's best weights. Exit code 2 if an input failed; the others are still predicted.

    Parameters
    ----------
    run
        a run directory
    inputs
        image files, folders, table files, rows like 5.1,3.5,1.4,0.2, or - for standard input
    out
        write the predictions to this CSV file instead; the file appears when all inputs are done, and not at all if all
        failed; names that a spreadsheet would run as formulas get an apostrophe
    tta
        flip: average the predictions for each image and its mirror image
    """
    if not inputs:
        raise UsageError(
            "there is nothing to predict", expected="at least one input", do=f"layerwise predict {run} FILE"
        )
    for text in inputs:
        if re.match(r"-[^\d.,]", text) and not Path(text).exists():
            raise UsageError(
                f"there is no option '{text}'", do="layerwise predict --help; a file of that name is ./" + text
            )
    if out is not None:
        check_output(out, inputs, overwrite=overwrite)
    import_user_modules(imports)
    import msgspec

    from layerwise.inference.engines.base import choose_device
    from layerwise.inference.predict import Failure, NamedPrediction, Predictor, load_run, read_inputs, with_tta
    from layerwise.runtime import compute_settings

    chosen_device = choose_device(engine, device)
    loaded = load_run(run, chosen_device)
    settings = ExitStack()
    settings.enter_context(compute_settings.use_settings(compute_settings.inference_settings(str(chosen_device))))
    runner = loaded.make_engine(engine)
    results = Predictor(with_tta(runner, loaded.task, tta), loaded.task).stream(read_inputs(inputs, loaded.task))
    failed: list[Failure] = []
    predictions: list[dict[str, Any]] = []
    unknown: Counter[str] = Counter()
    done = 0
    with settings, suppress(_NoPredictions), open_output(out, overwrite=overwrite) as (target, delimiter):
        for result in results:
            if not isinstance(result, NamedPrediction):
                failed.append(result)
                continue
            if result.unseen:
                unknown.update(result.unseen)
            if as_json and not out:
                unseen = {"unseen": list(result.unseen)} if result.unseen else {}
                predictions.append({"input": result.input, **msgspec.to_builtins(result.prediction), **unseen})
                continue
            if not done:
                fields = list_single_fields(result.prediction)
                values = attrgetter("__class__", *fields)  # with two names or more it returns a tuple
                if out:
                    target.write(format_row(("input", *fields), delimiter))
            target.write(format_row((result.input, *values(result.prediction)[1:]), delimiter))
            done += 1
        if out and not done:
            raise _NoPredictions
    if as_json:
        options: dict[str, Any] = ({} if tta == "none" else {"tta": tta}) | (
            {} if engine == "torch" else {"engine": runner.describe()}
        )
        print_json(predictions=predictions, failed=[{"input": f.input, "error": f.error} for f in failed], **options)
    else:
        for failure in failed:
            write_note(f"{failure.input}: {failure.error}")
    for note in runner.notes():
        write_note(note)
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in unknown.most_common(NAMED))
        write_note(f"never seen in training, taken as unknown: {names}{', …' if len(unknown) > NAMED else ''}")
    return 2 if failed else 0


def list_single_fields(prediction: Any) -> list[str]:
    """Return the names of a prediction's fields that are single values, which fit a table cell."""
    values = ((name, getattr(prediction, name)) for name in prediction.__struct_fields__)
    return [name for name, value in values if value is None or isinstance(value, SINGLE)]


class _NoPredictions(Exception):
    """All inputs failed, so no file of predictions is written."""


def check_output(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """Raise `UsageError` for an output file that may not be written or that is one of the inputs."""
    for text in inputs:
        with suppress(OSError):  # the path does not exist, or is no path
            if out.samefile(Path(text).expanduser()):
                raise UsageError(
                    f"{out} is one of the inputs",
                    expected="another file for the predictions",
                    do="choose another --out",
                )
    check_target(out, overwrite=overwrite)


@contextmanager
def open_output(out: Path | None, *, overwrite: bool) -> Iterator[tuple[TextIO, str]]:
    """Yield a stream for the predictions and its delimiter: a CSV file that appears when the block ends, or standard
    output."""
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
