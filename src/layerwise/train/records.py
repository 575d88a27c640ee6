"""What a run keeps book of: sums since the last line of the log, and the best epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerwise.errors import unknown
from layerwise.recipe import LAST, Stage
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Goal, Task
from layerwise.train.loop import Event


@dataclass
class Best:
    """The best epoch of a stage so far, and how many epochs have passed since."""

    stage: int = 0
    value: float | None = None
    epoch: int = 0
    waited: int = 0

    def better(self, value: float, goal: Goal) -> bool:
        """Whether a value beats the best."""
        if self.value is None:
            return True
        return value > self.value if goal.more_is_better else value < self.value


@dataclass
class Window:
    """Sums of the steps since the last line of the log; tensors until the line is written."""

    total: Tensor | None = None
    weight: float = 0.0
    parts: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    words: int = 0
    began: float = field(default_factory=time.monotonic)
    until: float = field(default_factory=time.monotonic)  # the last step's end: what comes after it is not training

    def add(self, event: Event) -> None:
        """Take in a step."""
        step = event.step
        self.total = step.total if self.total is None else self.total + step.total
        self.weight += step.weight
        for name, part in step.parts.items():
            old = self.parts.get(name)
            self.parts[name] = part if old is None else old + part
        self.count += 1
        self.words += step.words
        self.until = time.monotonic()

    def speed(self) -> str:
        """Return how fast text is gone through, as `Display` shows it; the empty text where none is."""
        return f"  {self.words / max(1e-9, self.until - self.began):,.0f} words/s" if self.words else ""

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums for a checkpoint."""
        out = {f"window.part.{name}": part for name, part in self.parts.items()}
        out["window.weight"] = torch.tensor([self.weight, self.count], dtype=torch.float64)
        if self.total is not None:
            out["window.total"] = self.total
        return out

    @staticmethod
    def of(state: dict[str, Tensor], device: torch.device) -> Window:
        """Make a window again from a checkpoint. Raises `KeyError` or `ValueError` for tensors that are not a window's."""
        for name, tensor in state.items():
            if name.startswith("window.") and tensor.shape != ((2,) if name == "window.weight" else ()):
                raise ValueError(f"'{name}' has the shape {tuple(tensor.shape)}")
        weight, count = state["window.weight"].double().tolist()
        total = state.get("window.total")
        prefix = "window.part."
        parts = {n.removeprefix(prefix): t.to(device) for n, t in state.items() if n.startswith(prefix)}
        return Window(None if total is None else total.to(device), weight, parts, int(count))

    def metrics(self, world: World) -> dict[str, float]:
        """Return means over the examples of all ranks."""
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


def goal_of(stage: Stage, task: Task) -> Goal:
    """Return the metric that picks a stage's best weights."""
    if stage.monitor in ("", LAST):
        return task.goal
    name = stage.monitor.removeprefix("val/")
    return Goal(name, name in ("accuracy", "balanced-accuracy", "r2"))


def monitored(metrics: dict[str, float], goal: Goal) -> float:
    """Return the monitored metric, or raise `UsageError` with the nearest name."""
    if f"val/{goal.metric}" not in metrics:
        raise unknown("metric to monitor", f"val/{goal.metric}", metrics)
    return metrics[f"val/{goal.metric}"]
