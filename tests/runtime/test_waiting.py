"""Kernel threads sleep soon beside a busy neighbor: what libgomp itself says of its settings, and that the user's own
word stands."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from layerwise.runtime import waiting

TOLD = """
import ctypes, pathlib, sys
from layerwise.runtime import waiting
waiting.LOAD = pathlib.Path(sys.argv[2])
waiting.wait_briefly()
assert "torch" not in sys.modules
ctypes.CDLL(sys.argv[1])
"""


def libgomp() -> Path:
    """Return the library that torch brings along, without importing torch."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folders = (Path(spec.origin).parent / "lib", Path(spec.origin).parent.parent / "torch.libs")
    found = [path for folder in folders for path in folder.glob("libgomp*.so*")]
    if not found:
        pytest.skip("this torch brings no libgomp along")
    return found[0]


@pytest.mark.parametrize(
    ("running", "given", "spins"),
    [
        (1 << 20, {}, "1000"),
        (1, {}, "300000"),
        (1 << 20, {"GOMP_SPINCOUNT": "77"}, "77"),
        (1 << 20, {"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
    ids=["crowded", "alone", "the user's count", "the user's policy"],
)
def test_libgomp_is_told_before_it_is_loaded(tmp_path: Path, running: int, given: dict[str, str], spins: str) -> None:
    (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {running}/400 12345\n")
    environment = {name: value for name, value in os.environ.items() if name not in waiting.ASKED}
    done = subprocess.run(
        [sys.executable, "-c", TOLD, str(libgomp()), str(tmp_path / "loadavg")],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, **given, "OMP_DISPLAY_ENV": "VERBOSE"},
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_the_command_looks_before_it_does_anything(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {1 << 20}/400 12345\n")
    command = f"""
import os, pathlib, sys
from layerwise.runtime import waiting
waiting.LOAD = pathlib.Path({str(tmp_path / "loadavg")!r})
sys.argv = ["layerwise", "--version"]
from layerwise.__main__ import main
main()
print(os.environ["GOMP_SPINCOUNT"])
"""
    environment = {name: value for name, value in os.environ.items() if name not in waiting.ASKED}
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == "1000"


def test_neighbors_on_every_core_are_seen() -> None:
    """As many busy programs as there are cores, beside us: whatever else runs, none is free."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    neighbors = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(os.cpu_count() or 1)]
    try:
        for process in neighbors:
            assert process.stdout is not None
            process.stdout.readline()  # it runs
        assert waiting.crowded()
    finally:
        for process in neighbors:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("said", ["", "0.1 0.2", "a b c d e", None], ids=["empty", "short", "words", "no file"])
def test_a_system_that_does_not_say_is_not_crowded(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOAD", tmp_path / "loadavg")
    if said is not None:
        (tmp_path / "loadavg").write_text(said)
    assert not waiting.crowded()
