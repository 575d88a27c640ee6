"""The catalog: every network by name. Names and facts are read without importing a model (nor torch).

`@register` takes literal values only, so that the models can be read from the source by ``ast``; what the models of a
family share may stand once, in a literal table at the top of the file, and come in as ``**TABLE``. The builder itself
is imported when it is called for. Users' own models come by the entry point group ``layerwise.specs`` or by ``--import
FILE``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from layerwise.errors import LayerwiseError, UsageError, unknown
from layerwise.runtime.input_files import read_regular_file, refuse_special_file

Table = dict[str, Any]
BuilderT = TypeVar("BuilderT", bound=Callable[..., Any])
FOLDER = Path(__file__).with_name("models")
GROUP = "layerwise.models"


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network's page in the catalog.

    ``rule`` is None where nothing is learned. ``recipe`` holds the default tables (``model``, ``data``, ``task``,
    ``train``, ``stages``); its ``variants`` change them by kind of data (``row``, ``image``), by task, and for under
    5,000 training examples (``small``, ``row-small``, and ``points`` for rows of one or two numbers). ``small`` are
    builder arguments of an instance of at most 100,000 parameters, for tests. ``parameters`` is the count of the
    full-size instance that ``size`` builds. ``why`` says why a model without a rule learns nothing.
    """

    name: str
    family: str
    tasks: tuple[str, ...]
    rule: str | None
    year: int
    paper: str
    summary: str
    summary_zh: str
    parameters: int
    size: dict[str, Any] = {}
    small: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    aliases: tuple[str, ...] = ()
    why: str = ""
    why_zh: str = ""
    module: str = ""
    builder: str = ""


@cache
def _registered() -> dict[str, Callable[..., Any]]:
    """The builders of the modules imported so far, by model name."""
    return {}


@cache
def _load_user_specs() -> dict[str, ModelSpec]:
    """The models that came by ``--import`` or entry points."""
    return {}


def register(
    name: str,
    *,
    family: str,
    tasks: Sequence[str],
    rule: str | None,
    year: int,
    paper: str,
    summary: str,
    summary_zh: str,
    parameters: int,
    size: Mapping[str, Any] | None = None,
    small: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    aliases: Sequence[str] = (),
    why: str = "",
    why_zh: str = "",
) -> Callable[[BuilderT], BuilderT]:
    """Put a builder into the catalog. All values are literals: see `ModelSpec` for their meaning. A name taken twice
    raises."""
    del family, tasks, rule, year, paper, summary, summary_zh, parameters, size, small, recipe, aliases, why, why_zh

    def entered(builder: BuilderT) -> BuilderT:
        known = _registered()
        if name in known and known[name].__module__ != builder.__module__:
            raise UsageError(
                f"two networks are called '{name}'", received=f"{builder.__module__} and {known[name].__module__}"
            )
        known[name] = builder
        return builder

    return entered


def read_specs(path: Path, module: str) -> list[ModelSpec]:
    """Read the models of one source file without running it. Raises `UsageError` for a value that is not a literal."""
    specs: list[ModelSpec] = []
    tables: dict[str, Table] = {}
    try:
        tree = ast.parse(read_regular_file(path), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path} is not Python: {error}", expected="a Python file with @register models") from error
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            tables |= _literal_table(node)
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == "register":
                specs.append(_spec(call, path, tables, module=module, builder=node.name))
    return specs


def _literal_table(node: ast.Assign | ast.AnnAssign) -> dict[str, Table]:
    """Return a literal table at the top of a file by its name; nothing for what is none."""
    (target, *others) = node.targets if isinstance(node, ast.Assign) else [node.target]
    if others or not isinstance(target, ast.Name) or not isinstance(node.value, ast.Dict):
        return {}
    try:
        return {target.id: ast.literal_eval(node.value)}
    except ValueError:
        return {}


def _spec(call: ast.Call, path: Path, tables: Mapping[str, Table], *, module: str, builder: str) -> ModelSpec:
    """Turn one ``@register(...)`` into its model; ``tables`` are those of the file that it may take up with ``**``."""
    try:
        values: Table = {}
        for keyword in call.keywords:
            if keyword.arg is not None:
                values[keyword.arg] = ast.literal_eval(keyword.value)
            elif isinstance(keyword.value, ast.Name) and keyword.value.id in tables:
                values |= tables[keyword.value.id]
            else:
                raise ValueError(f"**{ast.unparse(keyword.value)} is no literal table at the top of this file")
        return msgspec.convert(
            {"name": ast.literal_eval(call.args[0]), **values, "module": module, "builder": builder}, ModelSpec
        )
    except (ValueError, IndexError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{path}, line {call.lineno}: @register cannot be read: {error}",
            expected="literal values (texts, numbers, lists, tables), as in CONTRIBUTING.md",
        ) from error


