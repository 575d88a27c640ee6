"""Kernel threads sleep soon when they wait: what libgomp itself says of its settings, and that the user's own word stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOLD = """
import ctypes, sys
from layerwise.runtime.waiting import wait_briefly
wait_briefly()
assert "torch" not in sys.modules
ctypes.CDLL(sys.argv[1])
"""


def libgomp() -> Path:
    """Return the library that torch brings along, without importing torch."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folders = (Path(spec.origin).parent / "lib", Path(spec.origin).parent.parent / "torch.libs")
    found = [path for folder in folders for path in folder.glob("libgomp*.so*")]
    if not found:
        pytest.skip("this torch brings no libgomp along")
    return found[0]


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
    ids=["ours", "the user's count", "the user's policy"],
)
def test_libgomp_is_told_before_it_is_loaded(given: dict[str, str], spins: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    done = subprocess.run(
        [sys.executable, "-c", TOLD, str(libgomp())], capture_output=True, text=True, check=True,
        env={**environment, **given, "OMP_DISPLAY_ENV": "VERBOSE"},
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_the_command_says_it() -> None:
    """In the process that the command is, before its own code runs."""
    done = subprocess.run(
        [sys.executable, "-c", "import os, sys; sys.argv = ['layerwise', '--version']\n"
         "from layerwise.__main__ import main\nmain()\nprint(os.environ['GOMP_SPINCOUNT'])"],
        capture_output=True, text=True, check=True, env={n: v for n, v in os.environ.items() if n != "GOMP_SPINCOUNT"},
    )  # fmt: skip
    assert done.stdout.split()[-1] == "1000"
