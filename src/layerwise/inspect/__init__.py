"""Views into networks and runs, one file each. Their names are known without importing torch."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from layerwise.errors import unknown
from layerwise.inspect.base import Lang, Target, View


class Entry(NamedTuple):
    """A view's module, one line about it in both languages, and its needs: ``run``, ``data`` (run and data) or none."""

    module: str
    summary: str
    summary_zh: str
    needs: str


VIEWS: dict[str, Entry] = {
    "summary": Entry("summary", "the layers: type, output shape, parameters, work", "各层的类型、输出形状、参数量与计算量", ""),
    "gradients": Entry("gradients", "backpropagation in four steps: z, a, δ, ∂W, ∂b", "反向传播四步：z、a、δ、∂W、∂b", "data"),
    "mistakes": Entry("mistakes", "the worst mistakes of a part of the data", "数据某一部分上最严重的错误", "data"),
    "receptive-field": Entry("receptive_field", "the pixels that each layer's units can depend on", "各层单元所能依赖的像素范围", ""),
    "samples": Entry("samples", "what a Boltzmann machine draws, and its filters", "玻尔兹曼机的采样与滤波器", "run"),
    "augmentations": Entry("augmentations", "training pictures beside what a run makes of them", "训练图像及其数据增强后的样子", "data"),
    "tuning": Entry("tuning", "what orientation-selective cells answer by angle and phase", "方向选择性细胞按角度与相位的响应", ""),
    "filtered": Entry("filtered", "photographs as orientation-selective cells see them", "方向选择性细胞眼中的照片", ""),
    "truth-table": Entry("truth_table", "what a McCulloch–Pitts neuron computes", "麦卡洛克-皮茨神经元的真值表", ""),
}


def check_name(name: str) -> None:
    """Raise `UsageError` with the nearest view if there is none of this name. Imports nothing heavy."""
    if name not in VIEWS:
        raise unknown("view", name, VIEWS)


def inspect(name: str, target: Target, *, out: Path | None = None) -> View:
    """Return a view of a model or run.

    Args:
        name: one of `VIEWS`.
        target: what is looked at.
        out: a folder for figures and arrays, made if need be; None writes nothing.

    Raises:
        UsageError: for an unknown view, with the nearest; for a bare card where a run is needed; for a card the view is not for.
    """
    check_name(name)
    module = importlib.import_module(f"layerwise.inspect.{VIEWS[name].module}")
    found: View = module.view(target, out=out)
    return found


def look(name: str, target: str, *, out: Path | None = None, split: str = "", examples: int = 0, lang: Lang = "en") -> View:
    """Open a run directory or a card by name and return a view of it: `inspect` for the command line.

    Raises `UsageError` as `inspect` does, and for a name that is neither; `DamagedError` for a damaged run.
    """
    check_name(name)
    opening = importlib.import_module("layerwise.inspect.opening")
    opened: Target = opening.opened(target, needs=VIEWS[name].needs, view=name)
    return inspect(name, replace(opened, split=split, examples=examples, lang=lang), out=out)
