"""Networks on images of 224×224, ours and torchvision's with the same weights, timed on one batch made up
beforehand."""

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
from layerwise.bench.process import Measure
from layerwise.inference.export.base import Subject
from layerwise.runtime import rng
from layerwise.runtime.atomic_io import open_temporary_folder
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs

CLASSES = 1000
SECONDS, LEAST, WARM = 6.0, 3, 2  # of timing, runs at least, runs before
Spec = Mapping[str, Any]


def ours(spec: Spec) -> nn.Module:
    """Build the spec's network, with its ``arguments`` if there are any; drawn from the seed, the weights are every
    process's."""
    with rng.seeded(rng.key(spec["seed"], "bench")):
        model: nn.Module = registry.builder(registry.find(spec["model"]))(outputs=CLASSES, **spec.get("arguments", {}))
    return model.eval()


def theirs(spec: Spec) -> nn.Module:
    """Build torchvision's network with the same weights; its names of parameters are ours."""
    model: nn.Module = getattr(torchvision_models(), spec["model"])(num_classes=CLASSES)
    model.load_state_dict(ours(spec).state_dict())
    return model.eval()


def torchvision_models() -> Any:
    """Import torchvision's networks. Beside a torch without its compiled operators the package imports only if these
    have a name."""
    torchvision_operators()
    import torchvision.models

    return torchvision.models


@cache
def torchvision_operators() -> torch.library.Library:
    """Name the operators that torchvision asks for before it lets itself be imported, where its own do not load. They
    live as long as what is returned."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    if compiled_operators_load():
        return library
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    return library


def compiled_operators_load() -> bool:
    """Load torchvision's compiled operators, as its package does when it is imported; say whether that works beside
    this torch."""
    found = find_spec("torchvision")
    folder = Path(found.origin).parent if found and found.origin else Path()
    for library in folder.glob("_C*.so"):
        with suppress(OSError):
            torch.ops.load_library(str(library))
            return True
    return False


def subject(spec: Spec) -> Subject:
    """Return what an engine is made from."""
    inputs = ImageInputs((224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    task = Classification(inputs, tuple(str(i) for i in range(CLASSES)))
    model_spec = registry.find(spec["model"])
    arguments = {"outputs": CLASSES, **spec.get("arguments", {})}
    return Subject(model_spec, arguments, ours(spec), task, f"bench-{spec['model']}-{spec['seed']}")


def images(spec: Spec) -> Tensor:
    """Return the batch, (N, 3, 224, 224)."""
    return torch.randn(spec["batch"], 3, 224, 224, generator=torch.Generator().manual_seed(spec["seed"]))


def timed(run: Callable[[], Any], spec: Spec, *, wait: Callable[[], None] | None = None) -> float:
    """Return images a second: the batch over the median time of a run. ``wait`` is for devices that work on by
    themselves."""
    taken: list[float] = []
    for _ in range(WARM):
        run()
    began = time.perf_counter()
    while len(taken) < LEAST or time.perf_counter() - began < SECONDS:
        if wait:
            wait()
        start = time.perf_counter()
        run()
        if wait:
            wait()
        taken.append(time.perf_counter() - start)
    return float(spec["batch"] / median(taken))


def shown(outputs: Tensor) -> dict[str, Any]:
    """Return the first outputs, so that a reader of the results sees that both sides computed the same, and the
    threads."""
    return {
        "outputs": [round(value, 4) for value in outputs.flatten()[:3].tolist()],
        "threads": torch.get_num_threads(),
    }


def eager(spec: Spec) -> Measure:
    """torchvision as its documentation shows: ``model.eval()``, a batch as it comes, no gradients."""
    model, x = theirs(spec), images(spec)
    with torch.no_grad():
        return Measure(timed(lambda: model(x), spec), facts=shown(model(x)))


def engine(name: str, spec: Spec) -> Measure:
    """Our engine of this name, with the flags that ``layerwise predict`` sets."""
    from layerwise.inference.engines import choice
    from layerwise.runtime import compute_settings

    with (
        open_temporary_folder() as folder,
        compute_settings.applied(compute_settings.answering()),
        torch.inference_mode(),
    ):
        runner, x = choice.make(subject(spec), name, folder), images(spec)
        out = runner(x)
        return Measure(timed(lambda: runner(x), spec), facts={**shown(out), "engine": dict(runner.told())})


def direct(name: str, spec: Spec) -> Measure:
    """onnxruntime or OpenVINO called directly on the exported graph, as their documentations show, with as many
    threads."""
    from layerwise.inference.engines import graphs
    from layerwise.runtime import machine

    x = images(spec)
    with open_temporary_folder() as folder:
        path = graphs.graph_of(subject(spec), folder)
        if name == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = machine.cores()
            session = onnxruntime.InferenceSession(str(path), options)
            return Measure(timed(lambda: session.run(["logits"], {"input": x.numpy()}), spec))
        import openvino

        model = openvino.Core().read_model(path)
        model.reshape(list(x.shape))
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": machine.cores()})
        return Measure(timed(lambda: compiled(x.numpy()), spec))
