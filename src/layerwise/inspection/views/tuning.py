"""The view ``tuning``: responses of orientation-selective cells to drifting gratings, by angle and by phase.

``K`` orientations of cells, ``A`` angles and ``P`` phases of gratings, ``S`` the side of a filter. Each grating is an
image of a filter's size, so each filter has one response.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.functional.gabor import Gabor, angle_between, grating, grating_response, modulation
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.models.orientation import OrientationCells, divide_orientations, orientation_cells
from layerwise.plotting.charts import render_axes
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
class CellResponses:
    """Responses of the ``simple`` cells of phase 0 and of the ``complex`` cells, each (K, A, P), for gratings at
    ``angles`` (A,) and ``phases`` (P,) in degrees."""

    simple: Tensor
    complex: Tensor
    angles: Tensor
    phases: Tensor

    def find_peaks(self, responses: Tensor) -> Tensor:
        """Return the angle (K,) of each cell's largest response over all phases."""
        return self.angles[responses.amax(2).argmax(1)]

    def get_peak_responses(self, responses: Tensor) -> Tensor:
        """Return each cell's responses (K, P) over the phases of the grating at its peak angle."""
        best = responses.amax(2).argmax(1)
        return responses[torch.arange(len(responses)), best]

    def compute_half_widths(self, responses: Tensor) -> Tensor:
        """Return each cell's half width (K,): half the range of angles with at least half the peak response."""
        curves = responses.amax(2)
        return (curves >= curves.amax(1, keepdim=True) / 2).sum(1) * (180 / len(self.angles)) / 2


@torch.no_grad()
def measure_responses(
    model: OrientationCells, wavelength: float, *, angles: int = ANGLES, phases: int = PHASES
) -> CellResponses:
    """Measure responses to gratings of one wavelength, with angles evenly over 180° and phases evenly over 360°."""
    channels, side = model.simple.filters.shape[1], model.simple.filters.shape[-1]
    positions = torch.arange(side, dtype=torch.float64) - side // 2
    x, y = positions[None, :], -positions[:, None]
    grating_angles, grating_phases = torch.arange(angles) * (180 / angles), torch.arange(phases) * (360 / phases)
    simple_responses, complex_responses = list[Tensor](), list[Tensor]()
    for angle in grating_angles.tolist():
        gratings = [
            grating(x, y, orientation=angle, wavelength=wavelength, phase=phase) for phase in grating_phases.tolist()
        ]
        cells = model.simple(torch.stack(gratings).float()[:, None].expand(-1, channels, -1, -1))  # (P, 4K, 1, 1)
        simple_responses.append(cells[:, : cells.shape[1] // 4, 0, 0])
        complex_responses.append(model.complex(cells)[:, :, 0, 0])
    return CellResponses(
        simple=torch.stack(simple_responses).permute(2, 0, 1),
        complex=torch.stack(complex_responses).permute(2, 0, 1),
        angles=grating_angles,
        phases=grating_phases,
    )


def view(target: Target, *, out: Path | None) -> View:
    """Return each cell's peak, half width, modulation and tuning curve. Writes ``tuning.svg``.

    Raises `UsageError` for another model.
    """
    model, arguments = require_cells(target, "tuning")
    responses = measure_responses(model, arguments["wavelength"])
    preferred = torch.tensor(divide_orientations(arguments["orientations"]))
    rows = [
        {
            "prefers": float(preferred[k]),
            "simple_peak": float(responses.find_peaks(responses.simple)[k]),
            "complex_peak": float(responses.find_peaks(responses.complex)[k]),
            "half_width": float(responses.compute_half_widths(responses.complex)[k]),
            "simple_modulation": float(modulation(responses.get_peak_responses(responses.simple))[k]),
            "complex_modulation": float(modulation(responses.get_peak_responses(responses.complex))[k]),
        }
        for k in range(len(preferred))
    ]
    data = {
        "arguments": arguments,
        "cells": rows,
        "angles": responses.angles.tolist(),
        "phases": responses.phases.tolist(),
        "simple": responses.simple.amax(2).tolist(),
        "complex": responses.complex.amax(2).tolist(),
        "off": float(angle_between(torch.tensor([r["complex_peak"] for r in rows]), preferred).max()),
    }
    figures = save(out, "tuning.svg", draw_figure(target, arguments, responses))
    return View("tuning", data, _format_text(target, data), figures)


def require_cells(target: Target, name: str) -> tuple[OrientationCells, Json]:
    """Return the network and its builder's arguments. Raises `UsageError` for a model other than orientation-cells."""
    if target.spec.name != "orientation-cells":
        raise UsageError(
            f"the view '{name}' looks at orientation-selective cells",
            expected="the model orientation-cells",
            received=target.spec.name,
            do=f"layerwise inspect orientation-cells --view {name}",
        )
    model = target.model if target.model is not None else registry.get_builder(target.spec)(**target.arguments)
    assert isinstance(model, OrientationCells)
    return model, {**(orientation_cells.__kwdefaults__ or {}), **target.arguments}


def _format_text(target: Target, data: Json) -> str:
    """Return the table as text."""
    translate = target.translate
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
            translate(
                f"orientation-cells: responses to drifting gratings, {wavelength:g} pixels from stripe to stripe",
                f"orientation-cells：对漂移光栅的响应，条纹间距 {wavelength:g} 像素",
            ),
            "",
            format_table([translate(*pair) for pair in HEADER], rows, right=frozenset(range(6))),
            "",
            translate(
                "peak: angle of the strongest response. half width: angle from there to half the response "
                "(complex cells).\n"
                "modulation: (max − min)/(max + min) while the grating at the peak drifts through a period; "
                "simple cells are those of phase 0°.",
                "峰值：响应最强的光栅角度。半宽：从峰值到响应减半的角度（复杂细胞）。\n"
                "调制：峰值角度的光栅漂移一周期时的 (最大 − 最小)/(最大 + 最小)；简单细胞取相位 0° 者。",
            ),
        ]
    )


