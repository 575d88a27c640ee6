"""The house: arrows run one way, files stay short, nothing heavy is loaded before a command needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import layerwise

SOURCE = Path(layerwise.__file__).parent
ROOMS = (
    "text_display errors strict_json bounded_decoding input_files process_identity owned_folders atomic_io folder_io durable recipe "
    "runtime functional kernels nn data tasks rules catalog models run_records run run_check planning weights vectors export engines "
    "predict evaluate figures inspect report train bench labs api cli"
).split()
LONGEST = 450


def room(path: Path) -> str:
    """Return the room that a source file lies in."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the rooms that a source file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "layerwise" and len(parts) > 1 and parts[1] in ROOMS:
                found.add(parts[1])
    return found


FILES = sorted(p for p in SOURCE.rglob("*.py") if room(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_run_one_way(path: Path) -> None:
    here = ROOMS.index(room(path))
    assert not {other for other in imported(path) if ROOMS.index(other) > here}


def test_every_room_is_known() -> None:
    assert {room(p) for p in FILES} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def loaded_after(code: str) -> set[str]:
    """Return the names of modules loaded after running code in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return set(out.stdout.split())


COMMANDS = (["--help"], ["models"], ["data"], ["train", "lenet6"], ["train", "mcp"], ["trian"], ["lab"], ["bench"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_heavy_is_loaded_early(command: list[str]) -> None:
    heavy = {"torch", "numpy", "sklearn", "matplotlib", "pyarrow", "numba", "PIL", "scipy"}
    code = "import contextlib, io\nfrom layerwise.cli import main\n"
    code += f"with contextlib.redirect_stdout(io.StringIO()): main({command!r})"
    assert not heavy & loaded_after(code)


def test_importing_the_package_loads_nothing() -> None:
    assert "torch" not in loaded_after("import layerwise")


def test_rooms_do_not_hide_the_functions() -> None:
    """``layerwise.train`` is the function even after the room of that name was imported."""
    code = "import layerwise.train.loop, layerwise.models.history\nimport layerwise\nassert callable(layerwise.train)\n"
    loaded_after(code + "assert 'mcp' in [c.name for c in layerwise.models(family='history')]")
