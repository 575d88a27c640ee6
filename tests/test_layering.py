"""Layers: imports run one way, files stay short, nothing heavy is loaded before a command needs it; and plain names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerwise

SOURCE = Path(layerwise.__file__).parent
PACKAGES = (
    "text_display errors runtime recipe functional kernels nn data tasks rules registry models run_records "
    "run_directory run_check planning weights "
    "embeddings inference plotting inspection report training bench labs api cli"
).split()
MAX_LINES = 450
MAX_MODULES = 20
COLLECTIONS = ("labs", "models", "bench/cases", "inspection/views")  # of one kind of module, to be searched by name
RETIRED = set(
    "told said found made whole kept shown written joined settled sealed unsealed adopt looking answering evaluated "
    "lonely give_back as_it_is".split()
)  # names that say too little; see CONTRIBUTING.md
SPECIFICATION_CODE = re.compile(r"\b(?!F(?:16|32|64)\b)[SF]\d{2}\b")  # F32 and the like are types of safetensors


def get_package(path: Path) -> str:
    """Return the package that a source file lies in."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def find_imports(path: Path) -> set[str]:
    """Return the packages that a source file imports, wherever in the file."""
    packages: set[str] = set()
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
                packages.add(parts[1])
    return packages


FILES = sorted(p for p in SOURCE.rglob("*.py") if get_package(p) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_run_one_way(path: Path) -> None:
    here = PACKAGES.index(get_package(path))
    assert not {other for other in find_imports(path) if PACKAGES.index(other) > here}


def test_every_package_is_known() -> None:
    assert {get_package(p) for p in FILES} <= set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def find_loaded(code: str) -> set[str]:
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
    assert not heavy & find_loaded(code)


def test_importing_the_package_loads_nothing() -> None:
    assert "torch" not in find_loaded("import layerwise")


def test_packages_do_not_hide_the_functions() -> None:
    """What the user calls on the package is no subpackage of the same name, whatever was imported before."""
    assert not set(layerwise.__all__) & {path.stem for path in SOURCE.iterdir()}


# -- names


def read_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that a module defines, with its line: functions, classes, arguments, variables, attributes that
    are assigned, and names that imports give."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno


ALL_FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_names_are_plain(path: Path) -> None:
    """No retired word is a name. No name but a function's ends in an underscore: torch's sign for work in place, not a
    way around another name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names = list(read_names(tree))
    assert [(name, line) for name, line in names if name.strip("_") in RETIRED] == []
    assert [(name, line) for name, line in names if re.search(r"[^_]_$", name) and name not in functions] == []


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_codes_of_the_specification(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [(number, line) for number, line in enumerate(lines, 1) if SPECIFICATION_CODE.search(line)] == []


def test_folders_stay_small() -> None:
    folders = {path.parent for path in ALL_FILES} - {SOURCE / name for name in COLLECTIONS}
    counts = {str(folder.relative_to(SOURCE)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > MAX_MODULES} == {}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def f(a, *b, c, **d): e = 1", "fabcde"),
        ("class A:\n    b: int = 1\n    def c(self): self.d = 1", "Abdc"),
        ("import a.b as c\nfrom d import e as f", "cf"),
        ("[a for a in b]\nwith c as d: pass\nfor e, *f in g: (h := 1)", "adefh"),
        ("try: pass\nexcept E as a: pass\nmatch b:\n    case [c, *d]: pass", "acd"),
        ("lambda a: a.b", "a"),
    ],
)
def test_every_kind_of_name_is_read(code: str, names: str) -> None:
    read = {name for name, _ in read_names(ast.parse(code))} - {"self"}
    assert read == set(names)


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nested_comprehensions_are_short(path: Path) -> None:
    text, long = path.read_text(encoding="utf-8"), list[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, COMPREHENSIONS) and sum(isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node)) > 1:
            code = " ".join((ast.get_source_segment(text, node) or "").split())
            long += [node.lineno] if len(code) > 100 else []
    assert not long, "make statements of these"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_values_looks_inside_a_tree(path: Path) -> None:
    if path == SOURCE / "data" / "values.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            kinds = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            assert "Ragged" not in kinds, f"line {node.lineno}: use a function of data.values"