def draw_figure(target: Target, arguments: Json, responses: CellResponses) -> str:
    """Draw the responses of one simple and one complex cell by angle and by phase, with the closed form."""
    cell = len(responses.simple) * 3 // 8  # not at 0°, so that the peak lies inside
    preferred = divide_orientations(arguments["orientations"])[cell]
    fields = {key: arguments[key] for key in ("wavelength", "aspect", "bandwidth")}
    even, odd = (Gabor(orientation=preferred, phase=phase, **fields) for phase in (0, 90))
    simple_color, complex_color = SERIES[1], SERIES[0]

    def compute_closed_form(angle: float, phase: float) -> tuple[float, float]:
        each = [
            grating_response(c, orientation=angle, wavelength=arguments["wavelength"], phase=phase) for c in (even, odd)
        ]
        return max(0.0, each[0]), each[0] ** 2 + each[1] ** 2

    def draw_by_angle(axes: Any) -> None:
        sparse = range(0, ANGLES, 6)
        axes.plot(responses.angles, responses.simple[cell].amax(1), color=simple_color)
        axes.plot(responses.angles, responses.complex[cell].amax(1), color=complex_color)
        exact = [compute_closed_form(float(responses.angles[i]), 0) for i in sparse]
        for part, color in enumerate((simple_color, complex_color)):
            axes.plot(
                responses.angles[list(sparse)],
                [e[part] for e in exact],
                "o",
                color=color,
                markersize=4,
                markerfacecolor="none",
            )
        axes.axvline(preferred, color=INK, linewidth=1, linestyle=(0, (2, 3)))
        axes.set(xlim=(0, 180), ylim=(0, 1.12), xticks=range(0, 181, 45))
        axes.set_xlabel(target.translate("angle of the grating, degrees", "光栅角度（度）"), color=INK)
        axes.set_title(target.translate("both prefer an orientation", "两者都偏好某一方向"), loc="left")

    def draw_by_phase(axes: Any) -> None:
        phases = [*responses.phases.tolist(), 360.0]
        for cell_responses, color, name in (
            (responses.simple, simple_color, target.translate("simple cell", "简单细胞")),
            (responses.complex, complex_color, target.translate("complex cell", "复杂细胞")),
        ):
            curve = responses.get_peak_responses(cell_responses)[cell].tolist()
            axes.plot(phases, [*curve, curve[0]], color=color, label=name)
        sparse = phases[::3]
        for part, color in enumerate((simple_color, complex_color)):
            exact = [compute_closed_form(preferred, phase)[part] for phase in sparse]
            axes.plot(sparse, exact, "o", color=color, markersize=4, markerfacecolor="none")
        label = target.translate("closed form", "闭式解")
        axes.plot([], [], "o", color=INK, markersize=4, markerfacecolor="none", label=label)
        axes.set(xlim=(0, 360), ylim=(0, 1.12), xticks=range(0, 361, 90))
        axes.set_xlabel(target.translate("phase of the grating, degrees", "光栅相位（度）"), color=INK)
        axes.set_title(target.translate("the complex cell ignores the phase", "复杂细胞忽略相位"), loc="left")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.72))

    def draw(axes: Any) -> None:
        figure = axes.get_figure()
        axes.remove()
        left, right = figure.subplots(1, 2, sharey=True)
        left.set_ylabel(target.translate("response", "响应"), color=INK)
        draw_by_angle(left)
        draw_by_phase(right)

    return render_axes(draw, size=(9.0, 3.8))
