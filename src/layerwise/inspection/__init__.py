"""Views into networks and runs, one file each. Their names are known without importing torch."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from layerwise.errors import UsageError, unknown
from layerwise.inspection.base import Lang, Target, View
from layerwise.runtime.folder_io import stage_files


class Entry(NamedTuple):
    """A view's module, one line about it in both languages, its needs, and what it can be told.

    ``run``: trained weights; ``data``: a part of the data; ``data?``: the same, or a bare model; ``plan``: how a
    network is to be trained; or none. ``takes``: ``images`` of the user's beside a run, a ``layer``, a ``class``,
    ``words``.
    """

    module: str
    summary: str
    summary_zh: str
    needs: str
    takes: tuple[str, ...] = ()


VIEWS: dict[str, Entry] = {
    "summary": Entry(
        "summary", "the layers: type, output shape, parameters, work", "各层的类型、输出形状、参数量与计算量", ""
    ),
    "gradients": Entry(
        "gradients", "backpropagation in four steps: z, a, δ, ∂W, ∂b", "反向传播四步：z、a、δ、∂W、∂b", "data"
    ),
    "activations": Entry(
        "activations", "what units give, which are saturated or dead", "各层单元的输出，哪些饱和、哪些死亡", "data?"
    ),
    "weights": Entry("weights", "weights in numbers, histograms and images", "各层权重的统计、直方图与图像", ""),
    "learning-rate": Entry(
        "learning_rate", "a range test: the loss as the rate rises", "范围测试：学习率升高时的损失", "plan"
    ),
    "one-batch": Entry(
        "one_batch", "whether a fresh network learns one batch by heart", "新网络能否把一个批次背下来", "plan"
    ),
    "function": Entry(
        "function", "what is answered over one or two numbers, drawn", "一两个数值上的拟合函数或决策边界图", "data"
    ),
    "mistakes": Entry("mistakes", "the worst mistakes of a part of the data", "数据某一部分上最严重的错误", "data"),
    "columns": Entry("columns", "how much each column of a table matters", "表格中每一列的重要程度", "data"),
    "receptive-field": Entry(
        "receptive_field",
        "the pixels that each layer's units can depend on, and do",
        "各层单元所能依赖与实际依赖的像素范围",
        "data?",
        ("images",),
    ),
    "filters": Entry("filters", "the first layer's kernels as images", "首层卷积核画成的图像", ""),
    "features": Entry(
        "features", "what each layer makes of an image", "各层从一张图像得到的特征图", "data", ("images", "layer")
    ),
    "grad-cam": Entry(
        "grad_cam",
        "where in an image the evidence for a class lies",
        "图像中支持某个类别的区域",
        "data",
        ("images", "layer", "class"),
    ),
    "embedding": Entry(
        "embedding", "a 2-D map of what the last layer sees, by class", "倒数第二层的二维分布图，按类别着色", "data"
    ),
    "confusions": Entry(
        "confusions", "the classes most often taken for each other, in images", "最常混淆的类别对及其图像", "data"
    ),
    "neighbors": Entry("word_neighbors", "the words nearest to some", "若干词的近邻", "run", ("words",)),
    "map": Entry("word_map", "words as a map in two dimensions", "把词画成二维分布图", "run", ("words",)),
    "norms": Entry("word_norms", "how long word vectors are, by frequency", "词向量长度与词频", "run"),
    "samples": Entry("samples", "what a Boltzmann machine draws, and its filters", "玻尔兹曼机的采样与滤波器", "run"),
    "augmentations": Entry(
        "augmentations", "training images beside what a run makes of them", "训练图像及其数据增强后的样子", "data"
    ),
    "recall": Entry(
        "recall",
        "what a Hopfield net stored, and what it recalls of it corrupted",
        "霍普菲尔德网络存入与回忆的图像",
        "data",
    ),
    "capacity": Entry(
        "capacity", "how many patterns a Hopfield net holds, beside the theory", "霍普菲尔德网络的容量与理论值", ""
    ),
    "components": Entry(
        "components", "weights of Hebb's rule beside the principal components", "赫布权重与主成分的对照", "data"
    ),
    "tuning": Entry(
        "tuning", "what orientation-selective cells answer by angle and phase", "方向选择性细胞按角度与相位的响应", ""
    ),
    "filtered": Entry(
        "filtered", "photographs as orientation-selective cells see them", "方向选择性细胞眼中的照片", ""
    ),
    "truth-table": Entry("truth_table", "what a McCulloch–Pitts neuron computes", "麦卡洛克-皮茨神经元的真值表", ""),
}


def check_name(name: str) -> None:
    """Raise `UsageError` with the nearest view if there is none of this name. Imports nothing heavy."""
    if name not in VIEWS:
        raise unknown("view", name, VIEWS)


def inspect(name: str, target: Target, *, out: Path | None = None, overwrite: bool = True) -> View:
    """Return a view of a model or run.

    Args:
        name: one of `VIEWS`.
        target: what is looked at.
        out: a folder for figures and arrays, made if need be; None writes nothing. All files come into it at the end,
            or none.
        overwrite: whether files that are there may be replaced.

    Raises: UsageError: for an unknown view, with the nearest; for a bare model where a run is needed; for a model the
        view is not for.
    """
    check_name(name)
    module = importlib.import_module(f"layerwise.inspection.views.{VIEWS[name].module}")
    if out is None:
        found: View = module.view(target, out=None)
        return found
    with stage_files(out, overwrite=overwrite) as folder:
        found = module.view(target, out=folder)
    return replace(found, figures=[out / path.name for path in found.figures])


def look(
    name: str,
    target: str,
    *,
    data: str = "",
    task: str = "",
    settings: tuple[str, ...] = (),
    out: Path | None = None,
    overwrite: bool = True,
    split: str = "",
    examples: int = 0,
    layer: str = "",
    of_class: str = "",
    words: tuple[str, ...] = (),
    lang: Lang = "en",
) -> View:
    """Open a run directory, a model by name or a recipe file and return a view of it: `inspect` for the command line.

    ``data``, ``task`` and ``settings`` (KEY=VALUE) say how an untrained network of a model or recipe is made, as in
    training; beside a run ``data`` is an image or a folder of images, for views that look at such. ``layer``,
    ``of_class`` and ``words`` are names, for views that take them.

    Raises `UsageError` as `inspect` does, for a name that is neither, and for a layer or class that the view does not
    take; `DamagedError` for a damaged run.
    """
    check_name(name)
    check_told(name, layer=layer, of_class=of_class, words=" ".join(words))
    opening = importlib.import_module("layerwise.inspection.load_target")
    entry = VIEWS[name]
    opened: Target = opening.opened(
        target,
        needs=entry.needs,
        view=name,
        data=data,
        task=task,
        settings=settings,
        images="images" in entry.takes,
    )
    target_ = replace(opened, split=split, examples=examples, layer=layer, of_class=of_class, words=words, lang=lang)
    return inspect(name, target_, out=out, overwrite=overwrite)


def check_told(name: str, *, layer: str, of_class: str, words: str = "") -> None:
    """Raise `UsageError` where a view is told a layer, a class or words that it does not take."""
    for what, given in (("layer", layer), ("class", of_class), ("words", words)):
        if given and what not in VIEWS[name].takes:
            able = ", ".join(view for view, entry in VIEWS.items() if what in entry.takes)
            raise UsageError(
                f"the view '{name}' takes no {what}",
                expected=f"--{what} with one of {able}",
                received=f"--{what} {given}",
            )
