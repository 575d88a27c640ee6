"""``auto``: time each engine once for a graph, a class of batch sizes and a machine; save and report the choice."""

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

from layerwise.errors import LayerwiseError, make_unknown_name_error
from layerwise.inference.engines import exported_graphs
from layerwise.inference.engines.base import NAMES, Engine, compute_chunk_size, verify_engine
from layerwise.inference.engines.native import CompiledEngine, TorchEngine
from layerwise.inference.engines.runtimes import RUNTIMES
from layerwise.inference.export.base import ExportSource, get_dtype
from layerwise.run_directory import RunDirectory, read_state
from layerwise.run_records import Text, read_bounded
from layerwise.runtime import machine, resources
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.checksums import digest, dump_checksummed, load_checksummed
from layerwise.tasks.registry import load_task

ROUNDS, SECONDS = 5, 10.0  # at most so many rounds, at least two; a slow network stops after so many seconds
MARGIN = 1.03  # a runtime must be so many times as fast as torch: torch is the network itself


EngineName = Annotated[str, msgspec.Meta(pattern="^(torch|compiled|onnxruntime|openvino)$")]  # those to choose from
Speed = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class EngineChoice(msgspec.Struct, frozen=True):
    """The measurements for a batch size: examples per second of each engine, the chosen engine, and why others were
    left out."""

    batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
    chosen: EngineName
    speeds: dict[EngineName, Speed]
    left_out: dict[EngineName, Text]
    threads: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]

    def format_line(self, lang: Literal["en", "zh"] = "en") -> str:
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
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


class AutoEngine(Engine):
    """The fastest engine for each class of batch sizes: one example, and more."""

    name = "auto"

    def __init__(self, source: ExportSource, run: Path) -> None:
        super().__init__()
        self.export_source, self.run_path = source, run
        self.engines: dict[str, Engine] = {}
        self.choices: dict[int, EngineChoice] = {}

    def run(self, x: Tensor) -> Tensor:
        """Run the engine chosen for this batch size."""
        size = 1 if len(x) == 1 else compute_chunk_size(tuple(x.shape[1:]))
        if size not in self.choices:
            self.choices[size] = self._choose(size)
        outputs: Tensor = self._get_engine(self.choices[size].chosen).run(x)
        return outputs

    def describe(self) -> Mapping[str, Any]:
        """Return the name, and the choices made."""
        return {"name": self.name, "choices": [choice.to_json() for choice in self.choices.values()]}

    def notes(self) -> list[str]:
        """Return a line for each choice."""
        return [choice.format_line() for choice in self.choices.values()]

    def _get_engine(self, name: str) -> Engine:
        """Return an engine of this name, checked against the network when it is made."""
        if name not in self.engines:
            self.engines[name] = make_engine(self.export_source, name, self.run_path)
        return self.engines[name]

    def _choose(self, size: int) -> EngineChoice:
        """Return the saved choice for this size, or measure."""
        path = get_choice_path(exported_graphs.get_key(self.export_source), size, torch.get_num_threads())
        known = read_choice(path)
        if known is not None:
            return known
        engines: dict[str, Engine] = {}
        left_out: dict[str, str] = {}
        for name in ("torch", *RUNTIMES, "compiled"):
            # compiling takes up to a minute in each process: only where no runtime is installed
            if name == "compiled" and len(engines) > 1:
                continue
            try:
                engines[name] = self._get_engine(name)
            except LayerwiseError as error:
                left_out[name] = error.what
        choice = measure_engines(engines, self.export_source, size, left_out)
        save_choice(path, choice)
        return choice


def make_engine(source: ExportSource, name: str, run: Path) -> Engine:
    """Make an engine and, unless it is torch, check it against the network.

    Raises `UsageError` for an unknown name, a missing extra or a network that is no fixed graph, `DamagedError` where
    the outputs differ.
    """
    if name == "auto" and is_on_cpu(source.model):
        return AutoEngine(source, run)
    if name in ("torch", "auto"):  # the runtimes run on the CPU only
        return TorchEngine(source.prediction_model)
    if name == "compiled":
        return CompiledEngine(source.prediction_model)
    if name not in RUNTIMES:
        raise make_unknown_name_error("engine", name, NAMES)
    engine = RUNTIMES[name](exported_graphs.find_or_export_graph(source, run))
    verify_engine(engine, source)
    return engine


