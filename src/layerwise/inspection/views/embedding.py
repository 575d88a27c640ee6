"""The view ``embedding``: a 2-D map of what the last layer sees, colored by class.

``N`` examples, ``D`` units of the penultimate layer, ``k`` neighbors. Two maps of the same points: the plane of
largest variance (PCA), which keeps distances as far as two axes can, and t-SNE (L. van der Maaten, G. Hinton, JMLR 9,
2008), which keeps neighbors and not distances. How much each keeps is measured and told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.data.source import Subset
from layerwise.errors import DataError, UsageError
from layerwise.inference.predict import evaluating
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.image_selection import classes_of, evenly, network_of, part_of
from layerwise.inspection.predictions import batches_of
from layerwise.tasks.base import Task
from layerwise.tasks.objectives import class_logits

EXAMPLES, MOST, LEAST = 1000, 2000, 8
NEIGHBORS, PERPLEXITY, SEED = 10, 30.0, 0
EXACT = (
    256  # the smaller side up to which PCA takes the full decomposition, and beyond it the two largest directions alone
)
Floats = NDArray[np.float64]


class Seen(NamedTuple):
    """What the last layer sees (N, D), its name, and each example's label, answer and number in the source, (N,)."""

    inputs: Floats
    layer: str
    labels: NDArray[np.int64]
    said: NDArray[np.int64]
    ids: NDArray[np.int64]


def view(target: Target, *, out: Path | None) -> View:
    """Return both maps of evenly spaced examples of the test part, 1,000 or ``target.examples``. Writes
    ``embedding.svg``.

    Raises `UsageError` for more than 2,000 examples, for tasks without classes and networks without a last layer of
    weights.
    """
    model, task = network_of(target, "embedding")
    names = classes_of(target, task, "embedding")
    source, split = part_of(target, "embedding")
    if target.examples > MOST:
        raise UsageError(
            "the maps take too long for so many examples",
            expected=f"at most {MOST:,}",
            received=f"--examples {target.examples}",
        )
    at = np.array(evenly(len(source), target.examples or EXAMPLES))
    if len(at) < LEAST:
        raise DataError(
            "a map needs more examples", expected=f"at least {LEAST}", received=f"{len(at)} of the {split} part"
        )
    seen = penultimate(model, task, Subset(source, at), target.spec.name)
    plane, share = pca(seen.inputs)
    places = {"pca": plane, "tsne": tsne(seen.inputs, plane)}
    near = {"all": neighbors(seen.inputs), **{name: neighbors(where) for name, where in places.items()}}
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "split": split,
        "examples": len(at),
        "layer": seen.layer,
        "units": seen.inputs.shape[1],
        "neighbors": near["all"].shape[1],
        "share": share,
        "kept": {name: kept(near["all"], near[name]) for name in places},
        "same_class": {
            name: float((seen.labels[found] == seen.labels[:, None]).mean()) for name, found in near.items()
        },
        "points": [
            {
                "name": source.name_of(int(at[n])),
                "true": names[seen.labels[n]],
                "predicted": names[seen.said[n]],
                **{name: where[n].tolist() for name, where in places.items()},
            }
            for n in range(len(at))
        ],
    }
    return View(
        "embedding",
        data,
        _written(target, data),
        save(out, "embedding.svg", figure(target, data, places, seen.labels, names)),
    )


def last_layer(model: nn.Module, inputs: Tensor, spec: str) -> str:
    """Return the name of the last layer of weights by the order of calls. Raises `UsageError` if there is none."""
    order: list[str] = []
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    handles = [m.register_forward_hook(lambda *_, name=name: order.append(name)) for name, m in layers.items()]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise UsageError(
            f"{spec} has no last layer of weights to look behind", expected="a network with a linear layer at its end"
        )
    return order[-1]


def penultimate(model: nn.Module, task: Task, source: Subset, spec: str) -> Seen:
    """Run the model over examples and return what its last layer of weights is given, (N, D)."""
    batches, seen, said = batches_of(model, task, source), list[Tensor](), list[Tensor]()
    ids, labels = list[Tensor](), list[Tensor]()
    with evaluating(model, batches.device):
        layer = last_layer(model, next(batches.epoch(0)).inputs[:1], spec)
        handle = model.get_submodule(layer).register_forward_pre_hook(
            lambda _m, given: seen.append(given[0].flatten(1).double().cpu())
        )
        try:
            for batch in batches.epoch(0):
                assert batch.targets is not None
                said.append(class_logits(model(batch.inputs)).argmax(1).cpu())
                ids.append(batch.ids.cpu())
                labels.append(batch.targets.long().cpu())
        finally:
            handle.remove()
    gathered: list[Any] = [torch.cat(parts).numpy() for parts in (labels, said, ids)]
    return Seen(torch.cat(seen).numpy(), layer, *gathered)


