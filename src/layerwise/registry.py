"""The registry: every network by name. Names and facts are read without importing a model (nor torch).

`register` takes literal values only, so that the models can be read from the source by ``ast``. What the models of a
family share may stand once, in a literal table at the top of the file, and come in as ``**TABLE``. The builder itself
is imported when it is first used. Users add their own models by the entry point group ``layerwise.models`` or by
``--import FILE``.
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
from typing import Any, TypeVar, overload

import msgspec

from layerwise.errors import LayerwiseError, UsageError, make_unknown_name_error
from layerwise.runtime.input_files import read_regular_file, refuse_special_file

Table = dict[str, Any]
BuilderT = TypeVar("BuilderT", bound=Callable[..., Any])
FOLDER = Path(__file__).with_name("models")
GROUP = "layerwise.models"
# the tasks of a model that states none, by the first of these parameters that its builder has
TASKS_BY_PARAMETER = {
    "words": ("words",),
    "outputs": ("classification", "regression"),
    "classes": ("classification",),
    "features": ("reconstruction",),
}


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the registry knows of a network.

    ``rule`` is None where nothing is learned. ``recipe`` holds the default tables (``model``, ``data``, ``task``,
    ``train``, ``stages``); its ``variants`` change them by kind of data (``row``, ``image``), by task, and for under
    5,000 training examples (``small``, ``row-small``, and ``points`` for rows of one or two numbers). ``small`` are
    builder arguments of an instance of at most 100,000 parameters, for tests. ``parameters`` is the count of the
    full-size instance that ``size`` builds. ``why`` says why a model without a rule learns nothing. A user's model may
    leave out all but ``name``, ``tasks`` and ``summary``, which `register` takes from the builder; built-in models
    state everything (``tests/test_contract.py``).
    """

    name: str
    tasks: tuple[str, ...]
    summary: str
    summary_zh: str
    family: str = "user"
    rule: str | None = "backprop"
    year: int | None = None
    paper: str = ""
    parameters: int | None = None
    size: dict[str, Any] = {}
    small: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    aliases: tuple[str, ...] = ()
    why: str = ""
    why_zh: str = ""
    module: str = ""
    builder: str = ""

    @property
    def title(self) -> str:
        """The name, with the year in brackets if it is stated."""
        return self.name if self.year is None else f"{self.name} ({self.year})"


@cache
def _get_builders() -> dict[str, Callable[..., Any]]:
    """Return the builders of the modules imported so far, by model name."""
    return {}


@cache
def _get_user_specs() -> dict[str, ModelSpec]:
    """Return the models that came by ``--import``."""
    return {}


@overload
def register(name: BuilderT, /) -> BuilderT: ...


@overload
def register(
    name: str = "",
    *,
    family: str = "user",
    tasks: Sequence[str] | None = None,
    rule: str | None = "backprop",
    year: int | None = None,
    paper: str = "",
    summary: str = "",
    summary_zh: str = "",
    parameters: int | None = None,
    size: Mapping[str, Any] | None = None,
    small: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    aliases: Sequence[str] = (),
    why: str = "",
    why_zh: str = "",
) -> Callable[[BuilderT], BuilderT]: ...


def register(name: Any = "", **options: Any) -> Any:
    """Register a builder: ``@register`` alone, or with a name and any of the options.

    All values are literals: see `ModelSpec` for their meaning. By default the name is the function's, with hyphens; the
    summary is the first line of its docstring; the tasks follow from its parameters (`TASKS_BY_PARAMETER`); the rule is
    ``backprop``, the family ``user``. Raises `UsageError` for a name that another module has registered.
    """
    del options  # `read_specs` reads them from the source

    def add(builder: BuilderT) -> BuilderT:
        known, own_name = _get_builders(), name if isinstance(name, str) and name else _name_model(builder.__name__)
        if own_name in known and known[own_name].__module__ != builder.__module__:
            raise UsageError(
                f"two models are named '{own_name}'",
                received=f"{builder.__module__} and {known[own_name].__module__}",
            )
        known[own_name] = builder
        return builder

    return add(name) if callable(name) else add


