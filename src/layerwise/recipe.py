"""A recipe is data: what to train, on what, with which rule, for how long. TOML in, TOML out.

A *resolved* recipe spells out every option of every owner (builder, reader, task, rule), so that it repeats a run
exactly. Owners declare their options as frozen structs or as the builder's signature beside their code; this module
only merges tables and checks them against those declarations.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from layerwise.errors import DamagedError, UsageError, find_nearest, make_unknown_name_error
from layerwise.runtime import strict_json
from layerwise.runtime.bounded_decoding import MAX_DEPTH, decode_toml
from layerwise.runtime.input_files import read_regular_file

FORMAT = 1
LAST = "last"  # as a stage's monitor: no epoch is chosen, the last one's weights are kept
Table = dict[str, Any]
# The ranges of options, for structs and builders' signatures alike. NaN is in none of them.
PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0, le=1e37)]
NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0, le=1e37)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
StructT = TypeVar("StructT", bound=msgspec.Struct)


OWNERS = ("model", "data", "task", "train")


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage of training with its own rule, task, part of the data, parameters and budget.

    ``rule`` and ``task`` are tables with a ``name``; an empty ``task`` means the recipe's own. ``examples`` > 0 trains
    on that many examples, drawn once by class with the recipe's seed: the named, labeled subset of a half-labeled
    set. ``part`` names a part of a model that is trained part by part (``model.part(name)``), and ``*`` stands for one
    such stage for each of ``model.parts()``, named after them; ``parameters`` are shell-style patterns over the names
    of the model's parameters. ``monitor`` is the metric (``val/accuracy``) that picks the best weights, empty for the
    task's own, ``last`` to keep the last epoch's whatever validation says; ``patience`` the epochs without a better one
    before the stage ends (0: never). ``augment`` is a table of the widest changes that training images get
    (`layerwise.functional.augmentation.transforms`); empty for none.
    """

    name: str = "main"
    rule: Table = msgspec.field(default_factory=dict)
    task: Table = msgspec.field(default_factory=dict)
    epochs: int = 10
    batch_size: int = 64
    examples: NonNegativeInt = 0
    part: str = ""
    parameters: tuple[str, ...] = ("*",)
    monitor: str = ""
    patience: NonNegativeInt = 0
    augment: Table = msgspec.field(default_factory=dict)


