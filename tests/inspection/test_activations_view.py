"""The view ``activations``: statistics against plain NumPy over the modules' own outputs; functions against torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_views import images
from torch import Tensor, nn

from layerwise import registry
from layerwise.data.source import ArraySource, Splits
from layerwise.inspection import inspect_target, render_view
from layerwise.inspection.activation_functions import evaluate_activation
from layerwise.inspection.activation_tracing import (
    LARGEST_DERIVATIVES,
    ActivationCall,
    get_derivative,
    trace_activations,
)
from layerwise.inspection.base import Target
from layerwise.models.boltzmann import dbn
from layerwise.models.convolutional import cnn
from layerwise.models.feedforward import mlp
from layerwise.nn.layers import ACTIVATIONS, make_activation
from layerwise.tasks.classification import Classification

NAMES = "sigmoid relu tanh softmax linear leaky-relu prelu elu gelu silu softplus".split()


def shown(model: nn.Module, source: ArraySource, *, out: Path | None = None, scale: str = "standard") -> dict:  # type: ignore[type-arg]
    """Return the view's data of a network over images."""
    task = Classification.prepare(source, Classification.Options(scale=scale))  # type: ignore[call-arg]
    target = Target(spec=registry.find("mlp"), model=model, task=task, splits=Splits(source, source, source, "p"))
    data = render_view("activations", target, out=out).data
    json.dumps(data)
    return data


def inputs_of(source: ArraySource, scale: str = "standard") -> Tensor:
    return Classification.prepare(source, Classification.Options(scale=scale)).inputs.tensor(source.inputs)  # type: ignore[call-arg]


def test_statistics_of_a_tanh_layer_are_numpys(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = images()
    model = mlp(features=16, outputs=2, hidden=(5,), activation="tanh", dropout=0.5)
    model[1].weight.data.mul_(3)
    z = model[1](inputs_of(source).flatten(1)).detach().double().numpy()
    data = shown(model, source, out=tmp_path)
    layer, outputs = data["layers"]
    assert (layer["name"], layer["function"], layer["units"]) == ("2", "tanh", 5)
    for quantity, values in (("z", z), ("a", np.tanh(z))):
        found = layer[quantity]
        assert [found["mean"], found["deviation"]] == pytest.approx([values.mean(), values.std()], rel=1e-5)
        assert [found["least"], found["largest"]] == pytest.approx([values.min(), values.max()], rel=1e-5)
        assert sum(found["histogram"]["counts"]) == values.size
    assert layer["saturated"] == np.mean(1 / np.cosh(z) ** 2 < 0.1)
    assert 0.1 < layer["saturated"] < 0.9
    assert outputs["name"] == "(outputs)"
    assert (tmp_path / "activations.svg").read_text().count("<svg") == 1


def test_dead_relus_are_the_units_that_are_never_active() -> None:
    torch.manual_seed(0)
    source = images()
    model = mlp(features=16, outputs=2, hidden=(6,))
    model[1].bias.data[:2] = -100.0
    layer = shown(model, source)["layers"][0]
    z = model[1](inputs_of(source).flatten(1)).detach().numpy()
    assert layer["dead"] == (z <= 0).all(0).sum() == 2
    assert layer["saturated"] == np.mean(z <= 0)
    assert layer["a"]["zeros"] == np.mean(z <= 0)
    assert layer["a"]["histogram"]["without_zeros"]


def test_a_map_is_dead_that_is_off_everywhere() -> None:
    torch.manual_seed(0)
    source = images()
    model = cnn(outputs=2, size=(4, 4), widths=(3,), dense=(), activation="relu")
    model.features[0].bias.data[1] = -100.0  # type: ignore[index, union-attr]
    layer = shown(model, source)["layers"][0]
    assert (layer["name"], layer["units"], layer["dead"]) == ("features.1", 3, 1)


def test_prelus_learned_slopes_are_shown_and_decide() -> None:
    torch.manual_seed(0)
    source = images()
    model = mlp(features=16, outputs=2, hidden=(6,), activation="prelu")
    for slope, some in ((0.05, True), (0.3, False)):
        nn.init.constant_(model[2].weight, slope)
        layer = shown(model, source)["layers"][0]
        assert layer["slopes"] == pytest.approx([slope])
        assert (layer["saturated"] > 0) is some
    assert (
        "prelu 0.25"
        in inspect_target(
            "activations", "mlp", data="iris", settings=("model.activation=prelu", "model.hidden=[2]")
        ).text
    )


def test_functions_inside_a_module_count_too() -> None:
    """A deep belief network calls σ in its forward: one row a layer, with the values of its formula."""
    torch.manual_seed(0)
    source = images()
    model = dbn(features=16, classes=2, hidden=(6, 5))
    layers = shown(model, source, scale="unit")["layers"]
    assert [(la["name"], la["function"], la["units"]) for la in layers[:2]] == [
        ("upward.0", "sigmoid", 6),
        ("upward.1", "sigmoid", 5),
    ]
    rbm = model.rbms[0]  # type: ignore[index]
    z = inputs_of(source, "unit").flatten(1) @ rbm.weight.T + rbm.hidden_bias  # type: ignore[union-attr]
    assert layers[0]["z"]["mean"] == pytest.approx(float(z.detach().mean()), rel=1e-4)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "linear"])
