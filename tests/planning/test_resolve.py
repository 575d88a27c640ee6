"""From a request to a plan: which of a model's tables count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerwise import recipe, registry
from layerwise.planning import resolve
from layerwise.planning.resolve import Plan, Request, make_plan


def stages(plan: Plan) -> list[tuple[str, int, int, float]]:
    return [(stage.name, stage.epochs, stage.batch_size, stage.rule["lr"]) for stage in plan.recipe.stages]


def test_small_data_take_the_small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ["layer-1", "layer-2", "layer-3"]
    small = make_plan(Request(model="dbn", data="digits"))  # 1,259 training examples
    assert stages(small) == [*((name, 40, 16, 0.4) for name in layers[:2]), ("fine-tune", 30, 16, 0.003)]
    monkeypatch.setattr(resolve, "SMALL", 1000)
    large = make_plan(Request(model="dbn", data="digits"))
    assert stages(large) == [*((name, 10, 128, 0.05) for name in layers), ("fine-tune", 30, 64, 0.001)]


def test_what_a_user_says_lies_over_every_variant(tmp_path: Path) -> None:
    plan = make_plan(Request(model="rbm", data="digits", epochs=2, settings=("rule.lr=0.3",)))
    assert stages(plan) == [("main", 2, 16, 0.3)]
    file = tmp_path / "own.toml"
    file.write_text('[model]\nname = "rbm"\n[data]\nsource = "digits"\n[[stages]]\nbatch_size = 50\n')
    assert stages(make_plan(Request(model=str(file)))) == [("main", 60, 50, 0.1)]


def test_composing_leaves_the_card_as_it_was() -> None:
    spec = registry.find("dbn")
    before = json.dumps(spec.recipe)
    table = resolve.merge_recipe(spec, {}, Request(model="dbn", epochs=3), "small")
    recipe.assign(table, "stages.fine-tune.rule.lr=0.5")
    assert json.dumps(spec.recipe) == before
