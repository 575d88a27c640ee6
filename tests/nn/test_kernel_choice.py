"""Kernels of convolutions are measured once for a class of layers and a machine, kept, and taken up again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from layerwise.errors import UsageError
from layerwise.nn import kernel_choice as choice
from layerwise.nn.convolution import use_fast_kernels
from layerwise.nn.kernel_choice import (
    MIN_MULTIPLICATIONS,
    MIXED,
    PRODUCT,
    TORCH,
    WINOGRAD,
    ConvSignature,
    KernelSelector,
    Timing,
    describe_timing,
    get_timing_columns,
    make_timing_row,
)
from layerwise.nn.kernel_timing import time_kernels
from layerwise.runtime.checksums import dump_checksummed

LAYER = ConvSignature(3, 1, 64, 64, 28, 28, "train", 0)
TIMES = {TORCH: 0.002, WINOGRAD: 0.001, MIXED: 0.0015}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing that decides instead of a measurement."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    return choice.get_timings_path(torch.get_num_threads())


def timer(seconds: dict[str, float], calls: list[ConvSignature]) -> Callable[[ConvSignature], Timing]:
    """Return a timer that says these seconds, and notes what it was asked."""

    def time(layer: ConvSignature) -> Timing:
        calls.append(layer)
        return Timing(layer, seconds, choice.choose_by_times(seconds))

    return time


@given(
    st.integers(1, 2000),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([1, 3]),
)
def test_only_calls_with_work_enough_have_a_class_and_the_class_says_how_much(
    count: int, maps: int, outputs: int, high: int, wide: int, size: int
) -> None:
    maps, outputs = 16 * maps, 16 * outputs
    layer = ConvSignature.for_call((count, maps, high, wide), outputs, size=size, stride=1, use="evaluate")
    work = size * size * maps * outputs * high * wide * count
    saves = size == 1 or 9 * high * wide > 36 * -(-high // 4) * -(-wide // 4)
    assert (layer is not None) == (work >= MIN_MULTIPLICATIONS and saves)
    if layer is not None:
        assert layer.work == sum(work >= MIN_MULTIPLICATIONS * 4**k for k in (1, 2))
        assert (layer.height >= high) & (layer.width >= wide)
        assert max(layer.height / high, layer.width / wide) < 1.25
        assert (
            ConvSignature.for_call(
                (count, maps, layer.height, layer.width), outputs, size=size, stride=1, use="evaluate"
            )
            is not None
        )
        again = ConvSignature.for_call(
            (layer.batch, maps, layer.height, layer.width), outputs, size=size, stride=1, use="evaluate"
        )
        assert again is not None
        assert again.work >= layer.work


def test_a_class_is_measured_once_and_known_to_other_networks_and_processes(cache: Path) -> None:
    calls: list[ConvSignature] = []
    time = timer(TIMES, calls)
    selector = KernelSelector({}, time)
    assert [selector.select(LAYER) for _ in range(3)] == [WINOGRAD] * 3
    assert KernelSelector({}, time).select(LAYER) == WINOGRAD
    assert calls == [LAYER]
    assert [timing.layer for timing in choice.read_timings(cache).values()] == [LAYER]
    other = msgspec.structs.replace(LAYER, work=1)
    assert KernelSelector({}, timer({**TIMES, TORCH: 0.001}, calls)).select(other) == TORCH
    assert [layer.work for layer in calls] == [0, 1]
    assert {timing.layer.work: timing.chosen for _, timing in choice.list_timings()} == {0: WINOGRAD, 1: TORCH}


def test_torch_stays_unless_another_kernel_is_clearly_faster() -> None:
    assert choice.choose_by_times({TORCH: 1.0, WINOGRAD: 0.96}) == TORCH
    assert choice.choose_by_times({TORCH: 1.0, WINOGRAD: 0.94, MIXED: 0.93}) == MIXED


def test_without_a_timer_an_unknown_class_is_torchs_and_a_known_one_stands(cache: Path) -> None:
    assert KernelSelector({}, None).select(LAYER) == TORCH
    assert KernelSelector({LAYER.name: MIXED}, None).select(LAYER) == MIXED
    assert KernelSelector({LAYER.name: "another"}, None).select(LAYER) == TORCH
    assert KernelSelector({}, timer(TIMES, [])).select(None) == TORCH
    assert not cache.exists()


@pytest.mark.parametrize("wanted", [TORCH, WINOGRAD])
def test_the_environment_decides_instead(wanted: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, wanted)
    calls: list[ConvSignature] = []
    assert KernelSelector({}, timer(TIMES, calls)).select(LAYER) == wanted
    point = msgspec.structs.replace(LAYER, size=1)
    assert KernelSelector({}, timer(TIMES, calls)).select(point) == (TORCH if wanted == TORCH else PRODUCT)
    assert not calls
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(UsageError, match="LAYERWISE_CONVOLUTION does not name a kernel"):
        KernelSelector({}, timer(TIMES, calls)).select(LAYER)


def content(**changes: object) -> bytes:
    """Return a file of one measurement with some fields of it changed."""
    timing = {**msgspec.to_builtins(Timing(LAYER, TIMES, WINOGRAD)), **changes}
    return dump_checksummed({"timings": [timing]})


BAD = {
    "empty": b"",
    "cut": content()[:-30],
    "a byte": content().replace(b"0.0015", b"0.0016"),
    "foreign": b'{"a": 1}',
    "no list": dump_checksummed({"timings": 3}),
    "a kernel of another use": content(seconds={TORCH: 1.0, "sse": 0.5}, chosen="sse"),
    "not the fastest": content(chosen=TORCH),
    "no times": content(seconds={}, chosen=TORCH),
    "negative": content(seconds={**TIMES, TORCH: -1.0}, chosen=TORCH),
    "another type": content(layer="3x3"),
    "newer": dump_checksummed({"timings": []}).replace(b'"format": 1', b'"format": 99'),
    "too large": content() + b" " * choice.MAX_BYTES,
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_damaged_foreign_or_too_large_is_measured_anew_and_replaced(name: str, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content())
    assert choice.read_timings(cache)[LAYER.name].chosen == WINOGRAD
    cache.write_bytes(BAD[name])
    calls: list[ConvSignature] = []
    assert KernelSelector({}, timer(TIMES, calls)).select(LAYER) == WINOGRAD
    assert calls == [LAYER]
    assert choice.read_timings(cache)[LAYER.name].seconds == TIMES


def test_a_home_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    assert KernelSelector({}, timer(TIMES, [])).select(LAYER) == WINOGRAD


@pytest.mark.parametrize(
    "layer",
    [
        LAYER,
        ConvSignature(3, 1, 32, 16, 9, 9, "evaluate", 0),
        ConvSignature(3, 1, 32, 16, 9, 9, "infer", 0),
        ConvSignature(1, 2, 256, 256, 14, 14, "train", 0),
        ConvSignature(3, 1, 32, 32, 4000, 2000, "infer", 2),
    ],
    ids=lambda layer: layer.name,
)
def test_measuring_times_every_kernel_and_leaves_no_trace(layer: ConvSignature) -> None:
    state = torch.get_rng_state()
    with torch.inference_mode():
        timing = time_kernels(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(timing.seconds) == set(layer.kernels)
    assert timing.chosen == choice.choose_by_times(timing.seconds)
    assert all(0 < value < 10 for value in timing.seconds.values())


def test_copies_of_a_network_share_its_choices_and_every_kernel_computes_the_same(cache: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1))
    exact = copy.deepcopy(net).double()
    assert use_fast_kernels(net, kernels={}) == 1
    assert copy.deepcopy(net)[0].selector is net[0].selector
    x = torch.randn(8, 32, 32, 32)
    layer = ConvSignature.for_call((8, 32, 32, 32), 32, size=3, stride=1, use="train")
    assert layer is not None
    weight = exact[0].weight
    wanted = torch.autograd.grad(exact(x.double()).square().sum(), weight)[0]
    for kernel in layer.kernels:
        net[0].selector.freeze({layer.name: kernel})
        y = net(x)
        assert ("Winograd" in type(y.grad_fn).__name__) == (kernel != TORCH)
        torch.testing.assert_close(y.double(), exact(x.double()), rtol=1e-4, atol=1e-5)
        found = torch.autograd.grad(y.square().sum(), net[0].weight)[0]
        torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert not cache.exists()


def test_doctors_table_and_facts() -> None:
    timing = Timing(msgspec.structs.replace(LAYER, stride=2), TIMES, WINOGRAD)
    assert make_timing_row(2, timing, chinese=False) == (
        "3×3, stride 2, 64 → 64 maps of 28×28",
        "train",
        "9",
        "2",
        "winograd",
        "2",
        "1",
    )
    assert make_timing_row(2, timing, chinese=True)[:2] == ("3×3，步长 2，64 → 64 个 28×28 的特征图", "训练")
    assert len(get_timing_columns(chinese=True)) == len(get_timing_columns(chinese=False)) == 7
    facts = describe_timing(2, timing)
    assert facts["threads"] == 2
    assert facts["chosen"] == WINOGRAD
    assert facts["layer"]["height"] == 28
