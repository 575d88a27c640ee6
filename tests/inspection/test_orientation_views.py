"""The cells' responses are those of Gabor's closed form; they peak where they should, and only simple cells see the
phase."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve

from layerwise import api, registry
from layerwise.errors import UsageError
from layerwise.functional.gabor import Gabor, angle_between, grating_response, modulation
from layerwise.inspection import inspect_target, render_view
from layerwise.inspection.base import Target
from layerwise.inspection.views.filtered import filter_image, load_gray_photographs
from layerwise.inspection.views.tuning import CellResponses, measure_responses
from layerwise.models.orientation import OrientationCells, divide_orientations

FORMS = [
    {"orientations": 8, "wavelength": 6.0, "aspect": 0.7, "bandwidth": 1.0},
    {"orientations": 5, "wavelength": 4.5, "aspect": 1.0, "bandwidth": 1.4},
]


def built(**arguments: object) -> OrientationCells:
    model = registry.get_builder(registry.find("orientation-cells"))(**arguments)
    assert isinstance(model, OrientationCells)
    return model


@pytest.fixture(scope="module", params=FORMS, ids=["default", "round"])
def seen(request: pytest.FixtureRequest) -> tuple[dict[str, float], CellResponses]:
    return request.param, measure_responses(built(**request.param), request.param["wavelength"], angles=90, phases=12)


def test_answers_are_the_closed_form(seen: tuple[dict[str, float], CellResponses]) -> None:
    form, found = seen
    fields = {key: form[key] for key in ("wavelength", "aspect", "bandwidth")}
    for k, angle in enumerate(divide_orientations(int(form["orientations"]))):
        even, odd = (Gabor(orientation=angle, phase=phase, **fields) for phase in (0, 90))
        for a in range(0, 90, 7):
            for p in range(0, 12, 5):
                shown = {
                    "orientation": float(found.angles[a]),
                    "wavelength": form["wavelength"],
                    "phase": float(found.phases[p]),
                }
                want = grating_response(even, **shown), grating_response(odd, **shown)
                assert float(found.simple[k, a, p]) == pytest.approx(max(0.0, want[0]), abs=1e-3)
                assert float(found.complex[k, a, p]) == pytest.approx(want[0] ** 2 + want[1] ** 2, abs=2e-3)


def test_cells_peak_at_their_angle_and_only_simple_ones_see_the_phase(
    seen: tuple[dict[str, float], CellResponses],
) -> None:
    form, found = seen
    built_in = torch.tensor(divide_orientations(int(form["orientations"])))
    for kind in (found.simple, found.complex):
        assert float(angle_between(found.find_peaks(kind), built_in).max()) <= 5
    assert float(modulation(found.get_peak_responses(found.complex)).max()) < 0.05
    assert float(modulation(found.get_peak_responses(found.simple)).min()) > 0.99


def test_a_drifting_grating_gives_a_simple_cell_half_a_wave() -> None:
    """F1/F0, the neurophysiologist's measure, of a half-wave rectified sine is π/2; of a steady answer it is 0."""
    found = measure_responses(built(), 6.0, angles=8, phases=72)
    for kind, ratio in ((found.simple, np.pi / 2), (found.complex, 0.0)):
        spectrum = np.fft.rfft(found.get_peak_responses(kind).numpy(), axis=1)
        assert np.abs(2 * spectrum[:, 1] / spectrum[:, 0].real) == pytest.approx(ratio, abs=0.01)


def test_even_light_excites_no_cell_and_there_is_nothing_to_learn() -> None:
    model = built(channels=3)
    assert not list(model.parameters())
    assert float(model.simple(torch.full((1, 3, 40, 40), 100.0)).abs().max()) < 0.01


def test_a_turned_image_turns_the_cells() -> None:
    """By 90°, exactly: what the cells of θ answered, those of θ + 90° answer now, at the turned places."""
    model, image = built(pool=1), torch.rand(1, 1, 50, 61)
    plain, turned = model(image)[0], model(image.rot90(1, (2, 3)))[0]
    assert torch.allclose(turned.roll(-4, 0), plain.rot90(1, (1, 2)), atol=1e-5)