def pca(x: Floats) -> tuple[Floats, list[float]]:
    """Return points (N, D) in the plane of their largest variance, (N, 2), and the share of the variance on each
    axis."""
    from sklearn.decomposition import PCA

    axes = min(2, *x.shape)
    exact = min(x.shape) <= EXACT
    found = PCA(axes, svd_solver="full" if exact else "arpack", random_state=SEED).fit(x)
    places = np.zeros((len(x), 2))
    places[:, :axes] = found.transform(x)
    share = [float(np.nan_to_num(v)) for v in found.explained_variance_ratio_]
    return places, share + [0.0] * (2 - axes)


def tsne(x: Floats, plane: Floats) -> Floats:
    """Return t-SNE of points (N, D), (N, 2), begun at their PCA: the same points give the same map."""
    from sklearn.manifold import TSNE

    start = plane / max(float(plane[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=SEED, n_jobs=1).fit_transform(x)
    return np.asarray(found, dtype=np.float64)


def neighbors(x: Floats) -> NDArray[np.int64]:
    """Return the numbers of each point's nearest other points, (N, k)."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBORS, len(x) - 1)
    return np.asarray(NearestNeighbors(n_neighbors=count).fit(x).kneighbors(return_distance=False), dtype=np.int64)


def kept(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Return the share of neighbors (N, k) that are neighbors in the map too."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(before.tolist(), after.tolist(), strict=True)]))


def figure(
    target: Target, data: Json, places: dict[str, Floats], labels: NDArray[np.int64], names: tuple[str, ...]
) -> str:
    """Draw both maps side by side, with what each keeps in its title."""
    from layerwise.plotting.embedding import Panel, maps

    say, total = target.say, sum(data["share"])
    titles = {
        "pca": say(
            f"PCA: {total:.0%} of the variance, {data['kept']['pca']:.0%} of neighbors",
            f"PCA：保留方差 {total:.0%}，近邻 {data['kept']['pca']:.0%}",
        ),
        "tsne": say(
            f"t-SNE: {data['kept']['tsne']:.0%} of neighbors, no distances",
            f"t-SNE：保留近邻 {data['kept']['tsne']:.0%}，不保留距离",
        ),
    }
    return maps([Panel(titles[name], where) for name, where in places.items()], labels, names)


def _written(target: Target, data: Json) -> str:
    """Return what the maps keep, as a table."""
    say = target.say
    share, k = data["share"], data["neighbors"]
    rows = [
        [
            say(f"all {data['units']} units", f"全部 {data['units']} 个单元"),
            "100.0%",
            "100.0%",
            f"{data['same_class']['all']:.1%}",
        ],
        ["PCA", f"{sum(share):.1%}", f"{data['kept']['pca']:.1%}", f"{data['same_class']['pca']:.1%}"],
        ["t-SNE", "–", f"{data['kept']['tsne']:.1%}", f"{data['same_class']['tsne']:.1%}"],
    ]
    head = [
        say("map", "图"),
        say("variance kept", "保留方差"),
        say("neighbors kept", "保留近邻"),
        say("of the same class", "同类近邻"),
    ]
    state = "" if data["trained"] else say(", untrained", "（未训练）")
    return "\n".join(
        [
            say(
                f"{data['model']}{state}: what {data['layer']} sees of {data['examples']} examples of the "
                f"{data['split']} part",
                f"{data['model']}{state}：{data['split']} 部分 {data['examples']} 个样本在 {data['layer']} 之前的表示",
            ),
            "",
            table(head, rows, right=frozenset({1, 2, 3})),
            "",
            say(
                f"variance: {share[0]:.1%} and {share[1]:.1%} on the two axes. neighbors: the {k} nearest "
                "of each example.\n"
                "t-SNE keeps neighbors, not distances: gaps and sizes of its groups mean nothing.",
                f"方差：两轴各占 {share[0]:.1%} 与 {share[1]:.1%}。近邻：每个样本最近的 {k} 个。\n"
                "t-SNE 保留的是近邻而不是距离：各群之间的间隔与大小没有意义。",
            ),
        ]
    )
