"""``report.html``: one self-contained page about a finished run, for a telephone or a desk, in English or Chinese."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jinja2
from torch import nn

from layerwise.data.source import Source, Splits
from layerwise.errors import StorageError
from layerwise.inspection.predictions import Predictions
from layerwise.inspection.views.decision_surface import can_draw_function
from layerwise.models.boltzmann import list_rbms
from layerwise.report import sections
from layerwise.report.sections import Figures
from layerwise.report.translations import TEXTS, Texts
from layerwise.run_directory import RunDirectory
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression
from layerwise.tasks.words import Words
from layerwise.text_display import escape_control

Json = dict[str, Any]
Section = TypeVar("Section")


@dataclass
class SectionBuilder:
    """Builds sections of the page, and keeps notes on those that failed, in English and Chinese."""

    failures: list[tuple[str, str]] = field(default_factory=list)

    def build(self, name: str, make: Callable[[], Section]) -> Section | None:
        """Return what ``make`` returns, or None with a note that the section ``name`` (of `TEXTS`) is missing.

        A full or read-only disk (`StorageError`) is no fault of the section: it is raised.
        """
        try:
            return make()
        except StorageError:
            raise
        except Exception as error:
            self.failures.append(format_missing_note(name, error))
            return None


def format_missing_note(name: str, error: Exception) -> tuple[str, str]:
    """Return the note on a section that could not be made."""
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    english, chinese = TEXTS.get(name, (name, name))
    return (
        f"the report lacks “{english}”, which could not be made ({reason})",
        f"报告缺少“{chinese}”：生成失败（{reason}）",
    )


def write_report(
    directory: RunDirectory,
    model: nn.Module,
    task: Task,
    *,
    predictions: Predictions,
    source: Source,
    splits: Splits | None = None,
    lang: str = "en",
) -> list[tuple[str, str]]:
    """Write ``report.html`` and its drawings under ``figures/``; return notes, in English and Chinese, on parts that
    could not be made.

    A part that fails is left out, with a note on the page: no drawing stops a run. The page refers to nothing outside
    itself and runs no script; the same run gives the same bytes. The model and the random state do not change.

    Args:
        directory: a run whose run.json holds its history, metrics and facts.
        predictions: the model's predictions for the test part.
        source: the test part itself, for names and images.
        splits: all parts, whose points are drawn with a function of one or two numbers; None leaves that drawing out.
        lang: ``en`` or ``zh``.

    Raises:
        UsageError: for another language.
        DamagedError: if run.json or the recipe is not as written.
        StorageError: if the disk is full or read-only.
    """
    text = Texts(lang)
    figures = Figures(directory.write)
    info = directory.info()
    recipe = directory.read("recipe.toml").decode("utf-8", "replace")
    builder, history = SectionBuilder(), info.get("history", [])

    def make_stages() -> list[Json]:
        return sections.build_stages(history, task, figures, text, best=find_best_epoch(info))

    def make_function() -> Json | None:
        return None if splits is None else sections.build_function_section(model, task, splits, figures, text)

    parts = {
        "metrics": builder.build("metrics", lambda: build_metric_table(info.get("metrics", {}), task, text)),
        "stages": builder.build("curves", make_stages) or [],
        "table": builder.build("table", lambda: sections.build_columns_section(task, info.get("columns", []), text)),
        "function": builder.build("curve", make_function),
        **build_task_sections(model, task, predictions, source=source, figures=figures, text=text, builder=builder),
    }
    page = render_page(
        text=text,
        head=build_headline(task, predictions, info, text),
        recipe=recipe,
        verdicts=[text.pick(pair) for pair in info.get("verdicts", []) if text.pick(pair)],
        notes=[*(str(note) for note in info.get("notes", [])), *(text.pick(pair) for pair in builder.failures)],
        facts=list_facts(info, model, text),
        commands=list_commands(directory, model, task, text),
        **parts,
    )
    directory.write("report.html", page.encode("utf-8", "replace"))
    return builder.failures


def render_page(**values: Any) -> str:
    """Fill the template. Every value is escaped except the drawings, which are escaped already."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layerwise.report", ""),
        autoescape=True,
        finalize=_escape_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(values)


