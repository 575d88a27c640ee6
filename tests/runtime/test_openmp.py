"""Kernel threads sleep soon beside a busy neighbor: what libgomp itself says of its settings, and that the user's own
settings are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from layerwise.runtime import openmp

LIMITED = """
import ctypes, pathlib, sys
from layerwise.runtime import openmp
openmp.LOAD_FILE = pathlib.Path(sys.argv[2])
openmp.limit_spinning()
assert "torch" not in sys.modules
ctypes.CDLL(sys.argv[1])
"""


def libgomp() -> Path:
    """Return the library that torch brings along, without importing torch."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folders = (Path(spec.origin).parent / "lib", Path(spec.origin).parent.parent / "torch.libs")
    paths = [path for folder in folders for path in folder.glob("libgomp*.so*")]
    if not paths:
        pytest.skip("this torch brings no libgomp along")
    return paths[0]


@pytest.mark.parametrize(
    ("running", "given", "spins"),
    [
        (1 << 20, {}, "1000"),
        (1, {}, "300000"),
        (1 << 20, {"GOMP_SPINCOUNT": "77"}, "77"),
        (1 << 20, {"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
    ids=["busy", "alone", "the user's count", "the user's policy"],
)
def test_spinning_is_limited_before_libgomp_is_loaded(
    tmp_path: Path, running: int, given: dict[str, str], spins: str
) -> None:
    (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {running}/400 12345\n")
    environment = {name: value for name, value in os.environ.items() if name not in openmp.SPIN_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(libgomp()), str(tmp_path / "loadavg")],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, **given, "OMP_DISPLAY_ENV": "VERBOSE"},
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_the_command_limits_spinning_first(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {1 << 20}/400 12345\n")
    command = f"""
import os, pathlib, sys
from layerwise.runtime import openmp
openmp.LOAD_FILE = pathlib.Path({str(tmp_path / "loadavg")!r})
sys.argv = ["layerwise", "--version"]
from layerwise.__main__ import main
main()
print(os.environ["GOMP_SPINCOUNT"])
"""
    environment = {name: value for name, value in os.environ.items() if name not in openmp.SPIN_VARIABLES}
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == "1000"


def test_neighbors_on_every_core_make_them_busy() -> None:
    """As many busy programs as there are cores, beside us: whatever else runs, none is free."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    neighbors = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(os.cpu_count() or 1)]
    try:
        for process in neighbors:
            assert process.stdout is not None
            process.stdout.readline()  # it runs
        assert openmp.cores_are_busy()
    finally:
        for process in neighbors:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("content", ["", "0.1 0.2", "a b c d e", None], ids=["empty", "short", "words", "no file"])
def test_a_system_without_a_readable_load_is_not_busy(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmp, "LOAD_FILE", tmp_path / "loadavg")
    if content is not None:
        (tmp_path / "loadavg").write_text(content)
    assert not openmp.cores_are_busy()