def test_simple_cells_are_four_phases_and_pooling_is_the_mean() -> None:
    model, image = built(pool=2), torch.rand(1, 1, 44, 44)
    phases = model.simple(image).chunk(4, 1)
    assert all(float(p.min()) >= 0 for p in phases)
    assert not (phases[0] * phases[2]).any()  # partners never fire together
    energy = sum(p.square() for p in phases)
    assert torch.allclose(model(image), torch.nn.functional.avg_pool2d(energy, 2), rtol=1e-5)


def test_tuning_view(tmp_path: Path) -> None:
    view = inspect_target("tuning", "orientation-cells", out=tmp_path, lang="zh")
    assert view.data["off"] <= 1
    assert [cell["prefers"] for cell in view.data["cells"]] == [22.5 * k for k in range(8)]
    assert "复杂细胞" in view.text
    assert "忽略相位" in "".join(ET.fromstring(view.figures[0].read_bytes()).itertext())


def test_filtered_view_agrees_with_scipy(tmp_path: Path) -> None:
    """The oracle: one complex Gabor for each orientation, its formula again in NumPy, convolved by SciPy in float64."""
    view = inspect_target("filtered", "orientation-cells", out=tmp_path)
    assert [p.name for p in view.figures] == ["filtered-china.svg", "filtered-flower.svg"]
    assert all(p.stat().st_size < 150_000 for p in view.figures)
    row, column = np.mgrid[-17:18, -17:18]
    sigma = 6 / np.pi * np.sqrt(np.log(2) / 2) * 3
    for found, gray in zip(view.data["photographs"], load_gray_photographs().values(), strict=True):
        image, energies = gray[0, 0].double().numpy(), []
        for angle in np.radians(view.data["orientations"]):
            u, v = -column * np.sin(angle) - row * np.cos(angle), column * np.cos(angle) - row * np.sin(angle)
            field = np.exp(-(u**2 + 0.49 * v**2) / (2 * sigma**2)) * np.exp(2j * np.pi * u / 6)
            energies.append((np.abs(fftconvolve(image - image.mean(), field, mode="valid")) ** 2).mean())
        assert found["share"] == pytest.approx(np.array(energies) / sum(energies), rel=0.02)


def test_stripes_light_up_their_own_cells() -> None:
    rows = torch.arange(60.0)[:, None].expand(60, 60)
    level = (torch.cos(rows * 2 * torch.pi / 6) + 1)[None, None] / 2
    seen = filter_image(built(), level)
    assert int(seen.complex.mean((1, 2)).argmax()) == 0
    assert seen.image.shape[1:] == seen.complex.shape[1:]


@pytest.mark.parametrize("what", ["tuning", "filtered"])
def test_another_model_is_refused(what: str) -> None:
    with pytest.raises(UsageError, match=f"the view '{what}' looks at orientation-selective cells"):
        render_view(what, Target(spec=registry.find("mcp")))


def test_receptive_fields_grow_from_layer_to_layer() -> None:
    layers = inspect_target("receptive-field", "orientation-cells").data["layers"]
    assert [(la["name"], la["field"][0], la["jump"][0]) for la in layers] == [
        ("simple", 35, 1),
        ("complex", 35, 1),
        ("pooled", 38, 4),
    ]


def test_work_is_one_product_for_each_weight_and_place() -> None:
    assert inspect_target("summary", "orientation-cells").data["totals"]["multiply_adds"] == 16 * 35**2 * 30**2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"orientations": 0}, "there must be cells"),
        ({"wavelength": 1.5}, "no cell has such a field"),
        ({"size": (32, 32)}, "at least 38×38"),
    ],
)
def test_impossible_cells_are_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        built(**arguments)


def test_training_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"orientation-cells \(1962\) cannot be trained: its selectivity is built in"):
        api.train("orientation-cells", data="digits")
