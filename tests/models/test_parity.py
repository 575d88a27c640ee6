"""The networks beside torchvision's and timm's own: the same names and shapes, the same outputs and gradients; weights
go both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from references import distance, lively, outcome, torchvisions
from torch import nn

from layerwise import api, registry

VGGS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]
# all of which timm has under the same names
RESNETS = (
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2"
).split()
TORCHVISION = ["alexnet", *VGGS, *RESNETS]
SIZE, CLASSES = 64, 5


def on_meta(name: str) -> nn.Module:
    """Build ours at full size without memory."""
    with torch.device("meta"):
        return api.build(name, outputs=1000)


def theirs_on_meta(name: str) -> nn.Module:
    """Build torchvision's at full size without memory (nor first weights, which would load torch's compiler)."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        for draw in ("kaiming_normal_", "normal_", "constant_"):
            patch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
        model: nn.Module = getattr(torchvisions(file_of(name)), name)()
    return model


def file_of(name: str) -> str:
    """Return the file of torchvision's that has this network."""
    return name if name == "alexnet" else "vgg" if name.startswith("vgg") else "resnet"


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the state's names and shapes."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_full_size_weights_go_both_ways(name: str) -> None:
    ours, theirs = on_meta(name), theirs_on_meta(name)
    assert shapes(ours) == shapes(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)


@pytest.mark.parametrize("name", RESNETS)
def test_names_and_shapes_are_timms(name: str) -> None:
    torchvisions("resnet")  # timm wants a torchvision that imports
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert shapes(on_meta(name)) == shapes(theirs)


def test_every_card_of_these_files_is_compared() -> None:
    files = {registry.find(name).module for name in TORCHVISION}
    small = {"alexnet_small", *(f"{name}_small" for name in VGGS if name.endswith("_bn"))}
    assert {spec.name for spec in registry.list_models() if spec.module in files} == {*TORCHVISION, *small}


def dense(inputs: int, hidden: int, *, dropout_first: bool) -> nn.Sequential:
    """Return a classifier as torchvision's AlexNet and VGG have it, but narrow: at full width it alone is a hundred
    million numbers."""
    layers = [
        nn.Linear(inputs, hidden),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(True),
        nn.Dropout(),
    ]
    if dropout_first:
        layers = [
            nn.Dropout(),
            nn.Linear(inputs, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
        ]
    return nn.Sequential(*layers, nn.Linear(hidden, CLASSES))


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Return ours and torchvision's of the same form, with few blocks and narrow dense layers where the model has many
    and wide ones."""
    file = torchvisions(file_of(name))
    wanted: dict[str, Any] = {"outputs": CLASSES, "size": [SIZE, SIZE]}
    theirs: nn.Module
    if name == "alexnet":
        theirs = file.alexnet(num_classes=CLASSES)
        theirs.classifier = dense(256 * 6 * 6, 24, dropout_first=True)
        wanted |= {"dense": 24}
    elif name.startswith("vgg"):
        widths = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]  # torchvision's "A", a quarter as wide
        features = file.make_layers(widths, batch_norm=name.endswith("_bn"))
        with torch.device("meta"):
            theirs = file.VGG(nn.Identity(), init_weights=False)
        theirs.features, theirs.classifier = features, dense(128 * 7 * 7, 24, dropout_first=False)
        wanted |= {"width": 16, "dense": 24}
    elif name == "resnet18":
        theirs = file.resnet18(num_classes=CLASSES)
    else:
        more = {
            "resnet50": {},
            "resnext50_32x4d": {"groups": 32, "width_per_group": 4},
            "wide_resnet50_2": {"width_per_group": 128},
        }[name]
        blocks = [2, 1, 1, 1] if name == "resnet50" else [1, 1, 1, 1]
        theirs = file.ResNet(file.Bottleneck, blocks, num_classes=CLASSES, **more)
        wanted |= {"blocks": blocks}
    return api.build(name, **wanted), theirs


EVALUATING = ["alexnet", "vgg11", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2"]
TRAINING = ["vgg11_bn", "resnet50"]  # where batch norm sees the batch


@pytest.mark.parametrize(("name", "training"), [*((n, False) for n in EVALUATING), *((n, True) for n in TRAINING)])
@pytest.mark.usefixtures("one_thread")
def test_outputs_and_gradients_are_torchvisions(name: str, training: bool) -> None:
    ours, theirs = pair(name)
    lively(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    assert distance(outcome(ours, x, training=training), outcome(theirs, x, training=training)) < 1e-5
    wide = x.double()
    assert (
        distance(outcome(ours.double(), wide, training=training), outcome(theirs.double(), wide, training=training))
        < 1e-10
    )


@pytest.mark.usefixtures("one_thread")
def test_outputs_and_gradients_are_timms() -> None:
    torchvisions("resnet")
    import timm

    ours = api.build("resnet18", outputs=CLASSES, size=[SIZE, SIZE]).double()
    theirs = lively(timm.create_model("resnet18", num_classes=CLASSES).double())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert distance(outcome(ours, x, training=False), outcome(theirs, x, training=False)) < 1e-10


@pytest.mark.usefixtures("one_thread")
def test_the_comparison_would_notice() -> None:
    """The paper's stride, on the first 1×1 convolution, in place of torchvision's: the same names and shapes, other
    outputs."""
    ours, theirs = pair("resnet50")
    lively(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    block = ours.get_submodule("layer2.0")
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)  # type: ignore[union-attr]
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert float((ours.eval()(x) - theirs.eval()(x)).abs().max()) > 0.01
