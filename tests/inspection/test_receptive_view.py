"""The fields computed by E16 are where the gradient of the linearized network is not zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.inspection import inspect_target, render_view
from layerwise.inspection.base import Target
from layerwise.inspection.theoretical_receptive_field import (
    capture_outputs,
    compute_theoretical_fields,
    find_gradient_support,
    linearize,
)
from layerwise.models.convolutional import cnn, lenet5
from layerwise.models.resnet_cifar import resnet20


class Branches(nn.Module):
    """What later families are made of: a strided residual sum, a concatenation, a functional pooling, dilation and a
    global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, (3, 5), padding=(1, 2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.long = nn.Sequential(
            nn.Conv2d(2, 2, 3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        )
        self.short = nn.Conv2d(2, 2, 1, 2)
        self.after = nn.Conv2d(4, 2, 2)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, H, W) to (N, 3)."""
        x = self.pool(torch.relu(self.stem(x)))
        x = self.long(x) + self.short(x)
        x = self.after(torch.cat([x, nn.functional.avg_pool2d(x, 3, 1, 1)], 1))
        out: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


CASES = {
    "lenet5": (lambda: lenet5(outputs=3), (1, 28, 28)),
    "lenet5, large": (lambda: lenet5(outputs=3, size=(40, 36)), (1, 40, 36)),
    "cnn": (lambda: cnn(outputs=3, widths=(2, 3, 2), kernel=5, batch_norm=True, size=(24, 24)), (1, 24, 24)),
    "cnn, mean": (lambda: cnn(outputs=3, widths=(2, 3), pool="average", activation="prelu", dropout=0.2), (1, 28, 28)),
    "branches": (Branches, (1, 41, 37)),
    "every second place": (lambda: resnet20(outputs=3, blocks=1, width=2), (3, 19, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_fields_are_the_gradients_support(name: str) -> None:
    torch.manual_seed(0)
    build, shape = CASES[name]
    model = build()
    image = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    plain = linearize(model)
    with capture_outputs(plain) as outputs:
        plain(image)
    checked = 0
    for row in {
        row.name: row for row in compute_theoretical_fields(model, shape)
    }.values():  # of a layer used twice, the last
        output = outputs[row.name]
        assert tuple(output.shape) == row.output
        sides = output.shape[2:] if output.ndim == 4 else (1, 1)
        for unit in {(0, 0), (sides[0] // 2, sides[1] // 2), (sides[0] - 1, sides[1] - 1)}:
            want = tuple(f.at(u, side) for f, u, side in zip(row.fields, unit, shape[1:], strict=True))
            assert find_gradient_support(output, image, unit if output.ndim == 4 else ()) == want, (row.name, unit)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize(
    "name", [n for n, spec in registry.load_specs().items() if spec.family in ("convolutional", "residual")]
)
def test_every_convolutional_model_has_a_view(name: str, tmp_path: Path) -> None:
    view = render_view("receptive-field", Target(spec=registry.find(name)), out=tmp_path)
    fields = [layer["field"][0] for layer in view.data["layers"] if "downsample" not in layer["name"]]
    assert fields == sorted(fields)  # it never shrinks with depth; a shortcut starts from its block's input again
    assert [p.name for p in view.figures] == ["receptive-field.svg"]


def test_lenet5_by_hand() -> None:
    layers = inspect_target("receptive-field", "lenet5").data["layers"]
    by_hand = [(5, 1, 0.0), (6, 2, 0.5), (14, 2, 4.5), (16, 4, 5.5)]
    assert [(la["field"][0], la["jump"][0], la["start"][0]) for la in layers[:4]] == by_hand
    assert layers[4]["field"] == [32, 32]  # 16 + 4·4: the paper's whole image, border included
    assert "像素" in inspect_target("receptive-field", "lenet5", lang="zh").text


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(UsageError, match="mlp has no convolutions"):
        inspect_target("receptive-field", "mlp")


def test_a_transposed_convolution_is_refused() -> None:
    with pytest.raises(UsageError, match="transposed"):
        compute_theoretical_fields(nn.ConvTranspose2d(1, 1, 3), (1, 8, 8))
