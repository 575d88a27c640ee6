"""Our side of the training cases, timed by the product's own log; and the same examples for a peer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.data.loader import collated
from layerwise.data.source import Source
from layerwise.planning.resolve import Plan, Request, plan
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import open_temporary_folder
from layerwise.training.run_training import Outcome, train

Floats = NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A finished run and the speed of its training: examples and steps a second between the first and the last line of
    its log."""

    outcome: Outcome
    examples_per_second: float
    steps_per_second: float

    @property
    def facts(self) -> dict[str, Any]:
        """The flags the run was made with, and how many examples it learned from."""
        info = self.outcome.info
        return {"flags": info["flags"], "examples": info["examples"]["train"]}


class Given(NamedTuple):
    """The examples as arrays, the same that our side trains on: inputs (N, D) in [0, 1], labels (N,) or None."""

    inputs: Floats
    labels: NDArray[np.int64] | None
    test_inputs: Floats
    test_labels: NDArray[np.int64] | None


@contextmanager
def trained(request: Request) -> Iterator[Trained]:
    """Train as ``layerwise train`` does, in a folder that is gone afterwards.

    The time is that of ``metrics.jsonl``: from its first line (decoding, compiling and first touch lie before it) to
    its last, so logging is in it, and every epoch's checkpoints and validation but what follows the last line.
    """
    with open_temporary_folder() as folder:
        path = folder / "run"
        outcome = train(Request(**{**_fields(request), "out": path}), quiet=True)
        first, *_, last = (strict_json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
        seconds = last["seconds"] - first["seconds"]
        yield Trained(
            outcome, (last["examples"] - first["examples"]) / seconds, (last["step"] - first["step"]) / seconds
        )


def _fields(request: Request) -> dict[str, Any]:
    """Return a request's fields."""
    return {name: getattr(request, name) for name in request.__struct_fields__}


def request(model: str, spec: dict[str, Any], settings: Sequence[str]) -> Request:
    """Return the request for a model on the spec's data, epochs and seed."""
    return Request(model=model, data=spec["data"], epochs=spec["epochs"], seed=spec["seed"], settings=tuple(settings))


def given(wanted: Request, *, dtype: str = "float32") -> Given:
    """Return the training and test examples of a request as flat arrays of a floating type."""
    made = plan(wanted)
    train_inputs, train_labels = arrays(made, made.splits.train, dtype)
    test_inputs, test_labels = arrays(made, made.splits.test, dtype)
    return Given(train_inputs, train_labels, test_inputs, test_labels)


def arrays(made: Plan, source: Source, dtype: str) -> tuple[Floats, NDArray[np.int64] | None]:
    """Collate a part as our own side does and hand it out as NumPy arrays."""
    batch = collated(source, made.task.collate, threads=1)
    return batch.inputs.flatten(1).numpy().astype(dtype), None if batch.targets is None else batch.targets.numpy()
