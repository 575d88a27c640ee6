"""``--engine auto`` beside onnxruntime and OpenVINO called directly on the same graph, float32, batch 16."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row, Side, Spec
from layerwise.bench.cases.inference import TARGETS, ours
from layerwise.bench.process import Measure

RUNTIMES = ("onnxruntime", "openvino")


def direct(model: str, runtime: str, spec: Spec) -> Measure:
    """Call a runtime directly."""
    from layerwise.bench import images

    return images.direct(runtime, {**spec, "model": model})


def sides() -> dict[str, Side]:
    """Return ours and each runtime for each network."""
    out: dict[str, Side] = {}
    for model in TARGETS:
        out[f"{model}, auto"] = partial(ours, model, "auto")
        out |= {f"{model}, {runtime}": partial(direct, model, runtime) for runtime in RUNTIMES}
    return out


CASE = Case(
    name="engines",
    unit="images/s",
    spec={"batch": 16},
    sides=sides(),
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