def _name_model(builder: str) -> str:
    """Return the name of a model that states none, from its builder's."""
    return builder.replace("_", "-")


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
            tables |= _read_dict_literal(node)
        if isinstance(node, ast.FunctionDef):
            for decorator in filter(_is_register, node.decorator_list):
                specs.append(_read_spec(decorator, node, path, tables, module=module))
    return specs


def _is_register(decorator: ast.expr) -> bool:
    """Whether a decorator is `register`, called or bare."""
    if isinstance(decorator, ast.Call):
        return getattr(decorator.func, "id", getattr(decorator.func, "attr", "")) == "register"
    return ast.unparse(decorator) in ("register", "registry.register", "layerwise.registry.register")


def _read_dict_literal(node: ast.Assign | ast.AnnAssign) -> dict[str, Table]:
    """Return a top-level dict literal by its variable name; empty if the node is not one."""
    (target, *others) = node.targets if isinstance(node, ast.Assign) else [node.target]
    if others or not isinstance(target, ast.Name) or not isinstance(node.value, ast.Dict):
        return {}
    try:
        return {target.id: ast.literal_eval(node.value)}
    except ValueError:
        return {}


def _read_spec(
    decorator: ast.expr, function: ast.FunctionDef, path: Path, tables: Mapping[str, Table], *, module: str
) -> ModelSpec:
    """Return the model of a decorated function; ``tables`` are those of the file, which it may use with ``**``."""
    try:
        options = _read_options(decorator, tables) if isinstance(decorator, ast.Call) else {}
        defaults = _infer_spec_fields(function, options, where=f"{path}, line {function.lineno}")
        return msgspec.convert({**defaults, **options, "module": module, "builder": function.name}, ModelSpec)
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise UsageError(
            f"{path}, line {decorator.lineno}: @register cannot be read: {error}",
            expected="literal values (texts, numbers, lists, tables), as in CONTRIBUTING.md",
        ) from error


def _read_options(call: ast.Call, tables: Mapping[str, Table]) -> Table:
    """Return the literal values of one ``@register(...)`` by name. Raises `ValueError` for others."""
    options: Table = {}
    for name, argument in zip(("name",), call.args, strict=False):
        options[name] = ast.literal_eval(argument)
    for keyword in call.keywords:
        if keyword.arg is not None:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        elif isinstance(keyword.value, ast.Name) and keyword.value.id in tables:
            options |= tables[keyword.value.id]
        else:
            raise ValueError(f"**{ast.unparse(keyword.value)} is no literal table at the top of this file")
    return options


def _infer_spec_fields(function: ast.FunctionDef, options: Mapping[str, Any], *, where: str) -> Table:
    """Return what a builder says of its model where the ``options`` do not: name, summary and tasks.

    Raises `UsageError` if the parameters of a model with a rule leave the tasks open.
    """
    docstring = (ast.get_docstring(function) or "").strip()
    name = _name_model(function.name)
    summary = options.get("summary") or docstring.split("\n")[0].rstrip(".") or options.get("name", name)
    parameters = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    tasks = next((tasks for parameter, tasks in TASKS_BY_PARAMETER.items() if parameter in parameters), ())
    if not tasks and "tasks" not in options and options.get("rule", "backprop") is not None:
        raise UsageError(
            f"{where}: the parameters of {function.name} leave its tasks open",
            expected=f"one of the parameters {', '.join(TASKS_BY_PARAMETER)}, or tasks=(…) in @register",
            received=f"{function.name}({', '.join(parameters)})",
        )
    return {"name": name, "summary": summary, "summary_zh": summary, "tasks": tasks}


