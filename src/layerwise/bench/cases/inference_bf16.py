"""Images a second in bfloat16, batch 16, where the processor has units for it: our network beside torchvision's in
float32."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.cases.inference import measure_torchvision
from layerwise.bench.side import Measurement

TARGETS = {"resnet50": 4.5, "vgg16": 3.2}


def get_skip_reason() -> str:
    """Return why this machine cannot run the case: no units for bfloat16."""
    import torch

    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return ""
    return (
        f"this processor ({torch.backends.cpu.get_cpu_capability()}) has no bfloat16 units, so bfloat16 would be "
        "slower than float32"
    )


def measure_ours(model: str, spec: Spec) -> Measurement:
    """Run our network with weights and images in bfloat16, and measure how often its first prediction is float32's."""
    import torch

    from layerwise.bench import images
    from layerwise.inference.engines.native import TorchEngine
    from layerwise.runtime import compute_settings

    spec = {**spec, "model": model}
    with compute_settings.use_settings(compute_settings.inference_settings()), torch.inference_mode():
        network, x = images.build_ours(spec), images.make_images(spec)
        expected = network(x).argmax(1)
        engine, halved = TorchEngine(network).bfloat16(), x.bfloat16()
        agreement = float((engine(halved).float().argmax(1) == expected).double().mean())
        return Measurement(
            images.measure_speed(lambda: engine(halved), spec),
            {"agreement": agreement},
            {"threads": torch.get_num_threads()},
        )


def measure_torchvision_float32(model: str, spec: Spec) -> Measurement:
    """Run torchvision's network in float32, which agrees with itself."""
    measurement = measure_torchvision(model, spec)
    return Measurement(measurement.value, {"agreement": 1.0}, measurement.facts)


CASE = Case(
    name="inference-bf16",
    unit="images/s",
    spec={"batch": 16},
    sides={
        f"{m}, {side}": partial(run, m)
        for m in TARGETS
        for side, run in (("ours", measure_ours), ("torchvision", measure_torchvision_float32))
    },
    rows=tuple(
        Row(f"{m}: torchvision, float32", f"{m}, torchvision", Bound(target), ours=f"{m}, ours")
        for m, target in TARGETS.items()
    ),
    quality=(Quality("agreement", decides=False),),
    note="224×224; ours with weights and images in bfloat16; agreement: how often the most probable class is float32's",
    timeout=600,
    skip_reason=get_skip_reason,
)
