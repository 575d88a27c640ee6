"""The machine's facts: measured, kept, re-measured when the cache is damaged, and free of side effects."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
import torch

from layerwise.errors import UsageError
from layerwise.runtime import machine, resources
from layerwise.runtime.machine_report import format_facts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of our own; the file is where the measurement will lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LAYERWISE_MATMUL", raising=False)
    return tmp_path / "layerwise" / "matmul.json"


def product(*, speedup: float, error: float) -> machine.ProductTrial:
    return machine.ProductTrial(1, 1, 1, speedup, 1.0, 1e-7, error)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_cores_are_those_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= resources.count_cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert resources.count_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_measuring_is_quick_and_leaves_no_trace() -> None:
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.get_rng_state()
    started = time.perf_counter()
    trial = machine.measure_matmul()
    assert time.perf_counter() - started < 3  # 0.3 s on a quiet machine
    assert before[:2] == (torch.get_float32_matmul_precision(), torch.get_num_threads())
    assert torch.equal(before[2], torch.get_rng_state())
    assert len(trial.products) == len(machine.SIZES)
    for one in trial.products:
        assert one.highest_seconds > 0
        assert one.medium_seconds > 0
        assert 0 < one.highest_error < 1e-5
    if trial.chosen == "medium":
        assert trial.speedup >= machine.GAIN
        assert trial.error_ratio <= machine.ERROR_LIMIT


@pytest.mark.parametrize(
    ("products", "chosen", "why"),
    [
        ([product(speedup=2, error=1e-7)] * 3, "medium", "2.00 times as fast"),
        ([product(speedup=1.05, error=1e-7)] * 3, "highest", "no clear gain"),
        ([product(speedup=3, error=1e-7)] * 3 + [product(speedup=0.8, error=1e-7)], "highest", "slows one"),
        ([product(speedup=3, error=1e-7), product(speedup=3, error=1e-3)], "highest", "rounds its inputs"),
        ([product(speedup=3, error=float("nan"))], "highest", "rounds its inputs"),
    ],
)
def test_the_choice_weighs_error_first_then_time(products: list[machine.ProductTrial], chosen: str, why: str) -> None:
    trial = machine.choose_matmul_precision(products)
    assert trial.chosen == chosen
    assert why in trial.why


def test_a_measurement_is_made_once_and_kept(cache: Path) -> None:
    first = machine.get_matmul_trial()
    assert msgspec.json.decode(cache.read_bytes(), type=dict[str, machine.MatmulTrial]) == {first.key: first}
    assert machine.get_matmul_trial() == first  # to the last digit of its times: not measured again
    assert [path.name for path in cache.parent.iterdir()] == ["matmul.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\x00", b'{"a": 1}'])
def test_a_damaged_cache_is_measured_anew(cache: Path, damage: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(damage)
    assert machine.get_matmul_precision() in machine.MATMUL_PRECISIONS
    assert len(json.loads(cache.read_bytes())) == 1


def test_a_tampered_choice_is_not_believed(cache: Path) -> None:
    trial = machine.get_matmul_trial()
    wrong = msgspec.structs.replace(trial, chosen="lowest")
    cache.write_bytes(msgspec.json.encode({trial.key: wrong}))
    assert machine.get_matmul_precision() in machine.MATMUL_PRECISIONS


def test_a_home_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("LAYERWISE_MATMUL", raising=False)
    assert machine.get_matmul_precision() in machine.MATMUL_PRECISIONS


def test_the_environment_decides_without_measuring(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for route in machine.MATMUL_PRECISIONS:
        monkeypatch.setenv("LAYERWISE_MATMUL", route)
        assert machine.get_matmul_precision() == route
    assert not cache.exists()
    monkeypatch.setenv("LAYERWISE_MATMUL", "fast")
    with pytest.raises(UsageError, match=r"is not a matmul precision\n.*highest or medium\n.*'fast'"):
        machine.get_matmul_precision()


FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from layerwise.runtime import machine
    assert machine.keep_large_buffers() and machine.keep_large_buffers()
def touch():
    a = np.empty(24 << 20, dtype=np.uint8); b = np.empty(20 << 20, dtype=np.uint8)
    a[::4096] = 1; b[::4096] = 1
for _ in range(3): touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, environment: dict[str, str]) -> int:
    """Page faults of 20 rounds over 44 MiB of large buffers, in a process of its own."""
    plain = {name: v for name, v in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LAYERWISE_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode],
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


RELEASED = """
import re
from pathlib import Path
import numpy as np
from layerwise.runtime import machine
assert machine.keep_large_buffers()
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
arrays, pins = [], []
for _ in range(20):
    arrays.append(np.ones(4 << 20, dtype=np.uint8))
    pins.append(np.ones(1 << 16, dtype=np.uint8))  # between them, so that the heap's top alone is not the whole
del arrays
before = anonymous()
machine.release_free_memory()
print(before - anonymous())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the allocator is not glibc's")
@pytest.mark.parametrize(("setting", "ours"), [("", True), ("system", False)])
def test_free_memory_is_released_where_it_was_kept(setting: str, ours: bool) -> None:
    """80 MiB in pieces between others that stay; nothing is touched where the user has another allocator setting."""
    plain = {name: v for name, v in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LAYERWISE_"))}
    script = RELEASED if ours else RELEASED.replace("assert machine", "assert not machine")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=plain | {"LAYERWISE_MALLOC": setting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 70 * 1024 if ours else int(done.stdout) < 1024


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the allocator is not glibc's")
def test_large_buffers_stay_and_fault_no_more() -> None:
    released = faults("leave", {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)})
    assert faults("keep", {}) < released / 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAYERWISE_MALLOC", "system"),
        ("MALLOC_TOP_PAD_", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1"),
    ],
)
def test_the_users_own_allocator_settings_stand(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert machine.keep_large_buffers() is False


def test_doctors_facts_are_json_and_true(cache: Path) -> None:
    facts = machine.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["torch"]["version"] == torch.__version__
    assert facts["cpu"]["cores"] == resources.count_cores()
    assert facts["memory"]["total"] > facts["memory"]["available"] > 0
    assert facts["matmul"]["measured"]["chosen"] in machine.MATMUL_PRECISIONS


def test_facts_are_formatted_in_both_languages(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = machine.describe()
    english, chinese = dict(format_facts(facts, "en")), dict(format_facts(facts, "zh"))
    assert len(english) == len(chinese)
    assert facts["cpu"]["model"] in english["processor"]
    assert english["memory"].startswith(f"{psutil.virtual_memory().total / 2**30:.1f} GiB")
    assert english["float32 products"].startswith(facts["matmul"]["precision"])
    assert "核" in chinese["处理器"]
    assert not any("{" in text for text in (*english.values(), *chinese.values()))
    other = {"highest": "medium", "medium": "highest"}[facts["matmul"]["measured"]["chosen"]]
    monkeypatch.setenv("LAYERWISE_MATMUL", other)
    assert "LAYERWISE_MATMUL decides" in dict(format_facts(machine.describe(), "en"))["float32 products"]
