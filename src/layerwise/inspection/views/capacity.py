"""The view ``capacity``: how many random patterns a Hopfield net holds, by Hebb's rule and by projection.

Compares measurements on nets of moderate size with the theory for large nets (Amit, Gutfreund & Sompolinsky 1985).
``P`` patterns, ``D`` units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import UsageError
from layerwise.functional.hebb import extend_projection, hopfield_capacity, hopfield_recall, hopfield_weights
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.inspection.views.recall import corrupt_patterns
from layerwise.plotting.charts import render_axes
from layerwise.plotting.svg import INK, MUTED, SERIES
from layerwise.runtime import rng

UNITS = 300  # without a run
MAX_UNITS = 300  # a larger run is measured with this many
FLIPPED = 0.1
LOADS = (0.02, 0.05, 0.08, 0.10, 0.12, 0.138, 0.16, 0.18, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TRIALS = 40  # recalled patterns at each load, over as many nets as needed
RULES = ("hebb", "projection")


def view(target: Target, *, out: Path | None) -> View:
    """Return overlap and share of exact recalls by load P/D for both rules, and the critical load in theory.

    Writes ``capacity.svg``. Raises `UsageError` for a model other than hopfield.
    """
    if target.spec.name != "hopfield":
        raise UsageError(
            "capacity is that of a net that stores patterns",
            expected="hopfield or a run of it",
            received=target.spec.name,
        )
    units = min(int(target.arguments.get("features", UNITS)), MAX_UNITS)
    theory = hopfield_capacity()
    rows = [measure_recall(rule, units, load, trials=target.examples or TRIALS) for load in LOADS for rule in RULES]
    data = {"units": units, "flipped": round(FLIPPED * units), "critical": theory.critical, "measured": rows}
    return View("capacity", data, _format_text(target, data), save(out, "capacity.svg", draw_figure(target, data)))


def store_patterns(patterns: Tensor, rule: str) -> Tensor:
    """Return the weights (D, D) of a net that stores patterns (P, D)."""
    units = patterns.shape[1]
    if rule == "hebb":
        return hopfield_weights(patterns) / units
    projection = torch.zeros(units, units, dtype=patterns.dtype)
    for pattern in patterns:
        projection = extend_projection(projection, pattern)
    return projection.fill_diagonal_(0)


def measure_recall(rule: str, units: int, load: float, *, trials: int) -> Json:
    """Return the mean overlap (1/D)Σ sᵢxᵢ with the stored pattern, and the share of exact recalls at a load P/D."""
    count = max(1, round(load * units))
    overlaps: list[Tensor] = []
    for index in range(-(-trials // count)):
        generator = rng.make_generator("capacity", rule, count, index)
        patterns = torch.where(torch.rand(count, units, generator=generator, dtype=torch.float64) < 0.5, -1.0, 1.0)
        stored = patterns[: trials - index * count]
        ends = hopfield_recall(corrupt_patterns(stored, FLIPPED, generator), store_patterns(patterns, rule))
        overlaps.append((ends * stored).mean(1))
    overlap = torch.cat(overlaps)
    exact = float((overlap == 1).double().mean())
    return {"rule": rule, "patterns": count, "load": count / units, "overlap": float(overlap.mean()), "exact": exact}


def draw_figure(target: Target, data: Json) -> str:
    """Draw overlap against load: the measurements of both rules, the theory, and the critical load."""
    theory = hopfield_capacity()
    names = {"hebb": ("Hebb's rule", "赫布规则"), "projection": ("projection rule", "投影（伪逆）规则")}

    def draw(axes: Any) -> None:
        for index, rule in enumerate(RULES):
            points = [(r["load"], r["overlap"]) for r in data["measured"] if r["rule"] == rule]
            axes.plot(
                *zip(*points, strict=True),
                "os"[index] + "-",
                color=SERIES[index],
                markersize=6,
                label=target.translate(*names[rule]),
            )
        axes.plot(
            theory.loads,
            theory.overlaps,
            color=INK,
            linewidth=1.6,
            linestyle=(0, (4, 2)),
            label=target.translate("theory for Hebb's rule, D → ∞", "赫布规则的理论值（D → ∞）"),
        )
        axes.axvline(theory.critical, color=MUTED, linewidth=1.2, linestyle=(0, (2, 3)))
        axes.text(theory.critical + 0.01, 0.06, "0.138", color=MUTED, fontsize=13)
        axes.set(ylim=(0, 1.05), xlim=(0, max(LOADS) + 0.02))
        axes.set_xlabel(target.translate("stored patterns / units, P/D", "存入模式数 / 单元数，P/D"))
        axes.set_ylabel(target.translate("overlap with the pattern", "与所存模式的重叠度"))
        axes.set_title(
            target.translate(
                f"random patterns, {data['units']} units, 10 % flipped", f"随机模式，{data['units']} 个单元，翻转 10 %"
            ),
            loc="left",
        )
        axes.legend(loc="lower left", bbox_to_anchor=(0.36, 0.0))

    return render_axes(draw, size=(7.2, 4.2))


def _format_text(target: Target, data: Json) -> str:
    """Return the table as text."""
    head = target.translate(
        f"random patterns in nets of {data['units']} units, recalled from {data['flipped']} flipped units. "
        "In theory Hebb's rule "
        f"holds up to {data['critical']:.3f} patterns a unit",
        f"在 {data['units']} 个单元的网络中存入随机模式，翻转 {data['flipped']} 个单元后回忆。"
        f"理论上赫布规则每单元至多 {data['critical']:.3f} 个模式",
    )
    measurements = data["measured"]  # two rows for each load, one for each rule
    rows = []
    for pair in zip(measurements[::2], measurements[1::2], strict=True):
        results = (f"{row[key]:.2f}" for row in pair for key in ("overlap", "exact"))
        rows.append([f"{pair[0]['load']:.3f}", str(pair[0]["patterns"]), *results])
    pairs = (
        ("load", "负载"),
        ("patterns", "模式数"),
        ("Hebb: overlap", "赫布：重叠"),
        ("exact", "完全正确"),
        ("projection: overlap", "投影：重叠"),
        ("exact", "完全正确"),
    )
    return f"{head}\n\n" + format_table([target.translate(*pair) for pair in pairs], rows, right=frozenset(range(6)))
