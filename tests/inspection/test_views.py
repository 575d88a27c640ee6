"""Summary, mistakes, samples, truth table, and the registry of views."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from layerwise import registry
from layerwise.cli import main
from layerwise.data.source import ArraySource, Schema, Splits
from layerwise.errors import UsageError
from layerwise.inspection import VIEWS, inspect_target, render_view
from layerwise.inspection.base import Target
from layerwise.models.boltzmann import dbn
from layerwise.models.feedforward import mlp
from layerwise.tasks.classification import Classification

GATES = {
    "and": lambda *x: int(all(x)),
    "or": lambda *x: int(any(x)),
    "not": lambda x: int(not x),
    "nand": lambda *x: int(not all(x)),
    "nor": lambda *x: int(not any(x)),
    "xor": lambda a, b: a ^ b,
}


def images() -> ArraySource:
    inputs = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    return ArraySource(Schema("image", (4, 4, 1), "class", ("一", "二")), inputs, np.arange(20) % 2, "p")


def test_names_are_known_without_torch() -> None:
    code = "import sys, layerwise.inspection as i; assert 'summary' in i.VIEWS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_view(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--help"]) == 0
    shown = re.sub(r"[\s│]", "", capsys.readouterr().out)
    assert f"oneof{','.join(VIEWS)}" in shown


def test_an_unknown_view_answers_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'gradients'"):
        render_view("gradient", Target(spec=registry.find("mlp")))


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_views_that_need_a_run_refuse_a_model(name: str) -> None:
    if VIEWS[name].needs not in ("", "data?"):
        with pytest.raises(UsageError, match="layerwise train lenet5"):
            inspect_target(name, "lenet5")


@pytest.mark.parametrize("name", sorted(registry.load_specs()))
def test_summary_counts_every_parameter_of_every_model(name: str) -> None:
    spec = registry.find(name)
    view = render_view("summary", Target(spec=spec, arguments=dict(spec.small)))
    model = registry.get_builder(spec)(**spec.small)
    total = sum(p.numel() for p in model.parameters())
    assert view.data["totals"]["parameters"] == total
    assert sum(layer["parameters"] for layer in view.data["layers"]) == total
    json.dumps(view.data)


def test_summary_shapes_and_work_of_lenet5() -> None:
    view = inspect_target("summary", "lenet5")
    shapes = {layer["name"]: layer["output"] for layer in view.data["layers"]}
    assert shapes["features.0"] == [1, 6, 28, 28]
    assert shapes["features.5"] == [1, 16, 5, 5]
    assert shapes["classifier.4"] == [1, 10]
    # by hand: 6·25·28² + 16·150·10² + 400·120 + 120·84 + 84·10
    assert view.data["totals"]["multiply_adds"] == 117600 + 240000 + 48000 + 10080 + 840
    assert view.data["totals"]["parameters"] == 61706


def test_mistakes_are_the_wrong_ones_of_highest_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = images()
    task = Classification.prepare(source, Classification.Options())
    model = mlp(features=16, outputs=2, hidden=(4,))
    view = render_view(
        "mistakes",
        Target(spec=registry.find("mlp"), model=model, task=task, splits=Splits(source, source, source, "p")),
        out=tmp_path,
    )
    logits = model(task.inputs.tensor(source.inputs)).detach().double()
    wrong = []
    for i in range(20):
        losses = -torch.log_softmax(logits[i], 0)
        if int(logits[i].argmax()) != i % 2:
            wrong.append((float(losses[i % 2]), i))
    assert [m["index"] for m in view.data["mistakes"]] == [i for _, i in sorted(wrong, reverse=True)]
    assert view.data["wrong"] == len(wrong)
    assert [m["loss"] for m in view.data["mistakes"]] == pytest.approx(
        [loss for loss, _ in sorted(wrong, reverse=True)], abs=1e-5
    )
    assert [p.name for p in view.figures] == ["mistakes.svg"]
    assert "一" in view.text


def test_samples_repeat_and_leave_the_machines_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = images()
    task = Classification.prepare(source, Classification.Options(scale="unit"))
    model = dbn(features=16, classes=2, hidden=(6, 5))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    target = Target(spec=registry.find("dbn"), model=model, task=task, examples=7)
    one, two = render_view("samples", target, out=tmp_path), render_view("samples", target)
    assert one.data == two.data
    assert np.shape(one.data["samples"]) == (7, 16)
    assert [p.name for p in one.figures] == ["samples.svg", "filters.svg"]
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_samples_of_another_network_are_refused() -> None:
    source = images()
    task = Classification.prepare(source, Classification.Options())
    with pytest.raises(UsageError, match="mlp draws no samples"):
        render_view("samples", Target(spec=registry.find("mlp"), model=mlp(features=16, outputs=2), task=task))


def test_truth_tables_equal_python() -> None:
    view = inspect_target("truth-table", "mcp")
    assert [gate["gate"] for gate in view.data["gates"]] == list(GATES)
    for gate in view.data["gates"]:
        for row in gate["table"]:
            assert row["output"] == GATES[gate["gate"]](*row["inputs"]), (gate["gate"], row)


def test_truth_table_of_one_gate_with_three_inputs() -> None:
    view = render_view("truth-table", Target(spec=registry.find("mcp"), arguments={"gate": "nor", "inputs": 3}))
    assert [row["output"] for row in view.data["gates"][0]["table"]] == [1, 0, 0, 0, 0, 0, 0, 0]


def test_truth_table_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="truth table"):
        inspect_target("truth-table", "mlp")


def test_views_speak_chinese() -> None:
    assert "每个样本 416,520 次乘加" in inspect_target("summary", "lenet5", lang="zh").text
    assert "若 +1·x1 +1·x2 ≥ 1 则为 1" in inspect_target("truth-table", "mcp", lang="zh").text