def is_on_cpu(model: nn.Module) -> bool:
    """Whether a network is in the CPU's memory."""
    return all(tensor.device.type == "cpu" for tensor in model.state_dict().values())


def measure_engines(
    engines: Mapping[str, Engine], source: ExportSource, size: int, left_out: dict[str, str]
) -> EngineChoice:
    """Time engines in turn on a batch of made-up inputs and choose. The medians decide; torch stays unless another is
    clearly faster."""
    x = source.task.inputs.probe(size, torch.Generator().manual_seed(0)).to(get_dtype(source.model))
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    with torch.inference_mode():
        for engine in engines.values():  # the first time costs more
            engine.run(x)
        start = time.perf_counter()
        for repeat in range(ROUNDS):
            if repeat >= 2 and time.perf_counter() - start > SECONDS:
                break
            for name, engine in list(engines.items())[:: 1 if repeat % 2 == 0 else -1]:
                seconds[name].append(_time_run(engine, x))
    speeds = {name: float(f"{size / median(times):.6g}") for name, times in seconds.items()}
    return EngineChoice(size, choose_engine(speeds), speeds, left_out, torch.get_num_threads())


def choose_engine(speeds: Mapping[str, float]) -> str:
    """Return the engine to take: the fastest, but torch unless that is faster by the margin."""
    fastest = max(speeds, key=lambda name: speeds[name])
    return fastest if speeds[fastest] > MARGIN * speeds["torch"] else "torch"


def _time_run(engine: Engine, x: Tensor) -> float:
    """Return the seconds of one run; of fast ones the mean of several."""
    start, count = time.perf_counter(), 0
    while count == 0 or (time.perf_counter() - start < 0.01 and count < 100):
        engine.run(x)
        count += 1
    return (time.perf_counter() - start) / count


def get_choice_path(graph: str, size: int, threads: int) -> Path:
    """Return the file of the choice for a graph and batch size on this machine with these versions: one file a choice,
    so that processes that measure at the same time do not overwrite each other's."""
    versions = []
    for name in ("torch", *RUNTIMES):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    key = (
        machine.get_cpu_model(),
        torch.backends.cpu.get_cpu_capability(),
        resources.count_cores(),
        threads,
        size,
        TorchEngine.method,
    )
    return exported_graphs.get_cache_folder() / f"{graph}-{digest(repr((key, versions)).encode())[:16]}.json"


def read_choice(path: Path) -> EngineChoice | None:
    """Return the choice saved in a file; None if there is none, or it is damaged or foreign."""
    try:
        choice = msgspec.convert(
            load_checksummed(read_bounded(path, root=path.parents[1]), path)["choice"], EngineChoice
        )
    except (OSError, LayerwiseError, KeyError, msgspec.ValidationError):
        return None
    return choice if choice.chosen in choice.speeds else None


def save_choice(path: Path, choice: EngineChoice) -> None:
    """Save a choice; a cache folder that cannot be written is no error."""
    with suppress(OSError, LayerwiseError):
        make_folder(path.parent, root=path.parents[1])
        write_file(path, dump_checksummed({"choice": choice.to_json()}), root=path.parents[1])


def find_choices(graph: str, sizes: Sequence[int]) -> list[EngineChoice]:
    """Return the choices saved for a graph on this machine."""
    paths = (
        get_choice_path(graph, size, threads) for size in sizes for threads in range(1, resources.count_cores() + 1)
    )
    return [choice for path in paths if (choice := read_choice(path)) is not None]


def find_run_choices(directory: RunDirectory) -> list[EngineChoice]:
    """Return the choices that ``--engine auto`` made for a run's best weights; none where it was never used.

    Nothing is loaded, exported or measured.
    """
    folder = directory.path / "checkpoints" / "best"
    if not folder.is_dir():
        return []
    model = directory.info()["model"]
    task = load_task(directory.read_task(), directory.path / "task.json")
    weights = read_state(folder, root=directory.path)["files"]["model.safetensors"]
    graph = exported_graphs.compute_key(
        spec=str(model["name"]), arguments=model["arguments"], task=task.to_json(), weights=weights
    )
    shape = task.inputs.probe(1, torch.Generator()).shape[1:]
    return find_choices(graph, sorted({1, compute_chunk_size(tuple(shape))}))
