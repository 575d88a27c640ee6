"""Networks on images of 224×224, ours and torchvision's with the same weights, timed on one random
batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from layerwise import registry
from layerwise.bench.side import Measurement
from layerwise.inference.export.base import ExportSource
from layerwise.runtime import rng
from layerwise.runtime.in_place_io import open_temporary_folder
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs

CLASSES = 1000
SECONDS, LEAST, WARM = 6.0, 3, 2  # of timing, runs at least, runs before
Spec = Mapping[str, Any]


def build_ours(spec: Spec) -> nn.Module:
    """Build the spec's network, with its ``arguments`` if there are any. The seed draws the weights, the same in every
    process."""
    with rng.use_seed(rng.derive_seed(spec["seed"], "bench")):
        model: nn.Module = registry.get_builder(registry.find(spec["model"]))(
            outputs=CLASSES, **spec.get("arguments", {})
        )
    return model.eval()


def build_torchvision(spec: Spec) -> nn.Module:
    """Build torchvision's network with the same weights; its parameters have the same names."""
    model: nn.Module = getattr(import_torchvision_models(), spec["model"])(num_classes=CLASSES)
    model.load_state_dict(build_ours(spec).state_dict())
    return model.eval()


def import_torchvision_models() -> Any:
    """Import torchvision's networks. If its compiled operators do not load with this torch, the import needs them
    declared."""
    declare_torchvision_operators()
    import torchvision.models

    return torchvision.models


@cache
def declare_torchvision_operators() -> torch.library.Library:
    """Declare the operators that torchvision's import needs, if its own do not load. They live as long as the returned
    library."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    if load_compiled_operators():
        return library
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    return library


def load_compiled_operators() -> bool:
    """Load torchvision's compiled operators, as its import does; return whether they load with this
    torch."""
    spec = find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for library in folder.glob("_C*.so"):
        with suppress(OSError):
            torch.ops.load_library(str(library))
            return True
    return False


def make_export_source(spec: Spec) -> ExportSource:
    """Return the export source of an engine."""
    inputs = ImageInputs((224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    task = Classification(inputs, tuple(str(i) for i in range(CLASSES)))
    model_spec = registry.find(spec["model"])
    arguments = {"outputs": CLASSES, **spec.get("arguments", {})}
    return ExportSource(model_spec, arguments, build_ours(spec), task, f"bench-{spec['model']}-{spec['seed']}")


def make_images(spec: Spec) -> Tensor:
    """Return the batch, (N, 3, 224, 224)."""
    return torch.randn(spec["batch"], 3, 224, 224, generator=torch.Generator().manual_seed(spec["seed"]))


def measure_speed(run: Callable[[], Any], spec: Spec, *, synchronize: Callable[[], None] | None = None) -> float:
    """Return images per second: the batch over the median time of a run. ``synchronize`` waits for asynchronous
    devices."""
    seconds: list[float] = []
    for _ in range(WARM):
        run()
    start = time.perf_counter()
    while len(seconds) < LEAST or time.perf_counter() - start < SECONDS:
        if synchronize:
            synchronize()
        run_start = time.perf_counter()
        run()
        if synchronize:
            synchronize()
        seconds.append(time.perf_counter() - run_start)
    return float(spec["batch"] / median(seconds))


def describe_outputs(outputs: Tensor) -> dict[str, Any]:
    """Return the first outputs, which show that both sides computed the same, and the
    threads."""
    return {
        "outputs": [round(value, 4) for value in outputs.flatten()[:3].tolist()],
        "threads": torch.get_num_threads(),
    }


def measure_eager(spec: Spec) -> Measurement:
    """Measure torchvision as its documentation shows: ``model.eval()``, one batch, no gradients."""
    model, x = build_torchvision(spec), make_images(spec)
    with torch.no_grad():
        return Measurement(measure_speed(lambda: model(x), spec), facts=describe_outputs(model(x)))


def measure_engine(name: str, spec: Spec) -> Measurement:
    """Measure our engine of this name, with the flags that ``layerwise predict`` sets."""
    from layerwise.inference.engines import engine_choice
    from layerwise.runtime import compute_settings

    with (
        open_temporary_folder() as folder,
        compute_settings.use_settings(compute_settings.inference_settings()),
        torch.inference_mode(),
    ):
        runner, x = engine_choice.make_engine(make_export_source(spec), name, folder), make_images(spec)
        out = runner(x)
        return Measurement(
            measure_speed(lambda: runner(x), spec), facts={**describe_outputs(out), "engine": dict(runner.describe())}
        )


def measure_runtime(name: str, spec: Spec) -> Measurement:
    """Measure onnxruntime or OpenVINO called directly on the exported graph, as their documentations show, with as many
    threads."""
    from layerwise.inference.engines import exported_graphs
    from layerwise.runtime import resources

    x = make_images(spec)
    with open_temporary_folder() as folder:
        path = exported_graphs.find_or_export_graph(make_export_source(spec), folder)
        if name == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = resources.count_cores()
            session = onnxruntime.InferenceSession(str(path), options)
            return Measurement(measure_speed(lambda: session.run(["logits"], {"input": x.numpy()}), spec))
        import openvino

        model = openvino.Core().read_model(path)
        model.reshape(list(x.shape))
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": resources.count_cores()})
        return Measurement(measure_speed(lambda: compiled(x.numpy()), spec))