def _escape_value(value: object) -> object:
    """Return a value for the page: text without control characters and marks of direction; drawings as they are."""
    return escape_control(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def build_task_sections(
    model: nn.Module,
    task: Task,
    predictions: Predictions,
    *,
    source: Source,
    figures: Figures,
    text: Texts,
    builder: SectionBuilder,
) -> Json:
    """Return the sections that depend on the task; None where one does not apply, or could not be made."""
    makers: dict[str, Callable[[], Any]] = {
        "neighbors": lambda: sections.build_neighbors_section(model, task),
        "samples": lambda: sections.build_samples_section(model, task, figures, text),
    }
    if isinstance(task, Classification):
        makers["confusion"] = lambda: sections.build_confusion_section(task, predictions, figures, text)
        if len(predictions.losses):
            makers["calibration"] = lambda: sections.build_calibration_section(predictions, figures, text)
    if isinstance(task, Regression):
        makers["scatter"] = lambda: sections.draw_scatter(task, predictions, figures, text)
    if isinstance(task, Reconstruction):
        makers["rebuilt"] = lambda: sections.build_reconstructions_section(task, predictions, source, figures)
    if task.inputs.kind != "text":
        makers["mistakes"] = lambda: sections.build_mistakes_section(task, predictions, source, figures, text)
    names = ("confusion", "calibration", "mistakes", "neighbors", "scatter", "rebuilt", "samples")
    return {name: builder.build(name, makers[name]) if name in makers else None for name in names}


def build_headline(task: Task, predictions: Predictions, info: Json, text: Texts) -> Json:
    """Return the title, the goal's value on the test part, and what helps to judge it."""
    metric, count = task.goal.metric, len(predictions.losses)
    out = {
        "title": text("title", model=info["model"]["name"], data=info["data"]),
        "metric": text.metric(metric),
        "value": format_metric(metric, predictions.metrics[metric]),
        "where": text("on the test blocks" if isinstance(task, Words) else "on the test part", count=count),
        "interval": "",
        "baseline": "",
    }
    if isinstance(task, Classification) and count:
        low, high = wilson_interval(predictions.metrics["accuracy"], count)
        out["interval"] = text("interval", low=f"{low:.1%}", high=f"{high:.1%}")
        name, share = sections.find_majority_class(task, predictions)
        out["baseline"] = text("baseline", name=name, value=f"{share:.1%}")
    if isinstance(task, Regression) and count:
        out["baseline"] = text("baseline number", value=f"{sections.compute_mean_error(task, predictions):.4g}")
    return out


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval of a proportion, at 95 % for the default ``z`` (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def format_metric(metric: str, value: float | None) -> str:
    """Return a metric's value as people read it; a dash for one that is not defined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if metric in ("accuracy", "balanced-accuracy") else f"{value:.4g}"


def build_metric_table(metrics: dict[str, float], task: Task, text: Texts) -> list[Json]:
    """Return a line for each metric with its validation and test values, the goal's first."""
    names = list(dict.fromkeys(key.partition("/")[2] for key in metrics if "/" in key))
    names.sort(key=lambda name: (name != task.goal.metric, name == "loss"))
    parts = ("val", "test")
    rows = []
    for name in names:
        values = [format_metric(name, metrics.get(f"{part}/{name}")) for part in parts]
        rows.append({"name": text.metric(name), "goal": name == task.goal.metric, "values": values})
    return rows


def find_best_epoch(info: Json) -> int | None:
    """Return the epoch of the saved weights, unless it is the last."""
    history = info.get("history", [])
    epoch = info.get("epochs")
    return epoch if isinstance(epoch, int) and epoch > 0 and history and epoch != history[-1]["epoch"] else None


def list_facts(info: Json, model: nn.Module, text: Texts) -> list[tuple[str, str]]:
    """Return the run's facts, line by line."""
    arguments = ", ".join(f"{key}={value}" for key, value in info["model"].get("arguments", {}).items())
    seconds = float(info.get("seconds", 0.0))
    time = text("seconds", value=f"{seconds:.3g}") if seconds < 120 else text("minutes", value=f"{seconds / 60:.3g}")
    host = info.get("host", {})
    # the kernels are too many for a line
    flags = ", ".join(f"{key}={value}" for key, value in info.get("flags", {}).items() if key != "kernels")
    versions = [(name, str(info[name])) for name in ("layerwise", "torch", "python") if name in info]
    rows = [
        (text("model"), f"{info['model']['name']}({arguments})"),
        (text("parameters"), f"{sum(p.numel() for p in model.parameters()):,}"),
        (text("data"), str(info["data"])),
        (text("examples"), text("examples of", **info["examples"]) if "examples" in info else ""),
        (text("epochs"), str(info.get("epochs") or "")),
        (text("time"), time if seconds else ""),
        (
            text("host"),
            " · ".join(str(value) for value in host.values() if value) if isinstance(host, dict) else str(host),
        ),
        (text("versions"), " · ".join(f"{name} {version}" for name, version in versions)),
        (text("flags"), flags),
        (text("fingerprint"), str(info.get("fingerprint", ""))),
    ]
    return [(name, value) for name, value in rows if value]


def list_commands(directory: RunDirectory, model: nn.Module, task: Task, text: Texts) -> Json:
    """Return the command that repeats the run, and the commands that may follow, each with what it does."""
    run = shlex.quote(str(directory.path))
    sample = {"image": "image.png", "row": "rows.csv", "text": "'king - man + woman'"}.get(task.inputs.kind, "INPUT")
    commands = [
        (f"layerwise predict {run} {sample}", text("next predict")),
        (f"layerwise eval {run} --data SOURCE", text("next eval")),
        (f"layerwise inspect {run} --view mistakes --out mistakes", text("next mistakes")),
        (f"layerwise inspect {run} --view gradients --out gradients", text("next gradients")),
        (f"layerwise doctor {run}", text("next doctor")),
    ]
    if task.inputs.kind == "text":
        commands[2:4] = [(f"layerwise inspect {run} --view map --out map", text("next map"))]
    if task.inputs.kind == "row" and task.name != "reconstruction":
        commands.insert(3, (f"layerwise inspect {run} --view columns --out columns", text("next columns")))
    if can_draw_function(task):
        commands.insert(-1, (f"layerwise inspect {run} --view function --out function", text("next function")))
    if list_rbms(model):
        commands.insert(-1, (f"layerwise inspect {run} --view samples --out samples", text("next samples")))
    return {"repeat": f"layerwise train {shlex.quote(str(directory.path / 'recipe.toml'))}", "next": commands}
