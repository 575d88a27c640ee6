"""The view ``weights``: against NumPy; what is drawn of the first layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_views import images

from layerwise import registry
from layerwise.inspection import inspect_target, render_view
from layerwise.inspection.base import Target
from layerwise.inspection.views.weights import describe_weight, get_first_layer_images
from layerwise.models.boltzmann import dbn
from layerwise.models.convolutional import cnn
from layerwise.models.feedforward import mlp
from layerwise.tasks.classification import Classification


def test_numbers_are_numpys() -> None:
    w = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w[0, :3] = 0
    w[1, 0] = 1e-9
    found, plain = describe_weight(w), w.numpy()
    assert found["shape"] == [7, 5]
    assert [found[k] for k in ("mean", "deviation", "norm", "largest", "zeros", "near_zeros")] == pytest.approx(
        [plain.mean(), plain.std(), np.linalg.norm(plain), np.abs(plain).max(), 3 / 35, 4 / 35]
    )
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    assert sum(counts) == 35
    middle = len(counts) // 2
    assert edges[middle] < 0 < edges[middle + 1]
    assert counts[middle] == ((plain >= edges[middle]) & (plain < edges[middle + 1])).sum()


def test_first_layers_are_drawn_as_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = images()
    task = Classification.prepare(source, Classification.Options())
    model = mlp(features=16, outputs=2, hidden=(5,))
    target = Target(spec=registry.find("mlp"), model=model, task=task)
    drawn, count = get_first_layer_images(target, model)
    rows = model[1].weight.detach().double()
    strongest = rows[rows.norm(dim=1).argmax()].view(1, 4, 4)
    np.testing.assert_allclose(drawn[0], 0.5 + 0.5 * (strongest / strongest.abs().max()).numpy())
    assert count == 5
    view = render_view("weights", target, out=tmp_path)
    assert [p.name for p in view.figures] == ["weights.svg", "filters.svg"]
    kernels, number = get_first_layer_images(
        Target(spec=registry.find("cnn")), cnn(outputs=2, widths=(4,), channels=3, size=(8, 8))
    )
    assert (np.shape(kernels), number) == ((4, 3, 3, 3), 4)
    filters, number = get_first_layer_images(target, dbn(features=16, classes=2, hidden=(6,)))
    assert (np.shape(filters), number) == ((6, 1, 4, 4), 6)


def test_rows_of_numbers_have_no_images() -> None:
    assert inspect_target("weights", "mlp").data["filters"] == 0
    assert inspect_target("weights", "mlp", data="iris").data["filters"] == 0


def test_a_model_by_itself_shows_its_initialization() -> None:
    """He's bound for relu: U(−√(6/fan_in), √(6/fan_in)), so the deviation is √(2/784)."""
    layers = {la["name"]: la for la in inspect_target("weights", "mlp", lang="zh").data["layers"]}
    assert layers["1.weight"]["deviation"] == pytest.approx(np.sqrt(2 / 784), rel=0.01)
    assert layers["1.bias"]["zeros"] == 1
    assert layers["1.bias"]["histogram"] is None
