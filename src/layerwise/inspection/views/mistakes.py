"""The view ``mistakes``: a model's worst mistakes on a part of the data, as images or rows."""

from __future__ import annotations

from pathlib import Path

from layerwise.data.source import SPLITS
from layerwise.errors import make_unknown_name_error
from layerwise.inspection.base import Target, View, format_table, require_data, save
from layerwise.inspection.predictions import (
    ExamplePrediction,
    compute_predictions,
    find_worst,
    find_wrong,
    make_batches,
)
from layerwise.plotting.images import CAPTION, SIDE, draw_image_sheet, split_into_rows
from layerwise.plotting.svg import estimate_width

COUNT = 24
COLUMNS = 6
HEADER = (("example", "样本"), ("true", "真实"), ("predicted", "预测"), ("score", "得分"), ("loss", "损失"))


def view(target: Target, *, out: Path | None) -> View:
    """Return the misclassified examples of highest loss; for regression and reconstruction, of all examples.

    Reads the test part or ``target.split``. Writes ``mistakes.svg`` for images.
    """
    model, task, splits = require_data(target, "mistakes")
    split = target.split or "test"
    if split not in SPLITS:
        raise make_unknown_name_error("split", split, SPLITS)
    source = task.convert_source(splits.part(split))
    predictions = compute_predictions(model, task, make_batches(model, task, source))
    is_wrong = find_wrong(task, predictions)
    mistakes = find_worst(task, predictions, source, count=target.examples or COUNT, among=is_wrong)
    data = {
        "split": split,
        "examples": len(predictions.losses),
        "metrics": predictions.metrics,
        "wrong": int(is_wrong.sum()) if task.name == "classification" else None,
        "mistakes": [mistake.to_json() for mistake in mistakes],
    }
    figures = []
    if mistakes and mistakes[0].image is not None:
        figures = save(out, "mistakes.svg", draw_mistakes(mistakes))
    return View("mistakes", data, _format_text(target, data, mistakes, task.name), figures)


def draw_mistakes(mistakes: list[ExamplePrediction], *, columns: int = COLUMNS) -> str:
    """Draw the mistakes as images, with true and predicted class, score and name below each."""
    captions = [format_caption(mistake) for mistake in mistakes]
    rows = split_into_rows([mistake.image for mistake in mistakes if mistake.image is not None], columns)
    caption_rows = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    return draw_image_sheet(rows, captions=caption_rows)


def format_caption(mistake: ExamplePrediction) -> str:
    """Return the caption of a mistake."""
    line = f"{mistake.true} → {mistake.predicted}" if mistake.predicted else f"{mistake.loss:.4g}"
    if mistake.predicted and estimate_width(line, CAPTION) > SIDE:
        line = f"{mistake.true}\n→ {mistake.predicted}"
    return "\n".join([line, *([f"{mistake.score:.1%}"] if mistake.score is not None else []), mistake.name])


def _format_text(target: Target, data: dict[str, object], mistakes: list[ExamplePrediction], task: str) -> str:
    """Return the mistakes as a table."""
    wrong, total, part = data["wrong"], data["examples"], data["split"]
    if task == "classification":
        if not mistakes:
            return target.translate(
                f"none of the {total} examples of the {part} part is wrong", f"{part} 部分的 {total} 个样本全部预测正确"
            )
        head = target.translate(
            f"{wrong} of {total} examples of the {part} part are wrong; the worst:",
            f"{part} 部分 {total} 个样本中错 {wrong} 个；最严重的：",
        )
    else:
        head = target.translate(
            f"the examples of the {part} part with the highest loss:", f"{part} 部分损失最大的样本："
        )
    rows = []
    for mistake in mistakes:
        score = "" if mistake.score is None else f"{mistake.score:.3f}"
        rows.append([mistake.name, mistake.true, mistake.predicted, score, f"{mistake.loss:.4g}"])
    header = [target.translate(*pair) for pair in HEADER]
    keep = [i for i in range(5) if i in (0, 4) or any(row[i] for row in rows)]
    body = [[row[i] for i in keep] for row in rows]
    right_aligned = frozenset(index for index, i in enumerate(keep) if i > 2)
    return f"{head}\n\n" + format_table([header[i] for i in keep], body, right=right_aligned)
