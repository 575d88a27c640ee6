"""Only the writers of `runtime` write, rename or remove: what they promise holds for every file of Layerwise."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import layerwise

SOURCE = Path(layerwise.__file__).parent
WRITERS = {"owned_folders.py", "atomic_io.py", "in_place_io.py", "folder_io.py"}
FORBIDDEN = {  # functions and methods, by the name they are called by
    "write_text",
    "write_bytes",
    "unlink",
    "rmdir",
    "rmtree",
    "mkdir",
    "makedirs",
    "rename",
    "renames",
    "remove",
    "removedirs",
    "truncate",
    "ftruncate",
    "symlink",
    "symlink_to",
    "hardlink_to",
    "touch",
    "chmod",
    "copy2",
    "copyfile",
    "copytree",
    "move",
    "mkstemp",
    "mkdtemp",
    "TemporaryDirectory",
    "NamedTemporaryFile",
    "TemporaryFile",
    "FileLock",
    "posix_fallocate",
    "tofile",
    "extractall",
    "utime",
    "fdopen",
}
ALLOWED = {
    ("bench/cases/resnet20_cifar10.py", "extractall"),  # unpacks the benchmark's images into a temporary folder
    ("data/cache_folders.py", "utime"),  # the time of a cache's last use, of our own index
}


def called(node: ast.Call) -> str:
    """Return the last word of what is called."""
    function = node.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def writing_mode(node: ast.Call) -> bool:
    """Whether a call of ``open`` may write: a mode with w, a, x or +, a mode that is no literal, or flags of
    ``os.open``."""
    of_os = (
        isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
    )
    if of_os:
        return any("O_RDONLY" not in ast.unparse(a) for a in node.args[1:])
    mode = next((k.value for k in node.keywords if k.arg == "mode"), None)
    if mode is None:
        place = 0 if isinstance(node.func, ast.Attribute) and not is_module(node.func.value) else 1
        mode = node.args[place] if len(node.args) > place else None
    if mode is None:
        return False
    if isinstance(mode, ast.IfExp):
        return any(bad_mode(part) for part in (mode.body, mode.orelse))
    return bad_mode(mode)


def is_module(node: ast.expr) -> bool:
    """Whether a name is of a module or class whose ``open`` takes the file first."""
    modules = {"gzip", "bz2", "lzma", "io", "tarfile", "zipfile", "Image", "codecs", "RunDirectory", "Index"}
    return isinstance(node, ast.Name) and node.id in modules


def bad_mode(mode: ast.expr) -> bool:
    return not (isinstance(mode, ast.Constant) and isinstance(mode.value, str) and not set(mode.value) & set("wax+"))


def offences(path: Path) -> list[str]:
    """Return the calls of a file that write to a path, rename or remove one."""
    name = path.relative_to(SOURCE).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        word = called(node)
        text = ast.unparse(node)
        bad = word in FORBIDDEN and not no_file(node, word)
        bad |= word == "replace" and (text.startswith("os.replace") or is_path_replace(node))
        bad |= word == "open" and not text.startswith(("Index.open", "RunDirectory.open")) and writing_mode(node)
        bad |= (
            word == "save"
            and text.startswith(("np.save(", "numpy.save(", "torch.save("))
            and not is_stream(node.args[0])
        )
        bad |= word == "memmap" and any(k.arg == "mode" and bad_mode(k.value) for k in node.keywords)
        bad |= word == "save_file" and not inside_with(tree, node, "create_for_library")
        bad |= word == "savefig" and not is_stream(node.args[0])
        if bad and (name, word) not in ALLOWED:
            lines.append(f"{name}:{node.lineno}: {text[:100]}")
    return lines


def no_file(node: ast.Call, word: str) -> bool:
    """Whether a word is another object's: ``hook.remove()``, ``list.remove(x)``, ``text.truncate(width,
    overflow=…)``."""
    owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    if word == "remove":
        return owner not in {"os", "shutil"} and (not node.args or owner != "os")
    if word == "truncate":
        return owner in {"text", "self.stream"} or bool(node.keywords)
    return word == "move" and owner not in {"shutil"}


def is_path_replace(node: ast.Call) -> bool:
    """Whether ``x.replace(y)`` has one argument: a path's, as a text's has two and `dataclasses.replace` names its
    changes."""
    return isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords


def is_stream(node: ast.expr) -> bool:
    """Whether an argument is a name that our code gives to streams and buffers, not to paths."""
    return isinstance(node, ast.Name) and node.id in {"stream", "file", "buffer", "drawn"}


def inside_with(tree: ast.Module, node: ast.Call, name: str) -> bool:
    """Whether a call stands in a ``with`` of this function."""
    return any(
        isinstance(block, ast.With)
        and any(isinstance(item.context_expr, ast.Call) and called(item.context_expr) == name for item in block.items)
        and any(one is node for one in ast.walk(block))
        for block in ast.walk(tree)
    )


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.name not in WRITERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_else_writes_or_removes(path: Path) -> None:
    assert offences(path) == []


@pytest.mark.parametrize(
    "code",
    [
        "open(p, 'w')",
        "p.open('ab')",
        "os.open(p, os.O_CREAT)",
        "p.write_text('')",
        "shutil.rmtree(p)",
        "os.replace(a, b)",
        "a.replace(b)",
        "p.unlink()",
        "np.save(p, x)",
        "np.memmap(p, mode='r+')",
        "save_file(x, p)",
        "figure.savefig(p)",
        "open(p, mode)",
        "p.mkdir()",
    ],
)
def test_the_look_sees_each_way_to_write(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    (tmp_path / "a.py").write_text(code)
    assert len(offences(tmp_path / "a.py")) == 1