@cache
def load_specs() -> dict[str, ModelSpec]:
    """Return every model by name, in the order of year and name; those without a year come last."""
    by_name: dict[str, ModelSpec] = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        for spec in read_specs(path, f"layerwise.models.{path.stem}"):
            _add_spec(by_name, spec)
    for module in _find_offered_modules():
        module_spec = importlib.util.find_spec(module)
        if module_spec is not None and module_spec.origin:
            for spec in read_specs(Path(module_spec.origin), module):
                _add_spec(by_name, spec)
    for spec in _get_user_specs().values():
        _add_spec(by_name, spec)
    specs = sorted(by_name.values(), key=lambda spec: (spec.year is None, spec.year, spec.name))
    return {spec.name: spec for spec in specs}


def _find_offered_modules() -> list[str]:
    """Return the modules in which installed packages offer models.

    Their entry point files are searched first: `importlib.metadata` takes 40 ms to load, even for a typo in a name.
    """
    files = (path for folder in sys.path for path in Path(folder or ".").glob("*-info/entry_points.txt"))
    if not any(GROUP.encode() in path.read_bytes() for path in files):
        return []
    from importlib.metadata import entry_points

    return [point.value for point in entry_points(group=GROUP)]


def _add_spec(by_name: dict[str, ModelSpec], spec: ModelSpec) -> None:
    """Add a model. Raises `UsageError` for a name that is taken."""
    if spec.name in by_name:
        raise UsageError(
            f"two models are named '{spec.name}'", received=f"{by_name[spec.name].module} and {spec.module}"
        )
    by_name[spec.name] = spec


def list_models(*, family: str = "") -> list[ModelSpec]:
    """Return the models, of one family if it is named. Raises `UsageError` for an unknown family."""
    families = sorted({spec.family for spec in load_specs().values()})
    if family and family not in families:
        raise make_unknown_name_error("family", family, families)
    return [spec for spec in load_specs().values() if family in ("", spec.family)]


def find(name: str, *, where: str = "") -> ModelSpec:
    """Return the model of this name or alias, or raise `UsageError` with the nearest name, and ``where`` the name
    was given."""
    known = load_specs()
    by_alias = {alias: spec for spec in known.values() for alias in spec.aliases}
    spec = known.get(name) or by_alias.get(name)
    if spec is None:
        raise make_unknown_name_error("model", name, known, where=where, do="a network of your own needs --import FILE")
    return spec


def refuse_without_rule(spec: ModelSpec) -> None:
    """Raise `UsageError` for a network that learns nothing, saying why."""
    if spec.rule is None:
        raise UsageError(
            f"{spec.title} cannot be trained: {spec.why or 'it has no learning rule'}",
            do=f"layerwise inspect {spec.name} shows what it does",
        )


def get_builder(spec: ModelSpec) -> Callable[..., Any]:
    """Import the model's module and return its builder."""
    if spec.name not in _get_builders():
        importlib.import_module(spec.module)
    return _get_builders()[spec.name]


class _UserFileLoader(SourceFileLoader):
    """Run a user's Python file without leaving a compiled copy beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def import_file(path: Path) -> list[ModelSpec]:
    """Run a user's Python file and add its models to the registry (``--import FILE``)."""
    refuse_special_file(path)
    if not path.is_file():
        raise UsageError(
            f"there is no file {path}", expected="a Python file with @register models", do="check --import"
        )
    module = f"layerwise_user_{path.stem}"
    new = read_specs(path, module)
    if not new:
        raise UsageError(f"{path} registers no network", expected="a function under @register")
    module_spec = importlib.util.spec_from_file_location(module, path, loader=_UserFileLoader(module, str(path)))
    assert module_spec is not None
    assert module_spec.loader is not None
    loaded = importlib.util.module_from_spec(module_spec)
    sys.modules[module] = loaded
    try:
        module_spec.loader.exec_module(loaded)
    except LayerwiseError:
        raise
    except Exception as error:  # report whatever a user's file raises with its line
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise UsageError(
            f"{path}, line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}", do="correct the file"
        ) from error
    _get_user_specs().update({spec.name: spec for spec in new})
    load_specs.cache_clear()
    return new