def test_every_activation_is_seen_with_its_own_slope(name: str) -> None:
    """The slope the view judges by is autograd's of the module itself."""
    module = make_activation(name)
    z = torch.tensor([[-6.0, -1.3, -0.2, 0.4, 2.0, 7.0]])
    calls: list[ActivationCall] = []
    with torch.no_grad(), trace_activations(module, calls.append):
        a = module(z)
    assert [(c.key[1].replace("_", "-"), c.z.tolist(), c.a.tolist()) for c in calls] == [(name, z.tolist(), a.tolist())]
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf).sum(), leaf)
    slope = calls[0].slope
    if name == "softmax":
        assert slope is None
    else:
        assert slope is not None
        torch.testing.assert_close(slope(z), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "module", [nn.LeakyReLU(0.2), nn.ELU(0.5), nn.Softplus(2.0), nn.ReLU(inplace=True), nn.PReLU(3)], ids=repr
)
def test_other_forms_have_their_own_slopes(module: nn.Module) -> None:
    z = torch.tensor([[-6.0, -0.2, 2.0], [-1.0, 0.4, 5.0]])
    calls: list[ActivationCall] = []
    with torch.no_grad(), trace_activations(module, calls.append):
        module(z.clone())
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf.clone()).sum(), leaf)
    assert calls[0].slope is not None
    torch.testing.assert_close(calls[0].z, z)
    torch.testing.assert_close(calls[0].slope(z), gradient, rtol=1e-5, atol=1e-6)


def test_largest_slopes_are_those_of_the_textbook() -> None:
    assert [LARGEST_DERIVATIVES[n] for n in ("sigmoid", "tanh", "relu", "elu")] == pytest.approx([0.25, 1, 1, 1])
    assert get_derivative("softmax", ()) is None


def test_every_activation_is_listed() -> None:
    assert sorted(NAMES) == sorted(ACTIVATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_drawn_curves_are_torchs(name: str) -> None:
    """f against torch's own module, f′ against autograd through it; softmax as the first of three units, the others at
    0."""
    z = torch.linspace(-5, 5, 44, dtype=torch.float64, requires_grad=True)
    modules = {
        "sigmoid": nn.Sigmoid(),
        "relu": nn.ReLU(),
        "tanh": nn.Tanh(),
        "linear": nn.Identity(),
        "leaky-relu": nn.LeakyReLU(),
        "prelu": nn.PReLU(dtype=torch.float64),
        "elu": nn.ELU(),
        "gelu": nn.GELU(),
        "silu": nn.SiLU(),
        "softplus": nn.Softplus(),
    }
    if name == "softmax":
        value = nn.Softmax(1)(torch.stack([z, torch.zeros_like(z), torch.zeros_like(z)], 1))[:, 0]
    else:
        value = modules[name](z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    found = evaluate_activation(name, z.detach())
    torch.testing.assert_close(found[0], value.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[1], slope, rtol=1e-8, atol=1e-10)


def test_a_model_by_itself_shows_every_function(tmp_path: Path) -> None:
    view = inspect_target("activations", "mlp", out=tmp_path, lang="zh")
    assert [f["name"] for f in view.data["functions"]] == list(ACTIVATIONS)
    assert view.data["own"] == "relu"
    flat = {f["name"]: f["flat"] for f in view.data["functions"]}
    # |σ′| = ¼·4σ(1−σ) is a tenth of ¼ where σ = (1 ± √0.9)/2
    edge = float(np.log((1 + np.sqrt(0.9)) / (1 - np.sqrt(0.9))))
    assert flat["sigmoid"] == [pytest.approx([-5, -edge], abs=0.03), pytest.approx([edge, 5], abs=0.03)]
    assert flat["linear"] == []
    drawing = (tmp_path / "activations.svg").read_text()
    assert all(f">{name}<" in drawing for name in ACTIVATIONS)
