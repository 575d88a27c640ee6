"""``auto``: each engine is timed once for a graph, a class of batch sizes and a machine; the choice is kept and
told."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from layerwise.errors import LayerwiseError, unknown
from layerwise.inference.engines import graphs
from layerwise.inference.engines.base import NAMES, Engine, piece_of, verify
from layerwise.inference.engines.native import Compiled, Torch
from layerwise.inference.engines.runtimes import RUNTIMES
from layerwise.inference.export.base import Subject, dtype_of
from layerwise.run_records import Text, read_bounded
from layerwise.runtime import machine
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.checksums import digest, sealed, unsealed

ROUNDS, SECONDS = 5, 10.0  # at most so many alternations, at least two, stopping early where the network is slow
MARGIN = 1.03  # a runtime must be so many times as fast as torch, else torch stays: it is the network itself


Measured = Annotated[
    str, msgspec.Meta(pattern="^(torch|compiled|onnxruntime|openvino)$")
]  # the engines that a choice is among
Speed = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class Choice(msgspec.Struct, frozen=True):
    """What was measured for a batch size: examples a second of each engine, what was chosen, and why others were not
    tried."""

    batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
    chosen: Measured
    speeds: dict[Measured, Speed]
    left_out: dict[Measured, Text]
    threads: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]

    def line(self, lang: Literal["en", "zh"] = "en") -> str:
        """Return the choice in one line, in English or Chinese."""
        order = sorted(self.speeds, key=lambda name: -self.speeds[name])
        if lang == "zh":
            speeds = "，".join(f"{name} 每秒 {self.speeds[name]:,.1f} 个" for name in order)
            out = "".join(f"；未试 {name}：{why}" for name, why in self.left_out.items())
            return f"批量 {self.batch} 用引擎 {self.chosen}（{self.threads} 线程实测：{speeds}{out}）"
        speeds = ", ".join(f"{name} {self.speeds[name]:,.1f}/s" for name in order)
        out = "".join(f"; {name} left out: {why}" for name, why in self.left_out.items())
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"engine {self.chosen} for batches of {self.batch} (measured on {threads}: {speeds}{out})"

    def to_json(self) -> dict[str, Any]:
        """Return every field."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class Auto(Engine):
    """The fastest engine for each class of batch sizes: one example, and more."""

    name = "auto"

    def __init__(self, subject: Subject, run: Path) -> None:
        super().__init__()
        self.subject, self.place = subject, run
        self.made: dict[str, Engine] = {}
        self.choices: dict[int, Choice] = {}

    def run(self, x: Tensor) -> Tensor:
        """Run the engine chosen for this batch size."""
        size = 1 if len(x) == 1 else piece_of(tuple(x.shape[1:]))
        if size not in self.choices:
            self.choices[size] = self._choice(size)
        outputs: Tensor = self._engine(self.choices[size].chosen).run(x)
        return outputs

    def told(self) -> Mapping[str, Any]:
        """Return the name, and the choices made."""
        return {"name": self.name, "choices": [choice.to_json() for choice in self.choices.values()]}

    def notes(self) -> list[str]:
        """Return a line for each choice."""
        return [choice.line() for choice in self.choices.values()]

    def _engine(self, name: str) -> Engine:
        """Return an engine of this name, checked against the network when it is made."""
        if name not in self.made:
            self.made[name] = make(self.subject, name, self.place)
        return self.made[name]

    def _choice(self, size: int) -> Choice:
        """Return the choice that is known for this size, or measure."""
        place = file_of(graphs.key(self.subject), size, torch.get_num_threads())
        known = read(place)
        if known is not None:
            return known
        engines: dict[str, Engine] = {}
        out: dict[str, str] = {}
        for name in ("torch", *RUNTIMES, "compiled"):
            if (
                name == "compiled" and len(engines) > 1
            ):  # translating takes up to a minute in each process: only where no runtime is here
                continue
            try:
                engines[name] = self._engine(name)
            except LayerwiseError as error:
                out[name] = error.what
        found = measured(engines, self.subject, size, out)
        store(place, found)
        return found


