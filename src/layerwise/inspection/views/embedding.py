"""The view ``embedding``: two 2-D maps of the inputs of the last layer, colored by class.

``N`` examples, ``D`` units of the penultimate layer, ``k`` neighbors. PCA shows the plane of largest variance and keeps
distances as far as two axes can. t-SNE (L. van der Maaten, G. Hinton, JMLR 9, 2008) keeps neighbors, not distances. The
view measures how much each map keeps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.data.source import Subset
from layerwise.data.values import Value, call
from layerwise.errors import DataError, UsageError
from layerwise.inference.predict import inference_context
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.inspection.image_selection import pick_indices_evenly, require_classes, require_network, select_split
from layerwise.inspection.predictions import make_batches
from layerwise.nn.tracing import ModuleCall, trace_modules
from layerwise.tasks.base import Task
from layerwise.tasks.objectives import to_class_logits

EXAMPLES, MAX_EXAMPLES, MIN_EXAMPLES = 1000, 2000, 8
NEIGHBORS, PERPLEXITY, SEED = 10, 30.0, 0
EXACT_SIDE = 256  # PCA computes the full decomposition up to this smaller side, beyond it only two directions
Floats = NDArray[np.float64]


class LastLayerInputs(NamedTuple):
    """The inputs (N, D) of the last layer, its name, and each example's label, prediction and id, (N,)."""

    inputs: Floats
    layer: str
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    ids: NDArray[np.int64]


def view(target: Target, *, out: Path | None) -> View:
    """Return both maps of 1,000 or ``target.examples`` evenly spaced examples of the test part.

    Writes ``embedding.svg``. Raises `UsageError` for more than 2,000 examples, for tasks without classes, and for
    networks without a last layer of weights.
    """
    model, task = require_network(target, "embedding")
    names = require_classes(target, task, "embedding")
    source, split = select_split(target, "embedding")
    if target.examples > MAX_EXAMPLES:
        raise UsageError(
            "the maps take too long for so many examples",
            expected=f"at most {MAX_EXAMPLES:,}",
            received=f"--examples {target.examples}",
        )
    indices = np.array(pick_indices_evenly(len(source), target.examples or EXAMPLES))
    if len(indices) < MIN_EXAMPLES:
        raise DataError(
            "a map needs more examples",
            expected=f"at least {MIN_EXAMPLES}",
            received=f"{len(indices)} of the {split} part",
        )
    last_inputs = collect_last_layer_inputs(model, task, Subset(source, indices), target.spec.name)
    pca_map, share = pca(last_inputs.inputs)
    maps = {"pca": pca_map, "tsne": tsne(last_inputs.inputs, pca_map)}
    neighbors = {"all": find_neighbors(last_inputs.inputs)}
    neighbors |= {name: find_neighbors(positions) for name, positions in maps.items()}
    labels = last_inputs.labels
    points = []
    for n, index in enumerate(indices):
        point = {"true": names[labels[n]], "predicted": names[last_inputs.predicted[n]]}
        positions = {name: positions[n].tolist() for name, positions in maps.items()}
        points.append({"name": source.name_of(int(index)), **point, **positions})
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "split": split,
        "examples": len(indices),
        "layer": last_inputs.layer,
        "units": last_inputs.inputs.shape[1],
        "neighbors": neighbors["all"].shape[1],
        "share": share,
        "kept": {name: compute_neighbor_overlap(neighbors["all"], neighbors[name]) for name in maps},
        "same_class": {name: float((labels[nearest] == labels[:, None]).mean()) for name, nearest in neighbors.items()},
        "points": points,
    }
    figures = save(out, "embedding.svg", draw_figure(target, data, maps, labels, names))
    return View("embedding", data, _format_text(target, data), figures)


def find_last_layer(model: nn.Module, inputs: Value, spec: str) -> str:
    """Return the name of the linear layer or convolution called last. Raises `UsageError` if there is none."""
    order: list[str] = []

    def has_weights(module: nn.Module) -> bool:
        return isinstance(module, nn.Linear | nn.Conv2d)

    with trace_modules(model, lambda traced: order.append(traced.name), select=has_weights):
        call(model, inputs)
    if not order:
        raise UsageError(
            f"{spec} has no last layer of weights to look behind", expected="a network with a linear layer at its end"
        )
    return order[-1]


