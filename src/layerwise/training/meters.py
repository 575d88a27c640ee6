"""Metrics of a run: means since the last line of the log, the best epoch, and notes on undefined metrics."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import make_unknown_name_error
from layerwise.recipe import LAST, Stage
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Goal, Task
from layerwise.training.loop import Event


@dataclass
class BestEpoch:
    """The best epoch of a stage so far. ``waited`` epochs have passed since; ``value`` is None until a metric is
    finite."""

    stage: int = 0
    value: float | None = None
    epoch: int = 0
    waited: int = 0

    def is_improved_by(self, value: float, goal: Goal) -> bool:
        """Whether a value beats the best: it must be finite, and beats a best that is not."""
        if not math.isfinite(value):
            return False
        if self.value is None or not math.isfinite(self.value):
            return True
        return value > self.value if goal.more_is_better else value < self.value


@dataclass
class MetricAverager:
    """Averages losses over the steps since the last line of the log. Sums stay tensors until the line is written."""

    total: Tensor | None = None
    weight: float = 0.0
    parts: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    units: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)
    last_step: float = field(default_factory=time.monotonic)  # its end: what comes after it is not training

    def update(self, event: Event) -> None:
        """Add a step."""
        step = event.step
        self.total = step.total if self.total is None else self.total + step.total
        self.weight += step.weight
        for name, part in step.parts.items():
            old = self.parts.get(name)
            self.parts[name] = part if old is None else old + part
        self.count += 1
        self.units.update(step.units)
        self.last_step = time.monotonic()

    def format_speed(self) -> str:
        """Return the words or tokens per second, as `Display` shows them; empty for data counted in examples."""
        seconds = max(1e-9, self.last_step - self.started)
        return "".join(f"  {count / seconds:,.0f} {unit}/s" for unit, count in self.units.items())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums for a checkpoint."""
        out = {f"window.part.{name}": part for name, part in self.parts.items()}
        out["window.weight"] = torch.tensor([self.weight, self.count], dtype=torch.float64)
        if self.total is not None:
            out["window.total"] = self.total
        return out

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], device: torch.device) -> MetricAverager:
        """Restore the sums of a checkpoint. Raises `KeyError` or `ValueError` for tensors that are no such sums."""
        for name, tensor in state.items():
            if name.startswith("window.") and tensor.shape != ((2,) if name == "window.weight" else ()):
                raise ValueError(f"'{name}' has the shape {tuple(tensor.shape)}")
        weight, count = state["window.weight"].double().tolist()
        total = state.get("window.total")
        prefix = "window.part."
        parts = {n.removeprefix(prefix): t.to(device) for n, t in state.items() if n.startswith(prefix)}
        return cls(None if total is None else total.to(device), weight, parts, int(count))

    def compute(self, world: World) -> dict[str, float]:
        """Return the means over the examples of all ranks."""
        if self.total is None:
            return {}
        names = [*self.parts]
        sums = torch.stack([t.double() for t in (self.total, *self.parts.values())])
        sums = torch.cat([sums, sums.new_tensor([self.weight])])
        world.reduce([sums])
        *values, weight = sums.tolist()
        weight = max(weight, 1.0)
        out = {"train/loss": values[0] / weight}
        if len(names) > 1:
            out |= {f"train/{name}": value / weight for name, value in zip(names, values[1:], strict=True)}
        return out


def describe_undefined_metrics(
    history: Iterable[Mapping[str, Any]], stage: str, goal: Goal, *, last: bool
) -> list[tuple[str, str]]:
    """Return notes, in English and Chinese, on validation metrics that were not finite in some epochs of a stage.

    ``last``: the stage keeps its last epoch's weights, whatever the metrics say.
    """
    rows = [row for row in history if row["stage"] == stage]
    notes = []
    for name in dict.fromkeys(key for row in rows for key in row if key.startswith("val/")):
        measured = [row[name] for row in rows if name in row]
        count, total = sum(value is None or not math.isfinite(value) for value in measured), len(measured)
        if not count:
            continue
        english, chinese = (
            f"{name} was not finite in {count} of {total} epochs",
            f"{total} 轮中有 {count} 轮的 {name} 不是有限数",
        )
        if name == f"val/{goal.metric}" and not last and count < total:
            english, chinese = f"{english}: none of these is the best epoch", f"{chinese}，这些轮次不会被选为最佳"
        elif name == f"val/{goal.metric}" and not last:
            english, chinese = (
                f"{english}: the last epoch's weights are kept",
                f"{chinese}，无法选出最佳轮次，因此保留最后一轮的权重",
            )
        notes.append((english, chinese))
    return notes


def get_final_metrics(info: Mapping[str, Any]) -> dict[str, float]:
    """Return the final metrics of run.json, NaN for null (a metric that was not finite); empty until the run is
    finished."""
    return {name: math.nan if value is None else float(value) for name, value in info.get("metrics", {}).items()}


def get_goal(stage: Stage, task: Task) -> Goal:
    """Return the metric that picks a stage's best weights."""
    if stage.monitor in ("", LAST):
        return task.goal
    name = stage.monitor.removeprefix("val/")
    return Goal(name, name in ("accuracy", "balanced-accuracy", "r2"))


def get_monitored_metric(metrics: dict[str, float], goal: Goal) -> float:
    """Return the monitored metric. Raises `UsageError` with the nearest name if there is none."""
    if f"val/{goal.metric}" not in metrics:
        raise make_unknown_name_error("metric to monitor", f"val/{goal.metric}", metrics)
    return metrics[f"val/{goal.metric}"]
