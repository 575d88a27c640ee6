"""Our side of the training cases, timed by its own log, and the same examples for a peer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.data.loader import collate_source
from layerwise.data.source import Source
from layerwise.planning.resolve import Plan, Request, make_plan
from layerwise.runtime import strict_json
from layerwise.runtime.in_place_io import open_temporary_folder
from layerwise.training.run_training import TrainingResult, train

Floats = NDArray[Any]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run and the speed of its training: examples and steps a second between the first and the last line of
    its log."""

    outcome: TrainingResult
    examples_per_second: float
    steps_per_second: float

    @property
    def facts(self) -> dict[str, Any]:
        """The flags of the run, and its number of training examples."""
        info = self.outcome.info
        return {"flags": info["flags"], "examples": info["examples"]["train"]}


class ExampleArrays(NamedTuple):
    """The examples as arrays, the same that our side trains on: inputs (N, D) in [0, 1], labels (N,) or None."""

    inputs: Floats
    labels: NDArray[np.int64] | None
    test_inputs: Floats
    test_labels: NDArray[np.int64] | None


@contextmanager
def train_run(request: Request) -> Iterator[TrainedRun]:
    """Train as ``layerwise train`` does, in a temporary folder.

    The time is that of ``metrics.jsonl``: from its first line (decoding, compiling and first touch lie before it) to
    its last, so it includes logging and every epoch's checkpoints and validation, except what follows the last line.
    """
    with open_temporary_folder() as folder:
        path = folder / "run"
        outcome = train(Request(**{**_get_fields(request), "out": path}), quiet=True)
        first, *_, last = (strict_json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
        seconds = last["seconds"] - first["seconds"]
        yield TrainedRun(
            outcome, (last["examples"] - first["examples"]) / seconds, (last["step"] - first["step"]) / seconds
        )


def _get_fields(request: Request) -> dict[str, Any]:
    """Return a request's fields."""
    return {name: getattr(request, name) for name in request.__struct_fields__}


def make_request(model: str, spec: dict[str, Any], settings: Sequence[str]) -> Request:
    """Return the request for a model on the spec's data, epochs and seed."""
    return Request(model=model, data=spec["data"], epochs=spec["epochs"], seed=spec["seed"], settings=tuple(settings))


def load_arrays(request: Request, *, dtype: str = "float32") -> ExampleArrays:
    """Return the training and test examples of a request as flat arrays of a floating type."""
    plan = make_plan(request)
    train_inputs, train_labels = collate_arrays(plan, plan.splits.train, dtype)
    test_inputs, test_labels = collate_arrays(plan, plan.splits.test, dtype)
    return ExampleArrays(train_inputs, train_labels, test_inputs, test_labels)


def collate_arrays(plan: Plan, source: Source, dtype: str) -> tuple[Floats, NDArray[np.int64] | None]:
    """Collate a part as our own side does and return it as NumPy arrays."""
    batch = collate_source(source, plan.task.collate, threads=1)
    return batch.input_tensor.flatten(1).numpy().astype(
        dtype
    ), None if batch.targets is None else batch.target_tensor.numpy()
