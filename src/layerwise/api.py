"""The Python side of the contract: build, train, open, `Run` with ``predictor()``; word vectors as files and layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from layerwise import recipe, registry
from layerwise.inference.engines.base import choose_device
from layerwise.inference.predict import Predictor, load_run
from layerwise.planning.resolve import Request
from layerwise.planning.transfer import find_head
from layerwise.registry import ModelSpec, find, list_models
from layerwise.run_directory import RunDirectory
from layerwise.text_display import escape_control
from layerwise.training import run_training
from layerwise.training.meters import get_final_metrics
from layerwise.weights.embedding_layer import embedding
from layerwise.weights.loading import load_weights
from layerwise.weights.vector_files import read_vectors, write_vectors
from layerwise.weights.vectors import VectorTable

__all__ = [
    "ModelSpec",
    "Run",
    "VectorTable",
    "build",
    "embedding",
    "find",
    "list_models",
    "open",
    "read_vectors",
    "train",
    "write_vectors",
]


@dataclass(frozen=True)
class Run:
    """A run directory: a training run: its recipe, metrics and predictor."""

    path: Path

    @property
    def info(self) -> dict[str, Any]:
        """What run.json says. Raises `DamagedError` if it is not as written."""
        return RunDirectory(self.path).info()

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics by name (``test/accuracy``), NaN for one that is not finite or not defined; empty until the
        run is finished."""
        return get_final_metrics(self.info)

    @property
    def recipe(self) -> recipe.Recipe:
        """The resolved recipe."""
        return recipe.from_toml(RunDirectory(self.path).read("recipe.toml"), str(self.path / "recipe.toml"))

    def predictor(self, *, engine: str = "torch", device: str = "auto") -> Predictor:
        """Return what turns raw inputs (paths, images, arrays, rows) into predictions, with the best weights.

        ``engine``: torch, compiled, onnxruntime, openvino, or auto, the fastest of them here. ``device``: cpu, cuda, or
        auto, the first of cuda and cpu that is here and that the engine knows. Raises what `choose_device` and
        `LoadedRun.make_engine` do.
        """
        loaded = load_run(self.path, choose_device(engine, device))
        return Predictor(loaded.make_engine(engine), loaded.task)

    def export(self, path: str | Path, *, fold: bool = False, overwrite: bool = False) -> dict[str, Any]:
        """Write the best weights' network to an ``.onnx``, ``.pt2`` or ``.safetensors`` file and return what the JSON
        file beside it says.

        Raises `UsageError` and `ExportError` as `layerwise.inference.export.files.export` does.
        """
        from layerwise.inference.export.files import export

        return export(load_run(self.path).export_source, Path(path), fold=fold, overwrite=overwrite).facts

    def model(self) -> nn.Module:
        """Return the network with the best weights, in evaluation mode."""
        return load_run(self.path).model


def build(name: str, *, weights: str | Path | None = None, **arguments: Any) -> nn.Module:
    """Build a network by its name; ``arguments`` are those of its builder.

    ``classes`` and ``outputs`` mean the same: whichever name the builder has. ``weights`` is a run or a file
    (``.safetensors``, ``.pth``, ``.pt``, ``.th``). If only the head has another width, the rest is loaded, the head
    keeps its fresh weights, and the logger ``layerwise`` warns.

    Raises `UsageError` for unknown names and arguments, and for weights that do not fit; nothing is loaded then.
    """
    spec = registry.find(name)
    builder = registry.get_builder(spec)
    names = recipe.get_parameter_names(builder)
    for alias, name_of_builder in (("classes", "outputs"), ("outputs", "classes")):
        if alias in arguments and alias not in names and name_of_builder in names:
            arguments = {name_of_builder: arguments.pop(alias), **arguments}
    resolved = recipe.resolve_arguments(builder, arguments, {}, f"the builder of {spec.name}")
    model: nn.Module = builder(**resolved)
    if weights is not None:
        loaded = load_weights(model, Path(weights), head=find_head(builder, resolved))
        if loaded.fresh:
            logging.getLogger("layerwise").warning("%s", escape_control(loaded.note))
    return model


def train(
    model: str,
    *,
    data: str | Path | None = None,
    task: str | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    weights: str | Path | None = None,
    transfer: bool = False,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    quiet: bool = True,
) -> Run:
    """Train a network by its name (or a recipe file) and return its run. ``options`` are ``--set`` keys with their
    values.

    Raises `LayerwiseError` kinds as the command does.
    """
    settings = tuple(f"{key}={recipe.format_toml_value(value)}" for key, value in (options or {}).items())
    request = Request(
        model=str(model),
        data=None if data is None else str(data),
        task=task,
        out=None if out is None else Path(out),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile,
        weights=None if weights is None else str(weights),
        transfer=transfer,
        resume=resume,
        settings=settings,
    )
    return Run(run_training.train(request, quiet=quiet).directory.path)


def open(path: str | Path) -> Run:
    """Open a run directory. Raises `UsageError` if there is none and `DamagedError` if run.json is not as written."""
    directory = RunDirectory.open(Path(path))
    directory.info()
    return Run(directory.path)
