"""A neighbor: the same training alone, and beside another program that keeps one of the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.side import Measurement

DEFAULT = {"GOMP_SPINCOUNT": "300000"}  # libgomp's default
SETTINGS = ("train.validate=false", "train.checkpoint_seconds=0", "train.log_every=50")
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10_000))"
TRAINING = """
import sys
from layerwise.runtime.openmp import limit_spinning
limit_spinning()
from layerwise.bench.training import make_request, train_run
with train_run(make_request("mlp", {"data": sys.argv[1], "epochs": 1, "seed": int(sys.argv[2])}, sys.argv[3:])) as run:
    print(1000 / run.steps_per_second)
"""


@contextmanager
def occupy_core() -> Iterator[None]:
    """Keep one of the cores busy inside, at most as long as this process lives."""
    with subprocess.Popen([sys.executable, "-c", LOOP], preexec_fn=_pin_to_one_core) as process:
        try:
            yield
        finally:
            process.kill()


def _pin_to_one_core() -> None:
    """Pin a new process to one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measure_training(spec: Spec, *, variables: Mapping[str, str], busy: bool) -> Measurement:
    """Train ``mlp`` as the command does, in a process of its own, and return milliseconds a step."""
    from layerwise.runtime.openmp import SPIN_VARIABLES

    environment = {name: value for name, value in os.environ.items() if name not in SPIN_VARIABLES} | dict(variables)
    command = [sys.executable, "-c", TRAINING, spec["data"], str(spec["seed"]), *SETTINGS]
    with occupy_core() if busy else nullcontext():
        process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Measurement(float(process.stdout.split()[-1]))


CASE = Case(
    name="noisy-neighbor",
    unit="ms/step",
    spec={"data": "fashion-mnist"},
    sides={
        "beside": partial(measure_training, variables={}, busy=True),
        "alone": partial(measure_training, variables={}, busy=False),
        "default beside": partial(measure_training, variables=DEFAULT, busy=True),
        "default alone": partial(measure_training, variables=DEFAULT, busy=False),
    },
    rows=(
        Row("libgomp's default, beside a busy neighbor", "default beside", Bound(0.6, "at most"), ours="beside"),
        Row("libgomp's default, alone", "default alone", Bound(1.05, "at most"), ours="alone"),
    ),
    min_runs=5,
    note="mlp on Fashion-MNIST, one epoch, all cores; the neighbor is a loop in another process that stays on "
    "one of the cores",
)