@cache
def specs() -> dict[str, ModelSpec]:
    """Return every model by name, in the order of family and year."""
    found: dict[str, ModelSpec] = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        for spec in read_specs(path, f"layerwise.models.{path.stem}"):
            _enter(found, spec)
    for module in _offered():
        module_spec = importlib.util.find_spec(module)
        if module_spec is not None and module_spec.origin:
            for spec in read_specs(Path(module_spec.origin), module):
                _enter(found, spec)
    for spec in _load_user_specs().values():
        _enter(found, spec)
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[1].name)))


def _offered() -> list[str]:
    """Return the modules in which installed packages offer models.

    Their files are looked through first: `importlib.metadata` takes 40 ms to load, which a typo in a name would pay
        for.
    """
    files = (path for place in sys.path for path in Path(place or ".").glob("*-info/entry_points.txt"))
    if not any(GROUP.encode() in path.read_bytes() for path in files):
        return []
    from importlib.metadata import entry_points

    return [point.value for point in entry_points(group=GROUP)]


def _enter(found: dict[str, ModelSpec], spec: ModelSpec) -> None:
    """Add a model, refusing a name that is taken."""
    if spec.name in found:
        raise UsageError(
            f"two networks are called '{spec.name}'", received=f"{found[spec.name].module} and {spec.module}"
        )
    found[spec.name] = spec


def list_models(*, family: str = "") -> list[ModelSpec]:
    """Return the models, of one family if it is named. Raises `UsageError` for an unknown family."""
    families = sorted({spec.family for spec in specs().values()})
    if family and family not in families:
        raise unknown("family", family, families)
    return [spec for spec in specs().values() if family in ("", spec.family)]


def find(name: str, *, where: str = "") -> ModelSpec:
    """Return the model of this name or alias, or raise `UsageError` with the nearest name, and ``where`` the name
    stands."""
    known = specs()
    by_alias = {alias: spec for spec in known.values() for alias in spec.aliases}
    spec = known.get(name) or by_alias.get(name)
    if spec is None:
        raise unknown("model", name, known, where=where, do="a network of your own needs --import FILE")
    return spec


def refuse_without_rule(spec: ModelSpec) -> None:
    """Raise `UsageError` for a network that learns nothing, saying why."""
    if spec.rule is None:
        raise UsageError(
            f"{spec.name} ({spec.year}) cannot be trained: {spec.why}",
            do=f"layerwise inspect {spec.name} shows what it does",
        )


def builder(spec: ModelSpec) -> Callable[..., Any]:
    """Import the model's module and return its builder."""
    if spec.name not in _registered():
        importlib.import_module(spec.module)
    return _registered()[spec.name]


class _UsersFile(SourceFileLoader):
    """Runs a user's Python file, and leaves no compiled copy beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def import_file(path: Path) -> list[ModelSpec]:
    """Run a user's Python file and take its models into the catalog (``--import FILE``)."""
    refuse_special_file(path)
    if not path.is_file():
        raise UsageError(
            f"there is no file {path}", expected="a Python file with @register models", do="check --import"
        )
    module = f"layerwise_user_{path.stem}"
    new = read_specs(path, module)
    if not new:
        raise UsageError(f"{path} registers no network", expected="a function under @register(...)")
    module_spec = importlib.util.spec_from_file_location(module, path, loader=_UsersFile(module, str(path)))
    assert module_spec is not None
    assert module_spec.loader is not None
    loaded = importlib.util.module_from_spec(module_spec)
    sys.modules[module] = loaded
    try:
        module_spec.loader.exec_module(loaded)
    except LayerwiseError:
        raise
    except Exception as error:  # whatever a user's file raises is told with its line
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise UsageError(
            f"{path}, line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}", do="correct the file"
        ) from error
    _load_user_specs().update({spec.name: spec for spec in new})
    specs.cache_clear()
    return new
