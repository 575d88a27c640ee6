"""``report.html``: one self-contained page about a finished run, for a telephone or a desk, in English or Chinese."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from typing import Any

import jinja2
from torch import nn

from layerwise.data.source import Source, Splits
from layerwise.inspection.predictions import Answers
from layerwise.inspection.views.decision_surface import applies
from layerwise.models.boltzmann import stack_of
from layerwise.report import columns, sections
from layerwise.report.attempts import Attempts
from layerwise.report.neighbors import neighbors
from layerwise.report.sections import Figures
from layerwise.report.texts import Texts
from layerwise.run_directory import RunDirectory
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression
from layerwise.tasks.words import Words
from layerwise.text_display import escape_control

Json = dict[str, Any]


def write_report(
    directory: RunDirectory,
    model: nn.Module,
    task: Task,
    *,
    found: Answers,
    source: Source,
    splits: Splits | None = None,
    lang: str = "en",
) -> list[tuple[str, str]]:
    """Write ``report.html`` and its drawings under ``figures/``; return notes, in English and Chinese, on parts that
    could not be made.

    A part that fails is left out, with a note on the page: no drawing stops a run. The page refers to nothing outside
    itself and runs no script; the same run gives the same bytes. The model and the random state are left as they were.

    Args:
        directory: a run whose run.json holds its history, metrics and facts.
        found: the model's answers to the test part.
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
    attempts, history = Attempts(), info.get("history", [])
    parts = {
        "metrics": attempts.make("metrics", lambda: metric_table(info.get("metrics", {}), task, text)),
        "stages": attempts.make("curves", lambda: sections.stages(history, task, figures, text, best=best_epoch(info)))
        or [],
        "table": attempts.make("table", lambda: columns.table(task, info.get("columns", []), text)),
        "function": attempts.make(
            "curve", lambda: None if splits is None else sections.function(model, task, splits, figures, text)
        ),
        **task_sections(model, task, found, source=source, figures=figures, text=text, attempts=attempts),
    }
    page = render(
        text=text,
        head=headline(task, found, info, text),
        recipe=recipe,
        verdicts=[text.pick(pair) for pair in info.get("verdicts", []) if text.pick(pair)],
        notes=[*(str(note) for note in info.get("notes", [])), *(text.pick(pair) for pair in attempts.failed)],
        facts=facts(info, model, text),
        commands=commands(directory, model, task, text),
        **parts,
    )
    directory.write("report.html", page.encode("utf-8", "replace"))
    return attempts.failed


