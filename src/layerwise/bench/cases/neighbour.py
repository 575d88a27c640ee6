"""A neighbour: the same training with a core to itself, and beside another program that keeps one of the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.process import Measure

DEFAULT = 300_000  # libgomp's, where nothing is said
SETTINGS = ("train.validate=false", "train.checkpoint_seconds=0", "train.log_every=50")
TRAINING = """
import sys
from layerwise.bench.training import request, trained
with trained(request("mlp", {"data": sys.argv[1], "epochs": 1, "seed": int(sys.argv[2])}, sys.argv[3:])) as done:
    print(1000 / done.steps_per_second)
"""


@contextmanager
def busy() -> Iterator[None]:
    """Keep one of the cores busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=_on_one_core) as process:
        try:
            yield
        finally:
            process.kill()


def _on_one_core() -> None:
    """Stay on one core, in a process that has just begun."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def training(spec: Spec, *, turns: int, beside: bool) -> Measure:
    """Train ``mlp`` in a process of its own, whose kernel threads spin so many turns, and return milliseconds a step."""
    from layerwise.runtime.waiting import ASKED, SPINS

    environment = {name: value for name, value in os.environ.items() if name not in ASKED} | {SPINS: str(turns)}
    command = [sys.executable, "-c", TRAINING, spec["data"], str(spec["seed"]), *SETTINGS]
    if not beside:
        return Measure(_told(command, environment))
    with busy():
        return Measure(_told(command, environment))


def _told(command: list[str], environment: dict[str, str]) -> float:
    """Return the number that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def ours(spec: Spec, *, beside: bool) -> Measure:
    """Train as the command does."""
    from layerwise.runtime.waiting import TURNS

    return training(spec, turns=TURNS, beside=beside)


CASE = Case(
    name="neighbour",
    unit="ms/step",
    spec={"data": "fashion-mnist"},
    sides={
        "beside": partial(ours, beside=True),
        "alone": partial(ours, beside=False),
        "default beside": partial(training, turns=DEFAULT, beside=True),
        "default alone": partial(training, turns=DEFAULT, beside=False),
    },
    rows=(
        Row("libgomp's default, beside a busy neighbour", "default beside", Bound(0.5, "at most"), ours="beside"),
        Row("libgomp's default, alone", "default alone", Bound(1.05, "at most"), ours="alone"),
    ),
    least=5,
    note="mlp on Fashion-MNIST, one epoch, all cores; the neighbour is a loop in another process that stays on one of the cores",
)
