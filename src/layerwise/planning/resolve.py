"""From a user's request to a plan: the resolved recipe, the data, the task, the network's arguments."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from layerwise import recipe, registry
from layerwise.data import splits
from layerwise.data.load import Options as DataOptions
from layerwise.data.load import load_splits
from layerwise.data.source import Schema, Source, Splits
from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.nn.rbm import HasParts
from layerwise.planning import transfer
from layerwise.planning.transfer import HEAD, find_head
from layerwise.recipe import LAST, Recipe, Stage, Table
from layerwise.rules import registry as rules
from layerwise.run_directory import RunDirectory
from layerwise.runtime import rng
from layerwise.runtime.input_files import refuse_special_file
from layerwise.tasks import augmentation
from layerwise.tasks import registry as tasks
from layerwise.tasks.base import Task
from layerwise.tasks.input_options import InputOptions
from layerwise.tasks.inputs import ImageInputs
from layerwise.tasks.row_inputs import RowInputs

# under so many training examples a recipe's variants "small", "image-small" or "row-small", and "points" apply
SMALL = 5000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for. ``model`` is a model's name or a recipe file; None leaves a value to the recipe.

    ``transfer`` turns the recipe's last stage into two, the head and then all (transfer.py).
    ``lang`` is the report's language; ``settings`` are KEY=VALUE overrides;
    ``allow_changes`` lets a resume go on although data, recipe or world differ.
    """

    model: str
    data: str | None = None
    task: str | None = None
    out: Path | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool | None = None
    weights: str | None = None
    transfer: bool = False
    on_error: str | None = None
    lang: Literal["en", "zh"] = "en"
    resume: bool = False
    allow_changes: bool = False
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first step. ``stage_tasks`` has each stage's task; ``task`` is the run's."""

    recipe: Recipe
    spec: registry.ModelSpec
    splits: Splits
    task: Task
    stage_tasks: tuple[Task, ...]
    model_args: Table

    def get_training_source(self, stage: Stage) -> Source:
        """Return the examples a stage trains on: the training part, or the named number of them."""
        return splits.draw_subset(self.splits.train, stage.examples, self.recipe.train.seed)


def load_base_table(request: Request) -> tuple[registry.ModelSpec, Table]:
    """Return the model and the user's recipe file as a table (empty tables for a model's name)."""
    path = Path(request.model)
    refuse_special_file(path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError(f"there is no recipe {path}", expected="a model's name or a recipe file")
        if request.resume and path.name == "recipe.toml" and (path.parent / "run.json").is_file():
            RunDirectory.open(path.parent).read(path.name)  # a damaged recipe is named as such
        table = recipe.read_toml(path)
        recipe.refuse_unknown(table, list(Recipe.__struct_fields__), where=str(path))
        model = table.get("model")
        if not isinstance(model, dict) or "name" not in model:
            raise UsageError(f"{path} names no model", expected='[model] with name = "mlp", say')
        return registry.find(str(model["name"])), table
    return registry.find(request.model), {}


def merge_recipe(spec: registry.ModelSpec, table: Table, request: Request, *variants: str) -> Table:
    """Merge the model's defaults, their variants (rows, regression, small …), the recipe file and the options; later
    ones win."""
    defaults = copy.deepcopy(spec.recipe)
    known = defaults.pop("variants", {})
    for stage in defaults.get("stages", []):  # so that another rule's name starts its options afresh
        stage["rule"] = {"name": spec.rule, **stage.get("rule", {})}
    out: Table = {"model": {}, "data": {}, "task": {}, "train": {}, "stages": [{}]}
    for layer in (defaults, *(known.get(variant, {}) for variant in variants), table):
        out = recipe.merge(out, layer)
    out = copy.deepcopy(out)
    out["model"]["name"] = spec.name
    for key, value in (("source", request.data), ("on_error", request.on_error)):
        if value is not None:
            out["data"][key] = value
    if request.weights is not None:
        out["weights"] = request.weights
    for key in ("seed", "device", "precision", "compile"):
        if getattr(request, key) is not None:
            out["train"][key] = getattr(request, key)
    if request.lr is not None:
        recipe.assign(out, f"rule.lr={request.lr!r}")
    if request.transfer:
        transfer.require_weights(out.get("weights"))
        out["stages"] = copy.deepcopy(transfer.split_last_stage(out["stages"], spec.rule))
    for key in ("epochs", "batch_size"):
        if getattr(request, key) is not None:
            for stage in out["stages"]:
                stage[key] = getattr(request, key)
    for setting in request.settings:
        recipe.assign(out, setting)
    if out["model"]["name"] != spec.name:
        raise UsageError(
            f"model.name is the command's own word: {spec.name}",
            received=f"model.name = '{out['model']['name']}'",
            do=f"layerwise train {out['model']['name']} …",
        )
    return out


def make_plan(request: Request) -> Plan:
    """Resolve a request. Opens and checks the data; raises `UsageError` or `DataError` before anything is written."""
    spec, file_table = load_base_table(request)
    registry.refuse_without_rule(spec)
    first = merge_recipe(spec, file_table, request)
    if not first["data"].get("source"):
        raise UsageError(
            f"{spec.name} needs data to train on",
            expected="--data with a named data set or a path",
            do=f"layerwise data lists the names; for example: layerwise train {spec.name} --data digits",
        )
    seed = recipe.check_table(recipe.Train, first["train"], where="[train]").seed
    data_options = recipe.check_table(DataOptions, first["data"], where="[data]")
    parts = load_splits(data_options, seed=seed)
    wanted_task = request.task or str(first["task"].get("name", ""))
    name = tasks.choose_task(parts.train.schema, spec.tasks, model=spec.name, wanted=wanted_task)
    schema = parts.train.schema
    small = ("small", f"{schema.kind}-small") if len(parts.train) < SMALL else ()
    points = ("points",) if small and has_one_or_two_numeric_inputs(schema) else ()
    table = merge_recipe(spec, file_table, request, schema.kind, name, *small, *points)
    return _resolve_plan(spec, table, data_options=data_options, parts=parts, task_name=name)


def has_one_or_two_numeric_inputs(schema: Schema) -> bool:
    """Whether the inputs are the inputs are one or two numeric columns, so that the function can be plotted."""
    return (
        schema.kind == "row" and 1 <= len(schema.table) <= 2 and all(column.kind == "number" for column in schema.table)
    )


def _resolve_plan(
    spec: registry.ModelSpec, merged: Table, *, data_options: DataOptions, parts: Splits, task_name: str
) -> Plan:
    """Spell out every option and fit the tasks to the training part."""
    task_table = tasks.resolve_task(
        {**_get_run_scaling(merged, parts.train.schema), **merged["task"], "name": task_name}, f"[task] {task_name}"
    )
    task = _prepare_task(task_table, parts.train, data_options)
    notes = [f"{part}: {note}" for part in ("val", "test") for note in task.inputs.notes(parts.part(part))]
    converted = Splits(
        task.convert_source(parts.train),
        task.convert_source(parts.val),
        task.convert_source(parts.test),
        parts.name,
        columns=parts.columns,
    )
    all_notes = (*parts.notes, *notes, *splits.find_repeated_rows(converted), *task.notes(converted.train))
    converted = dataclasses.replace(converted, notes=all_notes)
    builder = registry.get_builder(spec)
    model_options = {key: value for key, value in merged["model"].items() if key != "name"}
    _refuse_contradiction(spec, model_options, decided=task.model_args(), rows=parts.train.schema.kind == "row")
    args = recipe.resolve_arguments(builder, model_options, task.model_args(), f"[model] of {spec.name}")
    _refuse_embedding(spec, task, recipe.get_parameter_names(builder))
    stages, stage_tasks = [], []
    for stage in _expand_stages(merged["stages"], builder, args):
        rule = rules.resolve_rule({"name": spec.rule, **stage.rule}, f"the rule of stage '{stage.name}'")
        if data_options.weight and rule["name"] != "backprop":
            raise UsageError(
                f"the rule {rule['name']} counts every row alike",
                received=f"data.weight = '{data_options.weight}'",
                do="--set 'data.drop=[…]' leaves the column out; the rule backprop takes weights",
            )
        stage_task, table = task, task_table
        if stage.task:
            other = str(stage.task.get("name", task_name))
            table = tasks.resolve_task(
                {**_get_shared_options(task_table), **stage.task, "name": other}, f"[task] {other}"
            )
            stage_task = task if table == task_table else _prepare_task(table, parts.train, data_options)
        if stage.epochs < 0 or stage.batch_size < 1:
            raise UsageError(
                f"stage '{stage.name}' cannot train for {stage.epochs} epochs in batches of {stage.batch_size}",
                expected="epochs of 0 or more, a batch_size of 1 or more",
            )
        if stage.monitor == LAST and stage.patience:
            raise UsageError(
                f"stage '{stage.name}' keeps its last weights, so no epoch is better than another and "
                "patience waits for nothing",
                expected="stage.patience = 0 where monitor is last",
                received=f"patience {stage.patience}",
            )
        changes = augmentation.resolve_augment(
            stage.augment, stage_task.inputs, f"stage '{stage.name}'", rule=str(rule["name"])
        )
        stages.append(msgspec.structs.replace(stage, rule=rule, task=table, augment=changes))
        stage_tasks.append(stage_task)
    resolved = Recipe(
        model={"name": spec.name, **_get_recorded_arguments(builder, args, model_options, task)},
        data=msgspec.to_builtins(data_options),
        task=task_table,
        stages=tuple(stages),
        train=recipe.check_table(recipe.Train, merged["train"], where="[train]"),
        weights=str(merged.get("weights", "")),
    )
    return Plan(resolved, spec, converted, task, tuple(stage_tasks), args)


def _refuse_contradiction(spec: registry.ModelSpec, given: Table, *, decided: Table, rows: bool) -> None:
    """Refuse rows for a network of images, and arguments that contradict the data."""
    if rows and "channels" in recipe.get_parameter_names(registry.get_builder(spec)):
        raise UsageError(
            f"{spec.name} looks at images, and these data are rows",
            expected="class folders, IDX files or archives of images",
            do="choose a network for rows, such as mlp (layerwise models)",
        )
    for name in given.keys() & decided.keys():
        if msgspec.json.encode(decided[name]) != msgspec.json.encode(given[name]):
            raise UsageError(
                f"model.{name} is decided by the data",
                expected=f"{decided[name]}",
                received=f"model.{name} = {given[name]}",
                do=f"leave model.{name} out",
            )


def _refuse_embedding(spec: registry.ModelSpec, task: Task, names: Iterable[str]) -> None:
    """Refuse to embed categories for a network without an embedding."""
    if task.model_args().get("embedded") and "embedded" not in names:
        raise UsageError(
            f"{spec.name} has no vectors for categories",
            received="task.embed_above > 0",
            do="--set task.embed_above=0 makes them one-hot",
        )


def _expand_stages(raw: list[Table], builder: Callable[..., Any], args: Table) -> list[Stage]:
    """Check the stages, and replace a stage for ``*`` by one for each of the model's parts."""
    out: list[Stage] = []
    for number, table in enumerate(raw):
        stage = recipe.check_table(Stage, table, where=f"stage {number + 1}")
        if HEAD in stage.parameters:
            stage = msgspec.structs.replace(stage, parameters=_expand_head(stage, builder, args))
        if not stage.part:
            out.append(stage)
            continue
        with rng.preserve_rng_state():  # not on the meta device: normal draws there load torch's compiler for 1.5 s
            model = builder(**args)
        if not hasattr(model, "parts"):
            raise UsageError(
                f"this network is not trained part by part (stage '{stage.name}')",
                received=f"part = '{stage.part}'",
                do="leave part out; parameters=[…] chooses weights by their names",
            )
        parts = cast(HasParts, model).parts()
        if stage.part == "*":
            out += [msgspec.structs.replace(stage, name=part, part=part) for part in parts]
        elif stage.part in parts:
            out.append(stage)
        else:
            raise make_unknown_name_error("part", stage.part, parts, where=f"stage '{stage.name}'")
    return out


