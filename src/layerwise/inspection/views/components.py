"""The view ``components``: the weights of Hebb's and Oja's units against the principal components of the training
data.

``N`` examples, ``D`` inputs, ``K`` units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerwise.data.source import fetch
from layerwise.data.splits import draw_subset
from layerwise.errors import UsageError
from layerwise.inspection.base import Target, View, format_table, make_missing_run_error, save
from layerwise.nn.hebbian import LinearUnits
from layerwise.plotting.images import Floats, draw_image_sheet
from layerwise.tasks.inputs import ImageInputs

MAX_UNITS = 10


def view(target: Target, *, out: Path | None) -> View:
    """Return each unit's |cos| with its principal component, its norm, and the variance that it explains.

    Writes ``components.svg`` for images. Raises `UsageError` without a run, and for a network without Hebbian units.
    """
    if target.task is None or target.recipe is None or target.splits is None:
        raise make_missing_run_error("components", target.spec)
    model, task = target.model, target.task
    if not isinstance(model, LinearUnits):
        raise UsageError(
            f"{target.spec.name} has no Hebbian units",
            expected="a run of hebbian or oja",
            received=f"a run of {target.spec.name}",
        )
    recipe = target.recipe
    source = draw_subset(task.convert_source(target.splits.train), recipe.stages[0].examples, recipe.train.seed)
    x = task.collate(fetch(source, range(len(source)))).input_tensor.flatten(1).double().numpy()  # (N, D)
    weights = model.weight.detach().cpu().double().numpy()
    variances, components = compute_principal_components(x)
    lengths = np.linalg.norm(weights, axis=1)
    units = weights / lengths[:, None]
    cosines = np.sum(units * components[: len(units)], 1)
    explained = np.var(x @ units.T, axis=0) / variances.sum()
    data = {
        "examples": len(x),
        "units": [
            {
                "length": float(n),
                "cosine": float(abs(c)),
                "explained": float(e),
                "component_explained": float(v / variances.sum()),
            }
            for n, c, e, v in zip(lengths, cosines, explained, variances, strict=False)
        ],
    }
    figures = []
    if isinstance(task.inputs, ImageInputs):
        signed = components[: len(units)] * np.where(cosines < 0, -1, 1)[:, None]
        svg = _draw_figure(target, task.inputs, units[:MAX_UNITS], signed[:MAX_UNITS], np.abs(cosines))
        figures = save(out, "components.svg", svg)
    return View("components", data, _format_text(target, data), figures)


def compute_principal_components(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances (D,) of examples (N, D) along their principal components, largest first, and the components
    as rows (D, D)."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    return values[::-1], vectors.T[::-1]


def _draw_figure(target: Target, inputs: ImageInputs, units: Floats, components: Floats, cosines: Floats) -> str:
    """Draw each unit's weight beside its component; mid-gray is 0."""

    def to_images(rows: Floats) -> list[Floats]:
        gray = 0.5 + 0.5 * rows / np.abs(rows).max(1, keepdims=True)
        return list(gray.reshape(len(rows), inputs.channels, *inputs.size))

    labels = [
        target.translate(f"unit {n}: |cos| {c:.5f}", f"单元 {n}：|cos| {c:.5f}")
        for n, c in enumerate(cosines[: len(units)], start=1)
    ]
    captions = [[target.translate("weight", "权重"), target.translate("component", "主成分")]] * len(units)
    rows = [list(pair) for pair in zip(to_images(units), to_images(components), strict=True)]
    return draw_image_sheet(rows, captions=captions, labels=labels)


def _format_text(target: Target, data: dict[str, object]) -> str:
    """Return the table as text."""
    units = data["units"]
    assert isinstance(units, list)
    head = target.translate(
        f"each unit against the principal component of the same rank, of {data['examples']} training examples",
        f"各单元与同序号主成分的比较（{data['examples']} 个训练样本）",
    )
    rows = [
        [str(n), f"{u['cosine']:.5f}", f"{u['length']:.4g}", f"{u['explained']:.2%}", f"{u['component_explained']:.2%}"]
        for n, u in enumerate(units, start=1)
    ]
    pairs = (
        ("unit", "单元"),
        ("|cos|", "|cos|"),
        ("length", "长度"),
        ("variance along it", "沿该方向的方差"),
        ("along the component", "沿主成分的方差"),
    )
    return f"{head}\n\n" + format_table([target.translate(*pair) for pair in pairs], rows, right=frozenset(range(5)))
