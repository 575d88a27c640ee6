"""Images a second of trained networks, float32, batch 16: our engines beside torchvision's eager networks."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row, Side, Spec
from layerwise.bench.process import Measure

TARGETS = {"resnet18": 2.0, "resnet50": 2.0, "alexnet": 1.6, "vgg16": 1.6}


def ours(model: str, engine: str, spec: Spec) -> Measure:
    """Run our network by an engine."""
    from layerwise.bench import images

    return images.engine(engine, {**spec, "model": model})


def torchvision(model: str, spec: Spec) -> Measure:
    """Run torchvision's network."""
    from layerwise.bench import images

    return images.eager({**spec, "model": model})


def sides() -> dict[str, Side]:
    """Return three sides for each network: ours by torch, ours by the fastest engine, torchvision's."""
    out: dict[str, Side] = {}
    for model in TARGETS:
        out[f"{model}, torch"] = partial(ours, model, "torch")
        out[f"{model}, auto"] = partial(ours, model, "auto")
        out[f"{model}, torchvision"] = partial(torchvision, model)
    return out


def rows(targets: dict[str, float]) -> tuple[Row, ...]:
    """Return two comparisons for each network: ``--engine auto``, which has the target, and the default engine."""
    out = []
    for model, target in targets.items():
        peer = f"{model}: torchvision, eval mode, no gradients"
        out.append(Row(f"{peer}; ours --engine auto", f"{model}, torchvision", Bound(target), ours=f"{model}, auto"))
        out.append(Row(f"{peer}; ours --engine torch", f"{model}, torchvision", None, ours=f"{model}, torch"))
    return tuple(out)


CASE = Case(
    name="inference",
    unit="images/s",
    spec={"batch": 16},
    sides=sides(),
    rows=rows(TARGETS),
    note="224×224, the same weights and the same batch on all sides, each with its own default threads; median of "
    "runs within 6 s",
    timeout=600,
)