class Train(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a run runs, whatever it trains.

    ``checkpoint_seconds`` between saves inside an epoch (every epoch saves too; 0 switches both off); ``log_every``
    steps a line in metrics.jsonl; ``threads`` and ``workers`` 0 choose by the machine; ``memory_mib`` is the most a
    data set may take as tensors before it streams (0: a quarter of what is free); ``timeout`` seconds until a silent
    rank counts as lost; ``tensorboard`` writes the log as event files too, into the run's folder of that name;
    ``winograd``: compute 3×3 convolutions in float32 on a CPU by Winograd's tiles where that is faster; else torch
    computes them all.
    """

    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] = 0
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    validate: bool = True
    checkpoint_seconds: NonNegativeFloat = 60.0
    log_every: PositiveInt = 50
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    workers: Annotated[int, msgspec.Meta(ge=-1, le=256)] = 0
    memory_mib: NonNegativeInt = 0
    timeout: PositiveFloat = 300.0
    deterministic: bool = False
    tensorboard: bool = False
    winograd: bool = True


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a run is made from. ``model``, ``data`` and ``task`` are tables whose ``name`` (``source`` for data)
    picks the owner."""

    model: Table
    data: Table
    task: Table
    stages: tuple[Stage, ...]
    train: Train = Train()
    weights: str = ""
    format: int = FORMAT


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML text."""
    return tomli_w.dumps(msgspec.to_builtins(recipe))


def read_toml(path: Path) -> Table:
    """Read a recipe file as a plain table. Raises `DamagedError` for bad TOML and for a newer format."""
    do = "correct the file, or start from a run's recipe.toml"
    table = decode_toml(read_regular_file(path), what=str(path), error=DamagedError, do=do)
    refuse_newer(table, str(path))
    for owner in OWNERS:
        if not isinstance(table.get(owner, {}), Mapping):
            raise UsageError(
                f"a wrong value in {path}: {owner}", expected=f"a table, [{owner}]", received=f"{table[owner]!r:.60}"
            )
    if not _are_tables(table.get("stages", [])):
        raise UsageError(
            f"a wrong value in {path}: stages", expected="tables, [[stages]]", received=f"{table['stages']!r:.60}"
        )
    return table


def refuse_newer(table: Mapping[str, Any], where: str) -> None:
    """Raise `DamagedError` for a recipe of a newer format."""
    version = table.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise DamagedError(
            f"{where} has recipe format {version!r}", expected=f"format {FORMAT} or older", do="update layerwise"
        )


def from_toml(data: bytes, where: str) -> Recipe:
    """Read a resolved recipe, as a run keeps it. Raises `DamagedError` for a newer format, and for what is no
    recipe."""
    table = decode_toml(data, what=where, error=DamagedError, do="bring the file back from a copy, or start a new run")
    refuse_newer(table, where)
    try:
        return from_table(table, where)
    except UsageError as error:
        raise DamagedError(
            f"{where} is damaged: {error.what}", expected=error.expected, received=error.received
        ) from error


def format_toml_value(value: Any) -> str:
    """Return a value as TOML text, for ``--set``. Raises `UsageError` for what TOML cannot hold."""
    if isinstance(value, Mapping):  # an inline table, on one line
        return (
            "{"
            + ", ".join(f"{strict_json.dumps(str(key))} = {format_toml_value(item)}" for key, item in value.items())
            + "}"
        )
    try:
        text = tomli_w.dumps({"v": msgspec.to_builtins(value)})
    except TypeError as error:
        raise UsageError(f"an option cannot hold {type(value).__name__}", expected="texts, numbers, lists") from error
    return text.removeprefix("v = ").strip()


def from_table(table: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Check a recipe's table (as read from TOML) and return the recipe."""
    given = table.get("stages", [])
    if not isinstance(given, list | tuple):
        raise UsageError(
            f"a wrong value in {where}: stages", expected="a list of tables, [[stages]]", received=f"{given!r:.60}"
        )
    stages = [check_table(Stage, stage, where=f"stages of {where}") for stage in given]
    train = check_table(Train, table.get("train", {}), where=f"[train] of {where}")
    rest = {key: value for key, value in table.items() if key not in ("stages", "train")}
    refuse_unknown(rest, [f for f in Recipe.__struct_fields__ if f not in ("stages", "train")], where=where)
    return check_table(Recipe, {**rest, "stages": stages, "train": train}, where=where)


def refuse_unknown(table: Mapping[str, Any], names: list[str], *, where: str) -> None:
    """Raise `UsageError` with the nearest name if the table has a key that is not among ``names``."""
    for key in table:
        if key not in names:
            raise make_unknown_name_error("option", key, names, where=where)


def check_table(kind: type[StructT], table: Mapping[str, Any], *, where: str) -> StructT:
    """Turn a table into the struct that declares its options, or raise `UsageError` naming the key."""
    if not isinstance(table, Mapping):
        raise UsageError(
            f"a wrong value in {where}", expected="a table", received=f"{table!r:.60}", do="correct it in the recipe"
        )
    refuse_unknown(table, list(kind.__struct_fields__), where=where)
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise _make_value_error(kind, table, str(error), where) from error


WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


def _make_value_error(kind: type[msgspec.Struct], table: Mapping[str, Any], error: str, where: str) -> UsageError:
    """Return the error for msgspec's message on a value (``Expected `float` >= 0.0, got … - at `$.lr``): key, expected,
    received."""
    what, _, location = error.partition(" - at `$")
    location = location.strip("`.")
    key = re.split(r"[.\[]", location)[0]
    value = table.get(key)
    expected = re.sub(r"`(\w+)`", lambda m: WORDS.get(m[1], m[1]), what.removeprefix("Expected ").split(", got")[0])
    near = ""
    if choices := _list_choices(next((f.type for f in msgspec.structs.fields(kind) if f.name == key), None)):
        expected = f"one of {', '.join(choices)}"
        near = find_nearest(str(value), choices)
    return UsageError(
        f"a wrong value in {where}: {location}",
        expected=expected,
        received=str(value) if isinstance(value, float) else strict_json.dumps(value, default=str),
        do=f"did you mean '{near}'?" if near else "correct it in the recipe or with --set",
    )


def _list_choices(kind: Any) -> list[str]:
    """Return the names a type allows, empty for others than literals."""
    return [str(name) for name in get_args(kind)] if get_origin(kind) is Literal else []


def make_options_struct(builder: Callable[..., object]) -> type[msgspec.Struct]:
    """Return the frozen struct that a builder's keyword signature declares: the signature *is* the configuration."""
    hints = get_type_hints(builder, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(builder).parameters.items():
        kind = hints.get(name, Any)
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, kind))
        else:
            fields.append((name, kind, parameter.default))
    return msgspec.defstruct(builder.__name__, fields, frozen=True, forbid_unknown_fields=True, kw_only=True)


def get_parameter_names(builder: Callable[..., object]) -> list[str]:
    """Return the names of a builder's parameters."""
    return list(inspect.signature(builder).parameters)


