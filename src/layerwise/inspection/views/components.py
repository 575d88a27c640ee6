"""The view ``components``: the weights of Hebb's and Oja's units beside the principal components of what they learned
from (S02).

``N`` examples, ``D`` inputs, ``K`` units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerwise.data.source import fetch
from layerwise.data.splits import take
from layerwise.errors import UsageError
from layerwise.inspection.base import Target, View, needs_run, save, table
from layerwise.nn.hebbian import LinearUnits
from layerwise.plotting.images import Floats, sheet
from layerwise.tasks.inputs import ImageInputs

SHOWN = 10


def view(target: Target, *, out: Path | None) -> View:
    """Return each unit's |cos| with its principal component, its length, and the variance it explains. Writes
    ``components.svg``.

    Raises `UsageError` for a bare model and for a network without such units.
    """
    if target.task is None or target.recipe is None or target.splits is None:
        raise needs_run("components", target.spec)
    model, task = target.model, target.task
    if not isinstance(model, LinearUnits):
        raise UsageError(
            f"{target.spec.name} has no Hebbian units",
            expected="a run of hebbian or oja",
            received=f"a run of {target.spec.name}",
        )
    source = take(task.adopt(target.splits.train), target.recipe.stages[0].examples, target.recipe.train.seed)
    x = task.collate(fetch(source, range(len(source)))).inputs.flatten(1).double().numpy()  # (N, D)
    weights = model.weight.detach().cpu().double().numpy()
    variances, components = principal(x)
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
        figures = save(
            out, "components.svg", _figure(target, task.inputs, units[:SHOWN], signed[:SHOWN], np.abs(cosines))
        )
    return View("components", data, _written(target, data), figures)


def principal(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances (D,) along the principal components of examples (N, D), largest first, and the components as
    rows."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    return values[::-1], vectors.T[::-1]


def _figure(target: Target, inputs: ImageInputs, units: Floats, components: Floats, cosines: Floats) -> str:
    """Draw each unit's weight beside its component, 0 at mid-gray."""

    def shown(rows: Floats) -> list[Floats]:
        gray = 0.5 + 0.5 * rows / np.abs(rows).max(1, keepdims=True)
        return list(gray.reshape(len(rows), inputs.channels, *inputs.size))

    labels = [
        target.say(f"unit {n}: |cos| {c:.5f}", f"单元 {n}：|cos| {c:.5f}")
        for n, c in enumerate(cosines[: len(units)], start=1)
    ]
    captions = [[target.say("weight", "权重"), target.say("component", "主成分")]] * len(units)
    return sheet(
        [list(pair) for pair in zip(shown(units), shown(components), strict=True)], captions=captions, labels=labels
    )


def _written(target: Target, data: dict[str, object]) -> str:
    """Return the table for people."""
    units = data["units"]
    assert isinstance(units, list)
    head = target.say(
        f"each unit beside the principal component of its number, of {data['examples']} training examples",
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
    return f"{head}\n\n" + table([target.say(*pair) for pair in pairs], rows, right=frozenset(range(5)))
