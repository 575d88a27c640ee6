"""Images a second in bfloat16, batch 16, where the processor has units for it: our network beside torchvision's in
float32."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.cases.inference import torchvision
from layerwise.bench.process import Measure

TARGETS = {"resnet50": 4.5, "vgg16": 3.2}


def lacking() -> str:
    """Say that this processor has no units for bfloat16."""
    import torch

    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return ""
    return (
        f"this processor ({torch.backends.cpu.get_cpu_capability()}) has no bfloat16 units, so bfloat16 would be "
        "slower than float32"
    )


def ours(model: str, spec: Spec) -> Measure:
    """Run our network with weights and images in bfloat16, and count how often its first answer is float32's."""
    import torch

    from layerwise.bench import images
    from layerwise.inference.engines.native import Torch
    from layerwise.runtime import compute_settings

    spec = {**spec, "model": model}
    with compute_settings.applied(compute_settings.answering()), torch.inference_mode():
        network, x = images.ours(spec), images.images(spec)
        wanted = network(x).argmax(1)
        engine, halved = Torch(network).bfloat16(), x.bfloat16()
        agreed = float((engine(halved).float().argmax(1) == wanted).double().mean())
        return Measure(
            images.timed(lambda: engine(halved), spec), {"agreement": agreed}, {"threads": torch.get_num_threads()}
        )


def theirs(model: str, spec: Spec) -> Measure:
    """Run torchvision's network in float32, which agrees with itself."""
    found = torchvision(model, spec)
    return Measure(found.value, {"agreement": 1.0}, found.facts)


CASE = Case(
    name="inference-bf16",
    unit="images/s",
    spec={"batch": 16},
    sides={f"{m}, {side}": partial(run, m) for m in TARGETS for side, run in (("ours", ours), ("torchvision", theirs))},
    rows=tuple(
        Row(f"{m}: torchvision, float32", f"{m}, torchvision", Bound(target), ours=f"{m}, ours")
        for m, target in TARGETS.items()
    ),
    quality=(Quality("agreement", judged=False),),
    note="224×224; ours with weights and images in bfloat16; agreement: how often the most probable class is float32's",
    timeout=600,
    lacking=lacking,
)
