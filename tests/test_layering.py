"""Layers: imports run one way, files stay short, nothing heavy is loaded before a command needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import layerwise

SOURCE = Path(layerwise.__file__).parent
PACKAGES = (
    "text_display errors runtime recipe functional kernels nn data tasks rules registry models run_records "
    "run_directory run_check planning weights "
    "embeddings inference plotting inspection report training bench labs api cli"
).split()
LONGEST = 450


def package_of(path: Path) -> str:
    """Return the package that a source file lies in."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the packages that a source file imports, wherever in the file."""
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
            if parts[0] == "layerwise" and len(parts) > 1 and parts[1] in PACKAGES:
                found.add(parts[1])
    return found


FILES = sorted(p for p in SOURCE.rglob("*.py") if package_of(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_run_one_way(path: Path) -> None:
    here = PACKAGES.index(package_of(path))
    assert not {other for other in imported(path) if PACKAGES.index(other) > here}


def test_every_package_is_known() -> None:
    assert {package_of(p) for p in FILES} <= set(PACKAGES)


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


def test_packages_do_not_hide_the_functions() -> None:
    """What the user calls on the package is no subpackage of the same name, whatever was imported before."""
    assert not set(layerwise.__all__) & {path.stem for path in SOURCE.iterdir()}
