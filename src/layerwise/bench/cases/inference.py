"""Images a second of trained networks, float32, batch 16: our engines beside torchvision's eager networks."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row, Side, Spec
from layerwise.bench.side import Measurement

TARGETS = {"resnet18": 2.0, "resnet50": 2.0, "alexnet": 1.6, "vgg16": 1.6}


def measure_ours(model: str, engine: str, spec: Spec) -> Measurement:
    """Run our network by an engine."""
    from layerwise.bench import images

    return images.measure_engine(engine, {**spec, "model": model})


def measure_torchvision(model: str, spec: Spec) -> Measurement:
    """Run torchvision's network."""
    from layerwise.bench import images

    return images.measure_eager({**spec, "model": model})


def build_sides() -> dict[str, Side]:
    """Return three sides for each network: ours by torch, ours by the fastest engine, torchvision's."""
    sides: dict[str, Side] = {}
    for model in TARGETS:
        sides[f"{model}, torch"] = partial(measure_ours, model, "torch")
        sides[f"{model}, auto"] = partial(measure_ours, model, "auto")
        sides[f"{model}, torchvision"] = partial(measure_torchvision, model)
    return sides


def build_rows(targets: dict[str, float]) -> tuple[Row, ...]:
    """Return two comparisons for each network: ``--engine auto``, which has the target, and the default engine."""
    rows = []
    for model, target in targets.items():
        peer = f"{model}: torchvision, eval mode, no gradients"
        rows.append(Row(f"{peer}; ours --engine auto", f"{model}, torchvision", Bound(target), ours=f"{model}, auto"))
        rows.append(Row(f"{peer}; ours --engine torch", f"{model}, torchvision", None, ours=f"{model}, torch"))
    return tuple(rows)


CASE = Case(
    name="inference",
    unit="images/s",
    spec={"batch": 16},
    sides=build_sides(),
    rows=build_rows(TARGETS),
    note="224×224, the same weights and the same batch on all sides, each with its own default threads; median of "
    "runs within 6 s",
    timeout=600,
)
