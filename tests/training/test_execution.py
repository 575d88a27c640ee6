"""How a network computes: what is chosen for it, and what a run's flags say stands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from layerwise.nn import kernel_timing
from layerwise.nn.kernel_choice import MIXED, TORCH, VARIABLE, WINOGRAD, ConvSignature, Timing
from layerwise.nn.winograd_convolution import WinogradConv2d
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World
from layerwise.training.execution import choose_kernels, configure_execution, fix_kernels


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))


def settings(precision: str = "fp32") -> compute_settings.ComputeSettings:
    return compute_settings.resolve(
        device="cpu", precision=precision, threads=1, workers=0, streams=False, deterministic=False, world=1
    )


@pytest.mark.parametrize(
    ("precision", "winograd", "chosen"),
    [
        ("fp32", True, "winograd"),
        ("fp32", False, "direct"),
        ("bf16", True, "direct"),
        ("fp64", True, "direct"),
    ],
)
def test_winograd_is_chosen_in_float32_where_it_is_wanted(precision: str, winograd: bool, chosen: str) -> None:
    model = network().to(compute_settings.get_dtype(precision))
    configured = configure_execution(model, settings(precision), winograd=winograd)
    assert configured.convolution == chosen
    assert isinstance(model[0], WinogradConv2d) == (chosen == "winograd")
    assert not isinstance(model[2], WinogradConv2d)


def test_what_a_runs_flags_say_stands() -> None:
    before = msgspec.structs.replace(
        settings(), layout=compute_settings.CONTIGUOUS, convolution=compute_settings.DIRECT
    )
    model = network()
    assert configure_execution(model, before, winograd=True) == before
    assert type(model[0]) is nn.Conv2d
    assert model[0].weight.is_contiguous()
    went = msgspec.structs.replace(
        settings(), layout=compute_settings.CHANNELS_LAST, convolution=compute_settings.WINOGRAD
    )
    assert configure_execution(model, went, winograd=False) == went
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_without_such_convolutions_is_direct() -> None:
    assert (
        configure_execution(nn.Sequential(nn.Linear(2, 2)), settings(), winograd=True).convolution
        == compute_settings.DIRECT
    )


@pytest.fixture
def measured(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> list[ConvSignature]:
    """An empty cache, and a timer that prefers `MIXED` in training and our kernel elsewhere; what it was asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    asked: list[ConvSignature] = []

    def time(layer: ConvSignature) -> Timing:
        asked.append(layer)
        best = MIXED if layer.use == "train" else WINOGRAD
        return Timing(layer, {kernel: 1.0 if kernel == best else 2.0 for kernel in layer.kernels}, best)

    monkeypatch.setattr(kernel_timing, "time_kernels", time)
    return asked


def kernel_of(model: nn.Sequential, x: torch.Tensor) -> str:
    """Return how the first layer computes a batch in training."""
    return type(model[0](x).grad_fn).__name__


def chosen(
    model: nn.Sequential,
    before: compute_settings.ComputeSettings,
    *,
    most: int = 64,
    world: Any = World(),  # noqa: B008
) -> compute_settings.ComputeSettings:
    """Lay the network out and choose its kernels for maps of 32×32 places."""
    configured = configure_execution(model, before, winograd=True)
    fix_kernels(model, configured)

    def run() -> None:
        with torch.no_grad():
            model(torch.randn(1, 16, 32, 32))

    return choose_kernels(model, configured, run, most=most, world=world)


def test_every_class_is_chosen_before_the_first_step_and_none_after(measured: list[ConvSignature]) -> None:
    model = network()
    with_kernels = chosen(model, settings())
    names = {f"3x3 16>16 maps 32x32 {use} {work}" for use in ("train", "evaluate") for work in (0, 1)}
    assert set(with_kernels.kernels) == names == {layer.name for layer in measured}
    assert all(kernel == (MIXED if " train " in name else WINOGRAD) for name, kernel in with_kernels.kernels.items())
    asked = len(measured)
    assert "Winograd" in kernel_of(model, torch.randn(40, 16, 32, 32))
    assert "Winograd" not in kernel_of(
        model, torch.randn(40, 16, 24, 24)
    )  # a size that no example had: torch's, without a measurement
    assert "Winograd" not in kernel_of(model, torch.randn(3, 16, 32, 32))  # too little work
    assert len(measured) == asked


def test_what_the_flags_say_stands_on_any_machine(measured: list[ConvSignature]) -> None:
    first = chosen(network(), settings())
    went = msgspec.structs.replace(first, kernels=dict.fromkeys(first.kernels, TORCH))
    measured.clear()
    model = network()
    assert chosen(model, went) == went
    assert not measured
    assert "Winograd" not in kernel_of(model, torch.randn(40, 16, 32, 32))
    more = chosen(network(), went, most=256)  # a later stage with larger batches
    assert went.kernels.items() < more.kernels.items()
    assert {layer.work for layer in measured} == {2}


def test_all_processes_compute_as_the_first_one_says(measured: list[ConvSignature]) -> None:
    """The second of two measures nothing, and takes what the first one has found."""
    second = SimpleNamespace(is_first=False, device=torch.device("cpu"), reduce=lambda votes: votes[0].add_(1.0))
    with_kernels = chosen(network(), settings(), world=second)
    assert not measured
    assert set(with_kernels.kernels.values()) == {WINOGRAD}
