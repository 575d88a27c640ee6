"""A neighbor: the same training alone, and beside another program that keeps one of the cores busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.process import Measure

DEFAULT = {"GOMP_SPINCOUNT": "300000"}  # libgomp's own, where nothing is said
SETTINGS = ("train.validate=false", "train.checkpoint_seconds=0", "train.log_every=50")
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10_000))"
TRAINING = """
import sys
from layerwise.runtime.waiting import wait_briefly
wait_briefly()
from layerwise.bench.training import request, trained
with trained(request("mlp", {"data": sys.argv[1], "epochs": 1, "seed": int(sys.argv[2])}, sys.argv[3:])) as done:
    print(1000 / done.steps_per_second)
"""


@contextmanager
def busy() -> Iterator[None]:
    """Keep one of the cores busy meanwhile, and not a moment longer than this process lives."""
    with subprocess.Popen([sys.executable, "-c", LOOP], preexec_fn=_on_one_core) as process:
        try:
            yield
        finally:
            process.kill()


def _on_one_core() -> None:
    """Stay on one core, in a process that has just begun."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def training(spec: Spec, *, given: Mapping[str, str], beside: bool) -> Measure:
    """Train ``mlp`` as the command does, in a process of its own, and return milliseconds a step."""
    from layerwise.runtime.waiting import ASKED

    environment = {name: value for name, value in os.environ.items() if name not in ASKED} | dict(given)
    command = [sys.executable, "-c", TRAINING, spec["data"], str(spec["seed"]), *SETTINGS]
    with busy() if beside else nullcontext():
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Measure(float(done.stdout.split()[-1]))


CASE = Case(
    name="neighbor",
    unit="ms/step",
    spec={"data": "fashion-mnist"},
    sides={
        "beside": partial(training, given={}, beside=True),
        "alone": partial(training, given={}, beside=False),
        "default beside": partial(training, given=DEFAULT, beside=True),
        "default alone": partial(training, given=DEFAULT, beside=False),
    },
    rows=(
        Row("libgomp's default, beside a busy neighbor", "default beside", Bound(0.6, "at most"), ours="beside"),
        Row("libgomp's default, alone", "default alone", Bound(1.05, "at most"), ours="alone"),
    ),
    least=5,
    note="mlp on Fashion-MNIST, one epoch, all cores; the neighbor is a loop in another process that stays on "
    "one of the cores",
)
