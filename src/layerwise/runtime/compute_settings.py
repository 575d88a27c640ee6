"""The compute settings of a run: device, threads, precision, determinism; set for its length and restored at its
end."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated

import msgspec
import psutil
import torch
from torch import nn

from layerwise.errors import TrainingError, UsageError
from layerwise.runtime import machine, resources

PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
DIRECT, WINOGRAD = "direct", "winograd"


class ComputeSettings(msgspec.Struct, frozen=True):
    """What was set for a run, as recorded in run.json and in each checkpoint.

    ``layout`` is the memory format of feature maps: ``contiguous`` (channel after channel) or ``channels_last``;
    ``convolution`` is how 3×3 ones are computed: ``direct`` (by torch) or by ``winograd`` (`nn.winograd_convolution`).
    Both are empty until the network is known. ``kernels`` names the kernel of each class of layers (`nn.kernel_choice`)
    that a choice was made for; all others are torch's."""

    device: Annotated[str, msgspec.Meta(max_length=64)]
    precision: Annotated[str, msgspec.Meta(pattern="^(fp32|bf16|fp16|fp64)$")]
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    workers: Annotated[int, msgspec.Meta(ge=0, le=256)]
    matmul: Annotated[str, msgspec.Meta(pattern="^(highest|high|medium)$")]
    deterministic: bool
    world: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1
    layout: Annotated[str, msgspec.Meta(pattern="^(contiguous|channels_last|)$")] = ""
    convolution: Annotated[str, msgspec.Meta(pattern="^(direct|winograd|)$")] = ""
    kernels: Annotated[dict[str, str], msgspec.Meta(max_length=4096)] = {}


def pick_device(wanted: str) -> torch.device:
    """Return the device: ``auto`` takes CUDA, then the CPU. Raises `UsageError` for one that is not here, and for
    MPS."""
    here = {"cpu": True, "cuda": torch.cuda.is_available()}
    if wanted == "auto":
        wanted = "cuda" if here["cuda"] else "cpu"
    kind = wanted.split(":")[0]
    if kind == "mps":
        raise UsageError(
            "device 'mps' has no float64, in which metrics are summed and changes of images are drawn",
            expected="auto, cpu or cuda",
            received=f"'{wanted}'",
            do="use --device cpu",
        )
    if not here.get(kind, False):
        present = ", ".join(name for name, is_here in here.items() if is_here)
        raise UsageError(f"device '{wanted}' is not here", expected=f"auto or one of {present}", received=f"'{wanted}'")
    try:
        return torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"device '{wanted}' is not a device's name", do="write cpu, cuda or cuda:1") from error


def resolve(
    *, device: str, precision: str, threads: int, workers: int, streams: bool, deterministic: bool, world: int
) -> ComputeSettings:
    """Choose what the user left open. Kernel threads and loader workers together never exceed the cores of this
    process.

    A third runnable thread on two cores makes two-thread kernels collapse, so a streaming run gives its worker a core.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is unknown", expected=f"one of {', '.join(PRECISIONS)}")
    chosen = pick_device(device)
    cores = max(1, resources.count_cores() // world)
    if not workers and streams:
        workers = max(1, min(4, cores // 2)) if cores > 1 else 0
    threads = threads or max(1, cores - workers)
    matmul = machine.get_matmul_precision() if chosen.type == "cpu" and precision == "fp32" else "highest"
    return ComputeSettings(
        str(chosen),
        precision,
        threads,
        workers if streams else 0,
        matmul,
        deterministic,
        world,
    )


def choose_layout(model: nn.Module, precision: str) -> str:
    """Return the memory format in which a model of this precision computes fastest: channels last for convolutions over
    images.

    It gains on the CPU in float32 (oneDNN's kernels) and in 16 bits, and on CUDA in 16 bits (tensor cores); nothing
    else gains."""
    weights = [p for p in model.parameters() if p.ndim == 4]
    faster = {"cpu": ("fp32", "bf16", "fp16"), "cuda": ("bf16", "fp16")}
    return CHANNELS_LAST if weights and precision in faster.get(weights[0].device.type, ()) else CONTIGUOUS


def apply_layout(model: nn.Module, layout: str) -> None:
    """Convert the weights of a model's convolutions to a memory format, in place. The feature maps behind them follow.

    The numbers stay the same; sums are taken in another order, so outputs differ by rounding.
    """
    if layout == CHANNELS_LAST:
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def inference_settings(device: str = "cpu") -> ComputeSettings:
    """Return the settings for inference: all cores, and on the CPU the faster route of float32 products."""
    return resolve(device=device, precision="fp32", threads=0, workers=0, streams=False, deterministic=False, world=1)


@contextmanager
def use_settings(settings: ComputeSettings) -> Iterator[None]:
    """Set the settings for the length of a run, and restore the old ones."""
    old = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )
    machine.keep_large_buffers()
    torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision(settings.matmul)
    if settings.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():  # convolutions use them, as cuDNN does; products stay float32, which is meant
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
            yield
    finally:
        torch.set_num_threads(old[0])
        torch.set_float32_matmul_precision(old[1])
        if settings.deterministic:  # asked for alone: the call itself loads torch's compiler, for a second and a half
            torch.use_deterministic_algorithms(old[2])
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
            if old[3] is not None:
                os.environ["CUBLAS_WORKSPACE_CONFIG"] = old[3]


def make_determinism_error(error: Exception) -> TrainingError | None:
    """Return the error for a kernel that ``train.deterministic`` refuses, named as torch names it; None for any other
    failure."""
    match = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if match is None:
        return None
    return TrainingError(
        f"train.deterministic refuses the kernel {match[1]}, which adds in any order",
        expected="kernels that repeat bit for bit",
        do="train on the CPU (--device cpu), or without train.deterministic",
    )


def get_dtype(precision: str) -> torch.dtype:
    """Return the type of weights: float64 for fp64, else float32 (16-bit precisions autocast)."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast context of a precision: bfloat16 or float16 products, float32 weights and sums."""
    if precision in ("bf16", "fp16"):
        kind = torch.bfloat16 if precision == "bf16" else torch.float16
        return torch.autocast(device.type, dtype=kind)
    return nullcontext()


def get_free_memory() -> int:
    """Return how many bytes of memory are available now."""
    return int(psutil.virtual_memory().available)
