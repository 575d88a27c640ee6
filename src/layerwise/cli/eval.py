"""``layerwise eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from layerwise.cli.common import DeviceOption, EngineOption, Imports, Json, put_json, shown, take_imports
from layerwise.text_display import write_line, write_note

READABLE = 20  # classes up to which the confusion matrix is shown


def eval_(
    run: Path,
    *,
    data: str | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    engine: EngineOption = "torch",
    device: DeviceOption = "auto",
    tta: Literal["none", "flip"] = "none",
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Measure a run's best weights.

    Parameters
    ----------
    run
        a run directory
    data
        other data than the run was trained on; of word vectors also benchmarks: word-eval
    split
        which part: test (the default), val, train, or all (the default with --data)
    tta
        flip: the mean of the answers to each image and its mirror image
    """
    take_imports(imports)
    from layerwise.inference.evaluate import measure

    found = measure(run, data=data, split=split, tta=tta, engine=engine, device=device)
    if json:
        asked: dict[str, Any] = ({} if tta == "none" else {"tta": tta}) | (
            {} if engine == "torch" else {"engine": found.engine}
        )
        put_json(
            run=str(run), split=found.split, metrics=found.metrics, notes=list(found.notes), **found.details, **asked
        )
        return 0
    for note in found.notes:
        write_note(note)
    for name, value in found.metrics.items():
        write_line(f"{found.split}/{name}\t{shown(value)}")
    for part in tables(found.details):
        write_line(f"\n{part}")
    return 0


def tables(details: dict[str, Any]) -> list[str]:
    """Return what an assessment says beside its metrics, as plain tables: by class, the confusion matrix, the
    calibration."""
    from layerwise.inspection.base import table

    if not details:
        return []
    if "sections" in details:
        return [_sections(details["sections"])]
    classes = details["classes"]
    columns = ("precision", "recall", "f1", "roc_auc")
    by_class = [[one["name"], *(shown(one[key]) for key in columns), str(one["support"])] for one in classes]
    out = [table(["class", "precision", "recall", "f1", "roc-auc", "examples"], by_class, right=frozenset(range(1, 6)))]
    if len(classes) <= READABLE:
        names = [one["name"] for one in classes]
        counts = [[name, *map(str, row)] for name, row in zip(names, details["confusion"], strict=True)]
        out.append(table(["true \\ answer", *names], counts, right=frozenset(range(1, len(names) + 1))))
    bins = [
        [f"{b['low']:.2f}–{b['high']:.2f}", shown(b["confidence"], 3), f"{b['accuracy']:.3f}", str(b["count"])]
        for b in details["calibration"]["bins"]
    ]
    out.append(table(["said", "mean said", "right", "answers"], bins, right=frozenset(range(1, 4))))
    return out


def _sections(found: list[dict[str, Any]]) -> str:
    """Return the sections of benchmarks for words as a table."""
    from layerwise.inspection.base import table

    rows = []
    for one in found:
        score = "–" if one["score"] is None else f"{one['score']:.3f}"
        rows.append([one["benchmark"], one["name"], f"{one['asked']:,} of {one['total']:,}", one["kind"], score])
    return table(["benchmark", "section", "asked", "measure", "score"], rows, right=frozenset((2, 4)))
