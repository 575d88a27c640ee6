"""``--engine auto`` beside onnxruntime and OpenVINO called directly on the same graph, float32, batch 16."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row, Side, Spec
from layerwise.bench.cases.inference import TARGETS, measure_ours
from layerwise.bench.side import Measurement

RUNTIMES = ("onnxruntime", "openvino")


def measure_runtime(model: str, runtime: str, spec: Spec) -> Measurement:
    """Call a runtime directly."""
    from layerwise.bench import images

    return images.measure_runtime(runtime, {**spec, "model": model})


def build_sides() -> dict[str, Side]:
    """Return ours and each runtime for each network."""
    sides: dict[str, Side] = {}
    for model in TARGETS:
        sides[f"{model}, auto"] = partial(measure_ours, model, "auto")
        sides |= {f"{model}, {runtime}": partial(measure_runtime, model, runtime) for runtime in RUNTIMES}
    return sides


CASE = Case(
    name="engines",
    unit="images/s",
    spec={"batch": 16},
    sides=build_sides(),
    rows=tuple(
        Row(f"{model}: {runtime} called directly", f"{model}, {runtime}", Bound(0.95), ours=f"{model}, auto")
        for model in TARGETS
        for runtime in RUNTIMES
    ),
    note="224×224, batch 16; the direct calls have the graph compiled for this batch size and as many threads as "
    "there are cores; the "
    "target holds against the better of the two",
    timeout=600,
)
