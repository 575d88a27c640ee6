"""The view ``mistakes``: where a run's model is most wrong on a part of the data, in images or rows."""

from __future__ import annotations

from pathlib import Path

from layerwise.data.source import SPLITS
from layerwise.errors import unknown
from layerwise.inspection.base import Target, View, save, table, trained
from layerwise.inspection.predictions import Case, answers, batches_of, worst, wrong
from layerwise.plotting.images import CAPTION, SIDE, in_rows, sheet
from layerwise.plotting.svg import width_of

COUNT = 24
COLUMNS = 6
HEADER = (("example", "样本"), ("true", "真实"), ("predicted", "预测"), ("score", "得分"), ("loss", "损失"))


def view(target: Target, *, out: Path | None) -> View:
    """Return the examples of highest loss among the wrong ones (for regression and reconstruction: among all).

    Reads the test part unless ``target.split`` names another. Writes ``mistakes.svg`` for images.
    """
    model, task, splits = trained(target, "mistakes")
    split = target.split or "test"
    if split not in SPLITS:
        raise unknown("part of the data", split, SPLITS)
    source = task.adopt(splits.part(split))
    found = answers(model, task, batches_of(model, task, source))
    missed = wrong(task, found)
    listed = worst(task, found, source, count=target.examples or COUNT, among=missed)
    data = {
        "split": split,
        "examples": len(found.losses),
        "metrics": found.metrics,
        "wrong": int(missed.sum()) if task.name == "classification" else None,
        "mistakes": [case.to_json() for case in listed],
    }
    figures = []
    if listed and listed[0].image is not None:
        figures = save(out, "mistakes.svg", image_sheet(listed))
    return View("mistakes", data, _written(target, data, listed, task.name), figures)


def image_sheet(listed: list[Case], *, columns: int = COLUMNS) -> str:
    """Return the mistakes as a sheet of images: true → predicted, the score, the example's name."""
    captions = [caption(case) for case in listed]
    rows = in_rows([case.image for case in listed if case.image is not None], columns)
    return sheet(rows, captions=[captions[start : start + columns] for start in range(0, len(captions), columns)])


def caption(case: Case) -> str:
    """Return what is written under a mistake."""
    answer = f"{case.true} → {case.predicted}" if case.predicted else f"{case.loss:.4g}"
    if case.predicted and width_of(answer, CAPTION) > SIDE:
        answer = f"{case.true}\n→ {case.predicted}"
    return "\n".join([answer, *([f"{case.score:.1%}"] if case.score is not None else []), case.name])


def _written(target: Target, data: dict[str, object], listed: list[Case], task: str) -> str:
    """Return the list as a plain table."""
    wrong_, all_, part = data["wrong"], data["examples"], data["split"]
    if task == "classification":
        if not listed:
            return target.say(
                f"none of the {all_} examples of the {part} part is wrong", f"{part} 部分的 {all_} 个样本全部答对"
            )
        head = target.say(
            f"{wrong_} of {all_} examples of the {part} part are wrong; the worst:",
            f"{part} 部分 {all_} 个样本中错 {wrong_} 个；最严重的：",
        )
    else:
        head = target.say(f"the examples of the {part} part with the highest loss:", f"{part} 部分损失最大的样本：")
    rows = [
        [case.name, case.true, case.predicted, "" if case.score is None else f"{case.score:.3f}", f"{case.loss:.4g}"]
        for case in listed
    ]
    header = [target.say(*pair) for pair in HEADER]
    keep = [i for i in range(5) if i in (0, 4) or any(row[i] for row in rows)]
    body = [[row[i] for i in keep] for row in rows]
    flush = frozenset(at for at, i in enumerate(keep) if i > 2)
    return f"{head}\n\n" + table([header[i] for i in keep], body, right=flush)
