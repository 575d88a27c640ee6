"""A training step on images, float32, batch 16: our rule beside a plain loop over torchvision's network, equal
losses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from layerwise.bench.base import Bound, Case, Quality, Row, Side, Spec
from layerwise.bench.side import Measurement

if TYPE_CHECKING:
    from torch import nn

MODELS = ("resnet50", "vgg16")
RATE, STEPS = 1e-3, 2  # steps after which the losses are compared


def measure_ours(model: str, spec: Spec) -> Measurement:
    """Take steps of the rule ``backprop`` (SGD with momentum) with the flags of a training run."""
    import torch

    from layerwise.bench import images
    from layerwise.data.batch import Batch
    from layerwise.rules.backprop import Backprop, BackpropOptions
    from layerwise.rules.base import Context
    from layerwise.runtime import compute_settings
    from layerwise.runtime.distributed import World
    from layerwise.training.execution import configure_execution

    spec = {**spec, "model": model}
    source = images.make_export_source(spec)
    network = disable_dropout(source.model).train()
    x = images.make_images(spec).contiguous(memory_format=torch.channels_last)  # as the loader gathers images
    batch = Batch(x, torch.arange(len(x)) % images.CLASSES, torch.arange(len(x)))
    world = World(device=torch.device("cpu"))
    context = Context(network, source.task, dict(network.named_parameters()), world, 0, "fp32", len(x), len(x))
    rule = Backprop(context, BackpropOptions(optimizer="sgd", lr=RATE, momentum=0.9))
    with compute_settings.use_settings(
        configure_execution(network, compute_settings.inference_settings(), winograd=True)
    ):
        losses = [float(step.total) / step.weight for step in (rule.step(batch, 0.0) for _ in range(STEPS))]
        return Measurement(
            images.measure_speed(lambda: rule.step(batch, 0.0), spec), {"loss": losses[-1]}, {"losses": losses}
        )


def measure_plain(model: str, spec: Spec) -> Measurement:
    """Take the same steps as the tutorials do."""
    import torch
    from torch import nn

    from layerwise.bench import images

    spec = {**spec, "model": model}
    network = disable_dropout(images.build_torchvision(spec)).train()
    x = images.make_images(spec)
    y = torch.arange(len(x)) % images.CLASSES
    optimizer, criterion = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9), nn.CrossEntropyLoss()

    def step() -> float:
        optimizer.zero_grad()
        loss = criterion(network(x), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    losses = [step() for _ in range(STEPS)]
    return Measurement(
        images.measure_speed(step, spec), {"loss": losses[-1]}, {"losses": losses, "threads": torch.get_num_threads()}
    )


def disable_dropout(model: nn.Module) -> nn.Module:
    """Switch dropout off, whose draws would differ, so that both sides' losses can be compared, and return the
    network."""
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0  # type: ignore[assignment]
    return model


SIDES: dict[str, Side] = {}
for name in MODELS:
    SIDES[f"{name}, ours"] = partial(measure_ours, name)
    SIDES[f"{name}, torchvision"] = partial(measure_plain, name)

CASE = Case(
    name="training-step",
    unit="images/s",
    spec={"batch": 16},
    sides=SIDES,
    rows=tuple(
        Row(f"{name}: torchvision, plain loop", f"{name}, torchvision", Bound(1.5), ours=f"{name}, ours")
        for name in MODELS
    ),
    quality=(Quality("loss", more_is_better=False, decides=False),),
    note="224×224, the same weights, batch, loss and SGD with momentum 0.9 on both sides, dropout off; the loss "
    "is that of the second step",
    timeout=900,
)
