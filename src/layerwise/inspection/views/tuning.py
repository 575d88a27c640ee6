"""The view ``tuning``: what orientation-selective cells answer to drifting gratings, by angle and by phase (S03).

``K`` orientations of cells, ``A`` angles and ``P`` phases of gratings, ``S`` a filter's side. Each grating is an image
as large as one field, so one cell of each kind sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.functional.orientation import Gabor, grating, grating_response, modulation, turn_between
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.models.orientation import OrientationCells, orientation_cells, orientations_of
from layerwise.plotting.charts import drawn
from layerwise.plotting.svg import INK, SERIES

ANGLES, PHASES = 180, 36
HEADER = (
    ("cells prefer", "细胞偏好"),
    ("simple peak", "简单细胞峰值"),
    ("complex peak", "复杂细胞峰值"),
    ("half width", "半宽"),
    ("simple modulation", "简单细胞调制"),
    ("complex modulation", "复杂细胞调制"),
)


@dataclass(frozen=True)
class Answers:
    """What the cells answered: ``simple`` those of phase 0 and ``complex``, each (K, A, P), at ``angles`` (A,) and
    ``phases`` (P,) in °."""

    simple: Tensor
    complex: Tensor
    angles: Tensor
    phases: Tensor

    def peaks(self, kind: Tensor) -> Tensor:
        """Return the angle (K,) of the grating that excites each cell most, at its best moment."""
        return self.angles[kind.amax(2).argmax(1)]

    def at_peak(self, kind: Tensor) -> Tensor:
        """Return each cell's answers (K, P) over the phases of the grating at its peak."""
        best = kind.amax(2).argmax(1)
        return kind[torch.arange(len(kind)), best]

    def half_widths(self, kind: Tensor) -> Tensor:
        """Return half the range of angles (K,) in which each cell answers half as much as at its peak or more."""
        curves = kind.amax(2)
        return (curves >= curves.amax(1, keepdim=True) / 2).sum(1) * (180 / len(self.angles)) / 2