def make(subject: Subject, name: str, run: Path) -> Engine:
    """Make an engine and, unless torch runs it, check it against the network.

    Raises `UsageError` for an unknown name, a missing extra or a network that is no fixed graph, `DamagedError` where
    the outputs differ.
    """
    if name == "auto" and on_cpu(subject.model):
        return Auto(subject, run)
    if name in ("torch", "auto"):  # on another device the runtimes have nothing to say
        return Torch(subject.answering)
    if name == "compiled":
        return Compiled(subject.answering)
    if name not in RUNTIMES:
        raise unknown("engine", name, NAMES)
    engine = RUNTIMES[name](graphs.graph_of(subject, run))
    verify(engine, subject)
    return engine


def on_cpu(model: nn.Module) -> bool:
    """Whether a network lies in the CPU's memory."""
    return all(tensor.device.type == "cpu" for tensor in model.state_dict().values())


def measured(engines: Mapping[str, Engine], subject: Subject, size: int, out: dict[str, str]) -> Choice:
    """Time engines in turn on a batch of made-up inputs and choose. The medians decide; torch stays unless another is
    clearly faster."""
    x = subject.task.inputs.probe(size, torch.Generator().manual_seed(0)).to(dtype_of(subject.model))
    taken: dict[str, list[float]] = {name: [] for name in engines}
    with torch.inference_mode():
        for engine in engines.values():  # the first time costs more
            engine.run(x)
        began = time.perf_counter()
        for turn in range(ROUNDS):
            if turn >= 2 and time.perf_counter() - began > SECONDS:
                break
            for name, engine in list(engines.items())[:: 1 if turn % 2 == 0 else -1]:
                taken[name].append(_seconds(engine, x))
    speeds = {name: float(f"{size / median(times):.6g}") for name, times in taken.items()}
    return Choice(size, best(speeds), speeds, out, torch.get_num_threads())


def best(speeds: Mapping[str, float]) -> str:
    """Return the engine to take: the fastest, but torch unless that is faster by the margin."""
    fastest = max(speeds, key=lambda name: speeds[name])
    return fastest if speeds[fastest] > MARGIN * speeds["torch"] else "torch"


def _seconds(engine: Engine, x: Tensor) -> float:
    """Return the seconds of one run; of fast ones the mean of several."""
    began, count = time.perf_counter(), 0
    while count == 0 or (time.perf_counter() - began < 0.01 and count < 100):
        engine.run(x)
        count += 1
    return (time.perf_counter() - began) / count


def file_of(graph: str, size: int, threads: int) -> Path:
    """Return where the choice for a graph and batch size on this machine, with these versions, is kept: a file of its
    own, so that processes that measure at the same time do not lose one another's."""
    versions = []
    for name in ("torch", *RUNTIMES):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    where = (machine.cpu_model(), torch.backends.cpu.get_cpu_capability(), machine.cores(), threads, size, Torch.way)
    return graphs.users() / f"{graph}-{digest(repr((where, versions)).encode())[:16]}.json"


def read(path: Path) -> Choice | None:
    """Return the choice kept here; None where there is none, or it is damaged or foreign."""
    try:
        found = msgspec.convert(unsealed(read_bounded(path, root=path.parents[1]), path)["choice"], Choice)
    except (OSError, LayerwiseError, KeyError, msgspec.ValidationError):
        return None
    return found if found.chosen in found.speeds else None


def store(path: Path, choice: Choice) -> None:
    """Keep a choice; a home that cannot be written is no error."""
    with suppress(OSError, LayerwiseError):
        make_folder(path.parent, root=path.parents[1])
        write_file(path, sealed({"choice": choice.to_json()}), root=path.parents[1])


def known(graph: str, sizes: Sequence[int]) -> list[Choice]:
    """Return the choices kept for a graph on this machine."""
    places = (file_of(graph, size, threads) for size in sizes for threads in range(1, machine.cores() + 1))
    return [found for place in places if (found := read(place)) is not None]