def collect_last_layer_inputs(model: nn.Module, task: Task, source: Subset, spec: str) -> LastLayerInputs:
    """Run the model over examples and collect the inputs (N, D) of its last layer of weights."""
    batches = make_batches(model, task, source)
    inputs, labels, predicted, ids = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    with inference_context(model, batches.device):
        layer = find_last_layer(model, next(batches.iterate(0)).span(slice(1)).inputs, spec)
        last = model.get_submodule(layer)

        def collect_input(traced: ModuleCall) -> None:
            inputs.append(traced.inputs[0].flatten(1).double().cpu())

        with trace_modules(model, collect_input, select=lambda module: module is last):
            for batch in batches.iterate(0):
                assert batch.targets is not None
                predicted.append(to_class_logits(call(model, batch.inputs)).argmax(1).cpu())
                ids.append(batch.ids.cpu())
                labels.append(batch.target_tensor.long().cpu())
    gathered: list[Any] = [torch.cat(parts).numpy() for parts in (labels, predicted, ids)]
    return LastLayerInputs(torch.cat(inputs).numpy(), layer, *gathered)


def pca(x: Floats) -> tuple[Floats, list[float]]:
    """Return the projection (N, 2) of points (N, D) on their first two principal components, and the share of the
    variance on each."""
    from sklearn.decomposition import PCA

    axes = min(2, *x.shape)
    exact = min(x.shape) <= EXACT_SIDE
    fit = PCA(axes, svd_solver="full" if exact else "arpack", random_state=SEED).fit(x)
    positions = np.zeros((len(x), 2))
    positions[:, :axes] = fit.transform(x)
    share = [float(np.nan_to_num(v)) for v in fit.explained_variance_ratio_]
    return positions, share + [0.0] * (2 - axes)


def tsne(x: Floats, pca_map: Floats) -> Floats:
    """Return the t-SNE (N, 2) of points (N, D), deterministic: it starts at their PCA with a fixed seed."""
    from sklearn.manifold import TSNE

    start = pca_map / max(float(pca_map[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=SEED, n_jobs=1)
    return np.asarray(model.fit_transform(x), dtype=np.float64)


def find_neighbors(x: Floats) -> NDArray[np.int64]:
    """Return the indices (N, k) of each point's nearest other points."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBORS, len(x) - 1)
    return np.asarray(NearestNeighbors(n_neighbors=count).fit(x).kneighbors(return_distance=False), dtype=np.int64)


def compute_neighbor_overlap(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Return the share of neighbors (N, k) that are also neighbors on the map."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(before.tolist(), after.tolist(), strict=True)]))


def draw_figure(
    target: Target, data: Json, maps: dict[str, Floats], labels: NDArray[np.int64], names: tuple[str, ...]
) -> str:
    """Draw both maps side by side; the titles say how much each map keeps."""
    from layerwise.plotting.embedding import Panel, plot_maps

    translate, total = target.translate, sum(data["share"])
    titles = {
        "pca": translate(
            f"PCA: {total:.0%} of the variance, {data['kept']['pca']:.0%} of neighbors",
            f"PCA：保留方差 {total:.0%}，近邻 {data['kept']['pca']:.0%}",
        ),
        "tsne": translate(
            f"t-SNE: {data['kept']['tsne']:.0%} of neighbors, no distances",
            f"t-SNE：保留近邻 {data['kept']['tsne']:.0%}，不保留距离",
        ),
    }
    return plot_maps([Panel(titles[name], positions) for name, positions in maps.items()], labels, names)


def _format_text(target: Target, data: Json) -> str:
    """Return how much each map keeps, as a table."""
    translate = target.translate
    share, k = data["share"], data["neighbors"]
    rows = [
        [
            translate(f"all {data['units']} units", f"全部 {data['units']} 个单元"),
            "100.0%",
            "100.0%",
            f"{data['same_class']['all']:.1%}",
        ],
        ["PCA", f"{sum(share):.1%}", f"{data['kept']['pca']:.1%}", f"{data['same_class']['pca']:.1%}"],
        ["t-SNE", "–", f"{data['kept']['tsne']:.1%}", f"{data['same_class']['tsne']:.1%}"],
    ]
    head = [
        translate("map", "图"),
        translate("variance kept", "保留方差"),
        translate("neighbors kept", "保留近邻"),
        translate("of the same class", "同类近邻"),
    ]
    state = "" if data["trained"] else translate(", untrained", "（未训练）")
    return "\n".join(
        [
            translate(
                f"{data['model']}{state}: inputs of {data['layer']} for {data['examples']} examples of the "
                f"{data['split']} part",
                f"{data['model']}{state}：{data['split']} 部分 {data['examples']} 个样本在 {data['layer']} 之前的表示",
            ),
            "",
            format_table(head, rows, right=frozenset({1, 2, 3})),
            "",
            translate(
                f"variance: {share[0]:.1%} and {share[1]:.1%} on the two axes. neighbors: the {k} nearest "
                "of each example.\n"
                "t-SNE keeps neighbors, not distances: gaps and sizes of its groups mean nothing.",
                f"方差：两轴各占 {share[0]:.1%} 与 {share[1]:.1%}。近邻：每个样本最近的 {k} 个。\n"
                "t-SNE 保留的是近邻而不是距离：各群之间的间隔与大小没有意义。",
            ),
        ]
    )
