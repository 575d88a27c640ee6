"""Views of networks and runs, one module each under ``views``. Importing this package does not import torch."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.inspection.base import Lang, Target, View
from layerwise.runtime.folder_io import stage_files


class ViewSpec(NamedTuple):
    """What the registry knows of a view.

    Attributes:
        module: the module of ``layerwise.inspection.views`` that holds it.
        summary, summary_zh: one line about it, in English and Chinese.
        needs: ``run`` for trained weights; ``data`` for a part of the data; ``data?`` for the same or a model by
            itself; ``plan`` for a training plan; "" for a model by itself.
        options: what the user can name: ``images`` of their own beside a run, a ``layer``, a ``class``, ``words``.
    """

    module: str
    summary: str
    summary_zh: str
    needs: str
    options: tuple[str, ...] = ()


VIEWS: dict[str, ViewSpec] = {
    "summary": ViewSpec(
        "summary", "layers: type, output shape, parameters, multiply-adds", "各层的类型、输出形状、参数量与计算量", ""
    ),
    "gradients": ViewSpec(
        "gradients", "backpropagation in four steps: z, a, δ, ∂W, ∂b", "反向传播四步：z、a、δ、∂W、∂b", "data"
    ),
    "activations": ViewSpec(
        "activations", "unit activations; saturated and dead units", "各层单元的输出，哪些饱和、哪些死亡", "data?"
    ),
    "weights": ViewSpec("weights", "weights as statistics, histograms and images", "各层权重的统计、直方图与图像", ""),
    "learning-rate": ViewSpec(
        "learning_rate", "learning-rate range test: the loss as the rate rises", "范围测试：学习率升高时的损失", "plan"
    ),
    "one-batch": ViewSpec(
        "one_batch", "whether a new network can overfit one batch", "新网络能否过拟合一个批次", "plan"
    ),
    "function": ViewSpec(
        "decision_surface",
        "fitted function or decision boundary over one or two inputs",
        "一两个数值上的拟合函数或决策边界图",
        "data",
    ),
    "mistakes": ViewSpec(
        "mistakes", "the worst mistakes on a part of the data", "某个子集上损失最大的错误样本", "data"
    ),
    "columns": ViewSpec("columns", "permutation importance of a table's columns", "表格中每一列的重要程度", "data"),
    "receptive-field": ViewSpec(
        "receptive_field",
        "theoretical and effective receptive field of each layer",
        "各层单元的理论感受野与有效感受野",
        "data?",
        ("images",),
    ),
    "filters": ViewSpec("filters", "the first layer's kernels as images", "首层卷积核画成的图像", ""),
    "features": ViewSpec(
        "features",
        "feature maps of an image, layer by layer",
        "各层从一张图像得到的特征图",
        "data",
        ("images", "layer"),
    ),
    "grad-cam": ViewSpec(
        "grad_cam",
        "image regions that support a class (Grad-CAM)",
        "图像中支持某个类别的区域",
        "data",
        ("images", "layer", "class"),
    ),
    "embedding": ViewSpec(
        "embedding", "2-D map of the last layer's inputs, by class", "倒数第二层的二维分布图，按类别着色", "data"
    ),
    "confusions": ViewSpec(
        "confusions", "most frequently confused classes, with images", "最常混淆的类别对及其图像", "data"
    ),
    "neighbors": ViewSpec("word_neighbors", "nearest neighbors of words", "若干词的近邻", "run", ("words",)),
    "map": ViewSpec("word_map", "2-D map of words", "把词画成二维分布图", "run", ("words",)),
    "norms": ViewSpec("word_norms", "norms of word vectors by word frequency", "词向量长度与词频", "run"),
    "samples": ViewSpec("samples", "samples and filters of a Boltzmann machine", "玻尔兹曼机的采样与滤波器", "run"),
    "augmentations": ViewSpec(
        "augmentations", "training images before and after augmentation", "训练图像及其数据增强后的样子", "data"
    ),
    "recall": ViewSpec(
        "recall",
        "images stored in a Hopfield net and their recall",
        "霍普菲尔德网络存储与回忆的图像",
        "data",
    ),
    "capacity": ViewSpec(
        "capacity", "capacity of a Hopfield net, measured and in theory", "霍普菲尔德网络的容量与理论值", ""
    ),
    "components": ViewSpec(
        "components", "weights of Hebb's rule against principal components", "赫布权重与主成分的对照", "data"
    ),
    "tuning": ViewSpec(
        "tuning", "responses of orientation-selective cells by angle and phase", "方向选择性细胞按角度与相位的响应", ""
    ),
    "filtered": ViewSpec(
        "filtered", "photographs filtered by orientation-selective cells", "方向选择性细胞对照片的响应", ""
    ),
    "truth-table": ViewSpec(
        "truth_table", "truth table of a McCulloch–Pitts neuron", "麦卡洛克-皮茨神经元的真值表", ""
    ),
}


def check_view_name(name: str) -> None:
    """Raise `UsageError` if there is no view of this name, with the nearest name. Does not import torch."""
    if name not in VIEWS:
        raise make_unknown_name_error("view", name, VIEWS)


def render_view(name: str, target: Target, *, out: Path | None = None, overwrite: bool = True) -> View:
    """Compute a view of a loaded target.

    Args:
        name: one of `VIEWS`.
        target: the run or model to inspect.
        out: the folder for figures and arrays, created if it is missing; None writes no files. If the view fails,
            no file is written.
        overwrite: whether to replace existing files.

    Raises:
        UsageError: for an unknown view, for a model where the view needs a run, and for a model that the view does
            not support.
    """
    check_view_name(name)
    module = importlib.import_module(f"layerwise.inspection.views.{VIEWS[name].module}")
    if out is None:
        view: View = module.view(target, out=None)
        return view
    with stage_files(out, overwrite=overwrite) as folder:
        view = module.view(target, out=folder)
    return replace(view, figures=[out / path.name for path in view.figures])


def inspect_target(
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
    class_name: str = "",
    words: tuple[str, ...] = (),
    lang: Lang = "en",
) -> View:
    """Load a run directory, a model by name or a recipe file, and compute a view of it.

    Args:
        name: one of `VIEWS`.
        target: a run directory, a model's name or a recipe file.
        data, task, settings: as in training, for an untrained network; ``settings`` are KEY=VALUE. For a run, ``data``
            is an image or a folder of images.
        out, overwrite: as in `render_view`.
        split, examples, layer, class_name, words, lang: as in `layerwise.inspection.base.Target`.

    Raises:
        UsageError: as in `render_view`; for a target that does not exist; for an option that the view does not take.
        DamagedError: for a damaged run.
    """
    check_view_name(name)
    check_view_options(name, layer=layer, class_name=class_name, words=" ".join(words))
    loader = importlib.import_module("layerwise.inspection.load_target")
    spec = VIEWS[name]
    loaded: Target = loader.load_target(
        target,
        needs=spec.needs,
        view=name,
        data=data,
        task=task,
        settings=settings,
        images="images" in spec.options,
    )
    loaded = replace(loaded, split=split, examples=examples, layer=layer, class_name=class_name, words=words, lang=lang)
    return render_view(name, loaded, out=out, overwrite=overwrite)


def check_view_options(name: str, *, layer: str, class_name: str, words: str = "") -> None:
    """Raise `UsageError` for a layer, a class or words if the view does not take them."""
    for option, value in (("layer", layer), ("class", class_name), ("words", words)):
        if value and option not in VIEWS[name].options:
            supported = ", ".join(view for view, spec in VIEWS.items() if option in spec.options)
            raise UsageError(
                f"the view '{name}' takes no {option}",
                expected=f"--{option} with one of {supported}",
                received=f"--{option} {value}",
            )
