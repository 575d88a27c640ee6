"""One 3×3 convolution by the kernel that is chosen for it beside torch's own, the layers of known networks: the forward
pass, and with both gradients; one of them also while another program keeps a core busy."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from layerwise.bench.base import Case, Quality, Row, Side, Spec
from layerwise.bench.cases.noisy_neighbor import occupy_core
from layerwise.bench.side import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn


class Layer(NamedTuple):
    """A convolution of ``maps`` to as many, over ``images`` of ``side`` × ``side`` pixels."""

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


def build_convolution(layer: Layer, spec: Spec, *, fast_kernels: bool) -> tuple[nn.Conv2d, Tensor]:
    """Return the convolution, channels last, and its input after a ReLU."""
    import torch
    from torch import nn

    from layerwise.nn.convolution import init_he_fan_out_, use_fast_kernels
    from layerwise.runtime import compute_settings

    torch.manual_seed(spec["seed"])
    network = nn.Sequential(nn.Conv2d(layer.maps, layer.maps, 3, padding=1))
    init_he_fan_out_(network)
    compute_settings.apply_layout(network, compute_settings.CHANNELS_LAST)
    x = (
        torch.randn(layer.images, layer.maps, layer.side, layer.side)
        .relu()
        .contiguous(memory_format=torch.channels_last)
    )
    if fast_kernels:
        use_fast_kernels(network)
    convolution = network[0]
    assert isinstance(convolution, nn.Conv2d)
    return convolution, x


def measure_layer(spec: Spec, *, layer: Layer, fast_kernels: bool, with_gradients: bool, busy: bool) -> Measurement:
    """Time the convolution, and measure its largest error beside float64, as a part of the largest output. ``busy``:
    another program keeps one of the cores busy meanwhile."""
    import copy

    import torch

    from layerwise.bench import images
    from layerwise.nn.winograd_convolution import WinogradConv2d
    from layerwise.runtime import compute_settings

    with compute_settings.use_settings(compute_settings.inference_settings()):
        convolution, x = build_convolution(layer, spec, fast_kernels=fast_kernels)
        with torch.no_grad():
            exact = copy.deepcopy(convolution).double()(x[:2].double())
            error = float((convolution(x)[:2] - exact).abs().max() / exact.abs().max())
        x.requires_grad_(with_gradients)

        def run() -> None:
            with torch.set_grad_enabled(with_gradients):
                y = convolution(x)
            if with_gradients:
                torch.autograd.grad(y, (x, convolution.weight), y.detach())

        run()  # the kernel is chosen before, as in a training run
        with occupy_core() if busy else nullcontext():
            speed = images.measure_speed(run, {**spec, "batch": layer.images})
        kernels = (
            sorted({str(kernel) for kernel in convolution.selector.known.values()})
            if isinstance(convolution, WinogradConv2d)
            else []
        )
    return Measurement(speed, {"error": error}, {"kernels": kernels})


SIDES: dict[str, Side] = {}
ROWS: list[Row] = []
for layer, busy in (*((layer, False) for layer in LAYERS), (BESIDE, True)):
    for with_gradients in (False, True):
        title = str(layer) + ", with gradients" * with_gradients + ", beside a busy program" * busy
        for kernel, fast_kernels in (("ours", True), ("torch", False)):
            SIDES[f"{title}, {kernel}"] = partial(
                measure_layer, layer=layer, fast_kernels=fast_kernels, with_gradients=with_gradients, busy=busy
            )
        ROWS.append(Row(title, f"{title}, torch", None, ours=f"{title}, ours"))

CASE = Case(
    name="convolution",
    unit="images/s",
    spec={},
    sides=SIDES,
    rows=tuple(ROWS),
    quality=(Quality("error", more_is_better=False, decides=False),),
    note="float32, channels last on both sides, all cores; error: the largest beside float64, of the largest output",
)