def _expand_head(stage: Stage, builder: Callable[..., Any], args: Table) -> tuple[str, ...]:
    """Return a stage's patterns with ``@head`` replaced by the head's names."""
    head = find_head(builder, args)
    if not head:
        raise UsageError(
            f"this network has no head (stage '{stage.name}')",
            expected="a network with a number of outputs",
            received=f"'{HEAD}'",
            do="name the parameters themselves",
        )
    return tuple(name for pattern in stage.parameters for name in (head if pattern == HEAD else (pattern,)))


def _get_run_scaling(table: Table, schema: Schema) -> Table:
    """Return the scaling of images of the run whose weights training begins with, unless the recipe has its own."""
    path = Path(str(table.get("weights") or ""))
    try:
        is_run = (path / "run.json").is_file()
    except (OSError, ValueError) as error:  # a name that no file system takes
        raise UsageError(
            "the recipe's weights are no path", expected="a run or a file", received=f"{str(path)!r:.60}"
        ) from error
    if not is_run or table["task"].keys() & {"scale", "mean", "std"}:
        return {}
    inputs = tasks.load_task(RunDirectory.open(path).read_task(), path / "task.json").inputs
    if not isinstance(inputs, ImageInputs) or schema.kind != "image" or inputs.channels != schema.shape[2]:
        return {}
    return {"mean": list(inputs.mean), "std": list(inputs.std)}


def _get_shared_options(task_table: Table) -> Table:
    """Return the options of the run's task that every task has, for a stage with another task."""
    return {key: task_table[key] for key in InputOptions.__struct_fields__ if key in task_table}


def _prepare_task(table: Table, train: Source, data_options: DataOptions) -> Task:
    """Fit a task to the training part; it gets the options for reading tables too."""
    kind = tasks.find_task(table["name"])
    options = recipe.check_table(kind.Options, {k: v for k, v in table.items() if k != "name"}, where="[task]")
    task = kind.prepare(train, options)
    if isinstance(task.inputs, RowInputs):
        o = data_options
        task.inputs = dataclasses.replace(task.inputs, missing=o.missing, dates=o.dates, encoding=o.encoding)
    return task


def _get_recorded_arguments(builder: Callable[..., Any], args: Table, given: Table, task: Task) -> Table:
    """Return the model's arguments that the recipe records: all but those that the data decide each time."""
    decided = set(task.model_args()) - set(given)
    names = recipe.get_parameter_names(builder)
    return {key: value for key, value in args.items() if key in names and key not in decided}
