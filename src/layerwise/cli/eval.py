"""``layerwise eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from layerwise.cli.common import (
    DeviceOption,
    EngineOption,
    Imports,
    Json,
    format_metric,
    import_user_modules,
    print_json,
)
from layerwise.text_display import write_line, write_note

READABLE = 20  # the largest number of classes for which the confusion matrix is printed


def run_eval(
    run: Path,
    *,
    data: str | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    engine: EngineOption = "torch",
    device: DeviceOption = "auto",
    tta: Literal["none", "flip"] = "none",
    imports: Imports = None,
    as_json: Json = False,
) -> int:
    """Measure a run's best weights.

    Parameters
    ----------
    run
        a run directory
    data
        other data than the run was trained on; for word vectors also the benchmarks word-eval
    split
        which part: test (the default), val, train, or all (the default with --data)
    tta
        flip: average the predictions for each image and its mirror image
    """
    import_user_modules(imports)
    from layerwise.inference.evaluate import evaluate_run

    evaluation = evaluate_run(run, data=data, split=split, tta=tta, engine=engine, device=device)
    if as_json:
        options: dict[str, Any] = ({} if tta == "none" else {"tta": tta}) | (
            {} if engine == "torch" else {"engine": evaluation.engine}
        )
        print_json(
            run=str(run),
            split=evaluation.split,
            metrics=evaluation.metrics,
            notes=list(evaluation.notes),
            **evaluation.details,
            **options,
        )
        return 0
    for note in evaluation.notes:
        write_note(note)
    for name, value in evaluation.metrics.items():
        write_line(f"{evaluation.split}/{name}\t{format_metric(value)}")
    for table in format_tables(evaluation.details):
        write_line(f"\n{table}")
    return 0


def format_tables(details: dict[str, Any]) -> list[str]:
    """Return the details of an evaluation as plain tables: metrics by class, the confusion matrix, the calibration."""
    from layerwise.inspection.base import format_table

    if not details:
        return []
    if "sections" in details:
        return [_format_sections(details["sections"])]
    classes = details["classes"]
    columns = ("precision", "recall", "f1", "roc_auc")
    by_class = []
    for one in classes:
        by_class.append([one["name"], *(format_metric(one[key]) for key in columns), str(one["support"])])
    out = [
        format_table(
            ["class", "precision", "recall", "f1", "roc-auc", "examples"], by_class, right=frozenset(range(1, 6))
        )
    ]
    if len(classes) <= READABLE:
        names = [one["name"] for one in classes]
        counts = [[name, *map(str, row)] for name, row in zip(names, details["confusion"], strict=True)]
        out.append(format_table(["true \\ predicted", *names], counts, right=frozenset(range(1, len(names) + 1))))
    bins = [
        [f"{b['low']:.2f}–{b['high']:.2f}", format_metric(b["confidence"], 3), f"{b['accuracy']:.3f}", str(b["count"])]
        for b in details["calibration"]["bins"]
    ]
    out.append(format_table(["confidence", "mean confidence", "accuracy", "count"], bins, right=frozenset(range(1, 4))))
    return out


def _format_sections(sections: list[dict[str, Any]]) -> str:
    """Return the sections of word benchmarks as a table."""
    from layerwise.inspection.base import format_table

    rows = []
    for one in sections:
        score = "–" if one["score"] is None else f"{one['score']:.3f}"
        rows.append([one["benchmark"], one["name"], f"{one['asked']:,} of {one['total']:,}", one["kind"], score])
    return format_table(["benchmark", "section", "asked", "measure", "score"], rows, right=frozenset((2, 4)))