@torch.no_grad()
def answers(model: OrientationCells, wavelength: float, *, angles: int = ANGLES, phases: int = PHASES) -> Answers:
    """Show a model gratings of one wavelength, of angles evenly over 180° and phases evenly over 360°."""
    channels, side = model.simple.filters.shape[1], model.simple.filters.shape[-1]
    at = torch.arange(side, dtype=torch.float64) - side // 2
    x, y = at[None, :], -at[:, None]
    seen, moments = torch.arange(angles) * (180 / angles), torch.arange(phases) * (360 / phases)
    simple, complex_ = [], []
    for angle in seen.tolist():
        stripes = [grating(x, y, orientation=angle, wavelength=wavelength, phase=moment) for moment in moments.tolist()]
        cells = model.simple(torch.stack(stripes).float()[:, None].expand(-1, channels, -1, -1))  # (P, 4K, 1, 1)
        simple.append(cells[:, : cells.shape[1] // 4, 0, 0])
        complex_.append(model.complex(cells)[:, :, 0, 0])
    return Answers(torch.stack(simple).permute(2, 0, 1), torch.stack(complex_).permute(2, 0, 1), seen, moments)


def view(target: Target, *, out: Path | None) -> View:
    """Return each cell's peak, width and modulation, and its curves. Writes ``tuning.svg``.

    Raises `UsageError` for another network.
    """
    model, arguments = cells_of(target, "tuning")
    found = answers(model, arguments["wavelength"])
    prefers = torch.tensor(orientations_of(arguments["orientations"]))
    rows = [
        {
            "prefers": float(prefers[k]),
            "simple_peak": float(found.peaks(found.simple)[k]),
            "complex_peak": float(found.peaks(found.complex)[k]),
            "half_width": float(found.half_widths(found.complex)[k]),
            "simple_modulation": float(modulation(found.at_peak(found.simple))[k]),
            "complex_modulation": float(modulation(found.at_peak(found.complex))[k]),
        }
        for k in range(len(prefers))
    ]
    data = {
        "arguments": arguments,
        "cells": rows,
        "angles": found.angles.tolist(),
        "phases": found.phases.tolist(),
        "simple": found.simple.amax(2).tolist(),
        "complex": found.complex.amax(2).tolist(),
        "off": float(turn_between(torch.tensor([r["complex_peak"] for r in rows]), prefers).max()),
    }
    return View("tuning", data, _written(target, data), save(out, "tuning.svg", figure(target, arguments, found)))


def cells_of(target: Target, name: str) -> tuple[OrientationCells, Json]:
    """Return the model's model and all its arguments. Raises `UsageError` for another model, naming the view."""
    if target.spec.name != "orientation-cells":
        raise UsageError(
            f"the view '{name}' looks at orientation-selective cells",
            expected="the model orientation-cells",
            received=target.spec.name,
            do=f"layerwise inspect orientation-cells --what {name}",
        )
    model = target.model if target.model is not None else registry.builder(target.spec)(**target.arguments)
    assert isinstance(model, OrientationCells)
    return model, {**(orientation_cells.__kwdefaults__ or {}), **target.arguments}


def _written(target: Target, data: Json) -> str:
    """Return the table for people."""
    say = target.say
    rows = [
        [
            f"{r['prefers']:g}°",
            f"{r['simple_peak']:g}°",
            f"{r['complex_peak']:g}°",
            f"{r['half_width']:g}°",
            f"{r['simple_modulation']:.1%}",
            f"{r['complex_modulation']:.2%}",
        ]
        for r in data["cells"]
    ]
    wavelength = data["arguments"]["wavelength"]
    return "\n".join(
        [
            say(
                f"orientation-cells: answers to drifting gratings, {wavelength:g} pixels from stripe to stripe",
                f"orientation-cells：对漂移光栅的响应，条纹间距 {wavelength:g} 像素",
            ),
            "",
            table([say(*pair) for pair in HEADER], rows, right=frozenset(range(6))),
            "",
            say(
                "peak: angle of the grating answered most. half width: angles from there to half the answer "
                "(complex cells).\n"
                "modulation: (max − min)/(max + min) while the grating at the peak drifts by; simple cells "
                "are those of phase 0°.",
                "峰值：响应最强的光栅角度。半宽：从峰值到响应减半的角度（复杂细胞）。\n"
                "调制：峰值角度的光栅漂移一周期时的 (最大 − 最小)/(最大 + 最小)；简单细胞取相位 0° 者。",
            ),
        ]
    )


def figure(target: Target, arguments: Json, found: Answers) -> str:
    """Draw one simple and one complex cell's answers by angle, with the closed form, and by phase."""
    shown = len(found.simple) * 3 // 8  # not at 0°, so that the peak lies inside
    prefers = orientations_of(arguments["orientations"])[shown]
    fields = {key: arguments[key] for key in ("wavelength", "aspect", "bandwidth")}
    even, odd = (Gabor(orientation=prefers, phase=phase, **fields) for phase in (0, 90))
    simple, complex_ = SERIES[1], SERIES[0]

    def closed(angle: float, phase: float) -> tuple[float, float]:
        each = [
            grating_response(c, orientation=angle, wavelength=arguments["wavelength"], phase=phase) for c in (even, odd)
        ]
        return max(0.0, each[0]), each[0] ** 2 + each[1] ** 2

    def by_angle(axes: Any) -> None:
        sparse = range(0, ANGLES, 6)
        axes.plot(found.angles, found.simple[shown].amax(1), color=simple)
        axes.plot(found.angles, found.complex[shown].amax(1), color=complex_)
        exact = [closed(float(found.angles[i]), 0) for i in sparse]
        for part, color in enumerate((simple, complex_)):
            axes.plot(
                found.angles[list(sparse)],
                [e[part] for e in exact],
                "o",
                color=color,
                markersize=4,
                markerfacecolor="none",
            )
        axes.axvline(prefers, color=INK, linewidth=1, linestyle=(0, (2, 3)))
        axes.set(xlim=(0, 180), ylim=(0, 1.12), xticks=range(0, 181, 45))
        axes.set_xlabel(target.say("angle of the grating, degrees", "光栅角度（度）"), color=INK)
        axes.set_title(target.say("both prefer an orientation", "两者都偏好某一方向"), loc="left")

    def by_phase(axes: Any) -> None:
        phases = [*found.phases.tolist(), 360.0]
        for kind, color, name in (
            (found.simple, simple, target.say("simple cell", "简单细胞")),
            (found.complex, complex_, target.say("complex cell", "复杂细胞")),
        ):
            curve = found.at_peak(kind)[shown].tolist()
            axes.plot(phases, [*curve, curve[0]], color=color, label=name)
        at = phases[::3]
        for part, color in enumerate((simple, complex_)):
            axes.plot(
                at, [closed(prefers, p)[part] for p in at], "o", color=color, markersize=4, markerfacecolor="none"
            )
        axes.plot(
            [], [], "o", color=INK, markersize=4, markerfacecolor="none", label=target.say("closed form", "闭式解")
        )
        axes.set(xlim=(0, 360), ylim=(0, 1.12), xticks=range(0, 361, 90))
        axes.set_xlabel(target.say("phase of the grating, degrees", "光栅相位（度）"), color=INK)
        axes.set_title(target.say("the complex cell forgets the phase", "复杂细胞忽略相位"), loc="left")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.72))

    def draw(axes: Any) -> None:
        whole = axes.get_figure()
        axes.remove()
        left, right = whole.subplots(1, 2, sharey=True)
        left.set_ylabel(target.say("answer", "响应"), color=INK)
        by_angle(left)
        by_phase(right)

    return drawn(draw, size=(9.0, 3.8))
