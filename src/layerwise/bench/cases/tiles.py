"""One 3×3 convolution by the kernel that is chosen for it beside torch's own, the layers of known networks: the forward
pass, and with both gradients; one of them also while another program keeps a core busy."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from layerwise.bench.base import Case, Quality, Row, Side, Spec
from layerwise.bench.cases.neighbor import busy
from layerwise.bench.process import Measure

if TYPE_CHECKING:
    from torch import Tensor, nn


class Layer(NamedTuple):
    """A convolution of ``maps`` to as many, over ``images`` of ``side`` × ``side`` places."""

    images: int
    maps: int
    side: int

    def __str__(self) -> str:
        return f"{self.images} × {self.maps} maps of {self.side}×{self.side}"


LAYERS = (  # resnet18's with batches of 16, vgg16's first with 4, resnet20's with 128
    Layer(16, 64, 56),
    Layer(16, 128, 28),
    Layer(16, 256, 14),
    Layer(16, 512, 7),
    Layer(4, 64, 224),
    Layer(128, 16, 32),
    Layer(128, 64, 8),
)
BESIDE = Layer(16, 256, 14)  # the layer that once took five times as long beside a busy program


def made(layer: Layer, spec: Spec, *, tiles: bool) -> tuple[nn.Conv2d, Tensor]:
    """Return the convolution, channels last, and its input after a ReLU."""
    import torch
    from torch import nn

    from layerwise.nn.convolution import by_tiles, he_fan_out_
    from layerwise.runtime import compute_settings

    torch.manual_seed(spec["seed"])
    network = nn.Sequential(nn.Conv2d(layer.maps, layer.maps, 3, padding=1))
    he_fan_out_(network)
    compute_settings.lay_out(network, compute_settings.CHANNELS_LAST)
    x = (
        torch.randn(layer.images, layer.maps, layer.side, layer.side)
        .relu()
        .contiguous(memory_format=torch.channels_last)
    )
    if tiles:
        by_tiles(network)
    convolution = network[0]
    assert isinstance(convolution, nn.Conv2d)
    return convolution, x


def side(spec: Spec, *, layer: Layer, tiles: bool, learns: bool, beside: bool) -> Measure:
    """Time the convolution, and measure its largest error beside float64, as a part of the largest output. ``beside``:
    another program keeps one of the cores busy meanwhile."""
    import copy

    import torch

    from layerwise.bench import images
    from layerwise.nn.tiled import TiledConv2d
    from layerwise.runtime import compute_settings

    with compute_settings.applied(compute_settings.answering()):
        convolution, x = made(layer, spec, tiles=tiles)
        with torch.no_grad():
            exact = copy.deepcopy(convolution).double()(x[:2].double())
            error = float((convolution(x)[:2] - exact).abs().max() / exact.abs().max())
        x.requires_grad_(learns)

        def run() -> None:
            with torch.set_grad_enabled(learns):
                y = convolution(x)
            if learns:
                torch.autograd.grad(y, (x, convolution.weight), y.detach())

        run()  # the kernel is chosen before, as in a training run
        with busy() if beside else nullcontext():
            speed = images.timed(run, {**spec, "batch": layer.images})
        kernels = (
            sorted({str(kernel) for kernel in convolution.choices.known.values()})
            if isinstance(convolution, TiledConv2d)
            else []
        )
    return Measure(speed, {"error": error}, {"kernels": kernels})


SIDES: dict[str, Side] = {}
ROWS: list[Row] = []
for layer, beside in (*((layer, False) for layer in LAYERS), (BESIDE, True)):
    for learns in (False, True):
        what = str(layer) + ", with gradients" * learns + ", beside a busy program" * beside
        for way, tiles in (("tiles", True), ("torch", False)):
            SIDES[f"{what}, {way}"] = partial(side, layer=layer, tiles=tiles, learns=learns, beside=beside)
        ROWS.append(Row(what, f"{what}, torch", None, ours=f"{what}, tiles"))

CASE = Case(
    name="tiles",
    unit="images/s",
    spec={},
    sides=SIDES,
    rows=tuple(ROWS),
    quality=(Quality("error", more_is_better=False, judged=False),),
    note="float32, channels last on both sides, all cores; error: the largest beside float64, of the largest output",
)