def render(**values: Any) -> str:
    """Fill the template. Every value is escaped but the drawings, which escape for themselves."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layerwise.report", ""),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(values)


def _finalized(value: object) -> object:
    """Return a value for the page: text without control characters and marks of direction; drawings as they are."""
    return escape_control(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def task_sections(
    model: nn.Module, task: Task, found: Answers, *, source: Source, figures: Figures, text: Texts, attempts: Attempts
) -> Json:
    """Return the sections that depend on the task; None where one does not apply, or could not be made."""
    makers: dict[str, Callable[[], Any]] = {
        "neighbors": lambda: neighbors(model, task),
        "samples": lambda: sections.drawn(model, task, figures, text),
    }
    if isinstance(task, Classification):
        makers["confusion"] = lambda: sections.confusion(task, found, figures, text)
        if len(found.losses):
            makers["calibration"] = lambda: sections.calibration(found, figures, text)
    if isinstance(task, Regression):
        makers["scatter"] = lambda: sections.scatter(task, found, figures, text)
    if isinstance(task, Reconstruction):
        makers["rebuilt"] = lambda: sections.reconstructions(task, found, source, figures)
    if task.inputs.kind != "text":
        makers["mistakes"] = lambda: sections.mistakes(task, found, source, figures, text)
    names = ("confusion", "calibration", "mistakes", "neighbors", "scatter", "rebuilt", "samples")
    return {name: attempts.make(name, makers[name]) if name in makers else None for name in names}


def headline(task: Task, found: Answers, info: Json, text: Texts) -> Json:
    """Return the title, the goal's value on the test part, and what helps to judge it."""
    metric, count = task.goal.metric, len(found.losses)
    out = {
        "title": text("title", model=info["model"]["name"], data=info["data"]),
        "metric": text.metric(metric),
        "value": shown(metric, found.metrics[metric]),
        "where": text("on the test blocks" if isinstance(task, Words) else "on the test part", count=count),
        "interval": "",
        "baseline": "",
    }
    if isinstance(task, Classification) and count:
        low, high = wilson(found.metrics["accuracy"], count)
        out["interval"] = text("interval", low=f"{low:.1%}", high=f"{high:.1%}")
        name, share = sections.baseline(task, found)
        out["baseline"] = text("baseline", name=name, value=f"{share:.1%}")
    if isinstance(task, Regression) and count:
        out["baseline"] = text("baseline number", value=f"{sections.mean_error(task, found):.4g}")
    return out


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval of a proportion, at 95 % for the default ``z`` (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def shown(metric: str, value: float | None) -> str:
    """Return a metric's value as people read it; a dash for one that is not defined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.1%}" if metric in ("accuracy", "balanced-accuracy") else f"{value:.4g}"


def metric_table(metrics: dict[str, float], task: Task, text: Texts) -> list[Json]:
    """Return a line for each metric with its validation and test values, the goal's first."""
    names = list(dict.fromkeys(key.partition("/")[2] for key in metrics if "/" in key))
    names.sort(key=lambda name: (name != task.goal.metric, name == "loss"))
    parts = ("val", "test")
    return [
        {
            "name": text.metric(name),
            "goal": name == task.goal.metric,
            "values": [shown(name, metrics[key]) if (key := f"{part}/{name}") in metrics else "–" for part in parts],
        }
        for name in names
    ]


def best_epoch(info: Json) -> int | None:
    """Return the epoch whose weights were kept, if it was not simply the last."""
    history = info.get("history", [])
    epoch = info.get("epochs")
    return epoch if isinstance(epoch, int) and epoch > 0 and history and epoch != history[-1]["epoch"] else None


def facts(info: Json, model: nn.Module, text: Texts) -> list[tuple[str, str]]:
    """Return what there is to know of the run, line by line."""
    arguments = ", ".join(f"{key}={value}" for key, value in info["model"].get("arguments", {}).items())
    seconds = float(info.get("seconds", 0.0))
    time = text("seconds", value=f"{seconds:.3g}") if seconds < 120 else text("minutes", value=f"{seconds / 60:.3g}")
    host = info.get("host", {})
    flags = ", ".join(
        f"{key}={value}" for key, value in info.get("flags", {}).items() if key != "kernels"
    )  # too many for a line
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


def commands(directory: RunDirectory, model: nn.Module, task: Task, text: Texts) -> Json:
    """Return the command that repeats the run, and those that go on from it, each with what it does."""
    run = shlex.quote(str(directory.path))
    sample = {"image": "image.png", "row": "rows.csv", "text": "'king - man + woman'"}.get(task.inputs.kind, "INPUT")
    follow = [
        (f"layerwise predict {run} {sample}", text("next predict")),
        (f"layerwise eval {run} --data SOURCE", text("next eval")),
        (f"layerwise inspect {run} --what mistakes --out mistakes", text("next mistakes")),
        (f"layerwise inspect {run} --what gradients --out gradients", text("next gradients")),
        (f"layerwise doctor {run}", text("next doctor")),
    ]
    if task.inputs.kind == "text":
        follow[2:4] = [(f"layerwise inspect {run} --what map --out map", text("next map"))]
    if task.inputs.kind == "row" and task.name != "reconstruction":
        follow.insert(3, (f"layerwise inspect {run} --what columns --out columns", text("next columns")))
    if applies(task):
        follow.insert(-1, (f"layerwise inspect {run} --what function --out function", text("next function")))
    if stack_of(model):
        follow.insert(-1, (f"layerwise inspect {run} --what samples --out samples", text("next samples")))
    return {"repeat": f"layerwise train {shlex.quote(str(directory.path / 'recipe.toml'))}", "next": follow}