def resolve_arguments(
    builder: Callable[..., object], given: Mapping[str, Any], data: Mapping[str, Any], where: str
) -> Table:
    """Resolve a builder's arguments: the user's, else what the data decide, else the signature's defaults.

    ``data`` may offer more than the builder names (a superset for all kinds of network); the user may not.
    """
    names = get_parameter_names(builder)
    refuse_unknown(given, names, where=where)
    merged = {key: value for key, value in data.items() if key in names} | dict(given)
    kind = make_options_struct(builder)
    missing = [field.name for field in msgspec.structs.fields(kind) if field.required and field.name not in merged]
    if missing:
        raise UsageError(
            f"{where} needs {', '.join(missing)}, which neither the data nor the options give",
            do="; ".join(f"--set model.{name}=…" for name in missing),
        )
    return dict(msgspec.to_builtins(check_table(kind, merged, where=where)))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Lay one table over another, table by table; lists and values replace. Stages merge by position."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            # another owner (a different optimizer rule, task …) has other options: its table starts afresh
            renamed = "name" in value and value["name"] != old.get("name", value["name"])
            out[key] = dict(value) if renamed else merge(old, value)
        elif key == "stages" and _are_tables(old) and _are_tables(value) and len(old) == len(value):
            out[key] = [merge(a, b) for a, b in zip(old, value, strict=True)]
        else:
            out[key] = value
    return out


def _are_tables(value: Any) -> TypeGuard[list[Table]]:
    """Whether a value is a list of tables."""
    return isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value)


def assign(table: Table, setting: str) -> None:
    """Carry out one ``--set KEY=VALUE``: a dotted key, a TOML value (a bare word counts as text), in place.

    ``stages.NAME.KEY`` names a stage; ``rule.KEY``, ``augment.KEY`` and the other keys of a stage mean the only stage
    there is.
    """
    key, equals, text = setting.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(
            "--set takes KEY=VALUE",
            received=f"'{setting}'",
            do="for example --set rule.lr=0.01 or --set data.target=price",
        )
    if len(path) > MAX_DEPTH:
        raise UsageError("--set names too deep a key", expected=f"at most {MAX_DEPTH} names", received=f"{len(path)}")
    try:
        value = decode_toml(
            f"value = {text}".encode("utf-8", "surrogatepass"), what=f"the value of --set {key}", error=UsageError
        )["value"]
    except UsageError as error:
        if error.__cause__ is None:  # no syntax error: it is too large or nested too deep
            raise
        value = text.strip()
    if path[0] in ("rule", "augment") or (len(path) == 1 and path[0] in Stage.__struct_fields__):
        _set_value(get_only_stage(table, setting), path, value)
    elif path[0] == "stages" and len(path) > 2:
        names = [stage.get("name", "main") for stage in table["stages"]]
        if path[1] not in names:
            raise make_unknown_name_error("stage", path[1], names, where=f"--set {setting}")
        _set_value(table["stages"][names.index(path[1])], path[2:], value)
    elif path[0] in OWNERS and (
        len(path) == 2 or path[0] == "task"
    ):  # a task's options may be tables: task.class_weights.cat
        _set_value(table, path, value)
    else:
        raise make_unknown_name_error(
            "recipe key",
            key,
            [*(f"{owner}.…" for owner in OWNERS), "rule.…", "augment.…", "stages.NAME.…", *_list_stage_keys()],
        )


def _list_stage_keys() -> list[str]:
    """Return the keys of a stage that are values."""
    return [f.name for f in msgspec.structs.fields(Stage) if f.type is not Table]


def get_only_stage(table: Table, setting: str) -> Table:
    """Return the single stage of a recipe table; with several, say which names to use."""
    stages: list[Table] = table["stages"]
    if len(stages) == 1:
        return stages[0]
    names = [stage.get("name", "main") for stage in stages]
    raise UsageError(
        f"'{setting}' could mean any of the {len(stages)} stages of this recipe",
        expected="the stage's name before the key",
        do=f"write stages.NAME.{setting} with NAME one of {', '.join(names)}",
    )


def _set_value(table: Table, path: list[str], value: Any) -> None:
    """Set a value at a dotted key, making the tables above it. A new ``name`` resets its owner's options."""
    for step in path[:-1]:
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            raise UsageError(f"'{step}' is a value, not a table", do="see recipe.toml of any run for the keys")
    if path[-1] == "name" and len(path) > 1 and table.get("name", value) != value:
        table.clear()
    table[path[-1]] = value


def find_differences(old: Recipe, new: Recipe) -> list[str]:
    """List the keys on which two resolved recipes differ, as ``key: old → new``."""
    a, b = (_flatten(msgspec.json.decode(msgspec.json.encode(r))) for r in (old, new))
    keys = sorted(a.keys() | b.keys())
    return [f"{key}: {a.get(key, '(absent)')} → {b.get(key, '(absent)')}" for key in keys if a.get(key) != b.get(key)]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables and lists of tables into dotted keys."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, item in items:
        out |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return out
