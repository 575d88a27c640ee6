"""What is known of a run's engines on this machine, for ``doctor``: nothing is loaded, exported or measured for it."""

from __future__ import annotations

import torch

from layerwise.inference.engines import graphs
from layerwise.inference.engines.base import piece_of
from layerwise.inference.engines.choice import Choice, known
from layerwise.run_directory import RunDirectory, read_state
from layerwise.tasks import registry


def engines_of(directory: RunDirectory) -> list[Choice]:
    """Return the choices that ``--engine auto`` made for a run's best weights; none where it was never asked for."""
    folder = directory.path / "checkpoints" / "best"
    if not folder.is_dir():
        return []
    model = directory.info()["model"]
    task = registry.from_json(directory.task(), directory.path / "task.json")
    weights = read_state(folder, root=directory.path)["files"]["model.safetensors"]
    graph = graphs.key_of(spec=str(model["name"]), arguments=model["arguments"], task=task.to_json(), weights=weights)
    shape = task.inputs.probe(1, torch.Generator()).shape[1:]
    return known(graph, sorted({1, piece_of(tuple(shape))}))
