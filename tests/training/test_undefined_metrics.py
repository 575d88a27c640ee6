"""A metric that is not finite is never the best, is said, and is null in JSON; what is not defined says why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerwise import api
from layerwise.cli import main
from layerwise.inference.evaluate import evaluate_run
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.tasks.base import Goal
from layerwise.training import session
from layerwise.training.meters import BestEpoch, describe_undefined_metrics
from small_runs import fit

VALUES = st.sampled_from([math.nan, math.inf, -math.inf, None]) | st.floats(-9, 9)


@given(st.lists(VALUES, max_size=12), st.booleans())
def test_the_best_epoch_is_that_of_the_finite_values_alone(values: list[float | None], more: bool) -> None:
    """Oracle: Python's max and min over the finite ones; the first of equals."""
    goal, best = Goal("m", more), BestEpoch()
    for epoch, value in enumerate(values):
        if best.is_improved_by(math.nan if value is None else value, goal):
            best = BestEpoch(0, value, epoch)
    finite = [(v, -n) for n, v in enumerate(values) if v is not None and math.isfinite(v)]
    if not finite:
        assert best.value is None
        return
    wanted = max(finite) if more else min(finite, key=lambda pair: (pair[0], -pair[1]))
    assert (best.value, best.epoch) == (wanted[0], -wanted[1])


def test_a_best_value_of_an_older_run_that_is_not_finite_is_beaten() -> None:
    assert BestEpoch(0, math.nan, 1).is_improved_by(5.0, Goal("rmse", False))
    assert not BestEpoch(0, math.nan, 1).is_improved_by(math.nan, Goal("rmse", False))


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the validation of some epochs, counted from 1, come out as NaN."""
    real, calls = session.evaluate, [0]

    def spoil(*epochs: int) -> None:
        calls[0] = 0

        def evaluate(*given: Any, **more: Any) -> Any:
            evaluation = real(*given, **more)
            if more.get("full"):
                return evaluation
            calls[0] += 1
            spoil_it = not epochs or calls[0] in epochs
            return evaluation._replace(metrics=dict.fromkeys(evaluation.metrics, math.nan)) if spoil_it else evaluation

        monkeypatch.setattr(session, "evaluate", evaluate)

    return spoil


def best_of(path: Path) -> dict[str, Any]:
    checkpoint = RunDirectory(path).restore("best")
    assert checkpoint is not None
    best: dict[str, Any] = checkpoint.info["best"]
    return best


def test_a_first_epoch_of_nan_is_not_kept_for_good(spoiled: Any, tmp_path: Path) -> None:
    spoiled(1, 3)
    run = fit(tmp_path / "r", epochs=4)
    rows = [row["val/accuracy"] for row in run.info["history"]]
    assert [value is None for value in rows] == [True, False, True, False]
    assert best_of(run.path)["epoch"] == (2 if rows[1] >= rows[3] else 4)
    assert run.info["verdicts"][0][0] == "val/accuracy was not finite in 2 of 4 epochs: none of these is the best epoch"
    assert "4 轮中有 2 轮的 val/accuracy 不是有限数" in run.info["verdicts"][0][1]


def test_where_every_epoch_is_nan_the_last_weights_are_kept_and_it_is_said(
    spoiled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled()
    arguments = [
        "train",
        "mlp",
        "--data",
        "digits",
        "--epochs",
        "3",
        "--seed",
        "5",
        "--out",
        "r",
        "--set",
        "train.threads=1",
    ]
    assert main(arguments) == 0
    assert "val/accuracy was not finite in 3 of 3 epochs: the last epoch's weights are kept" in capsys.readouterr().err
    best, last = RunDirectory(Path("r")).restore("best"), RunDirectory(Path("r")).restore("last")
    assert best is not None
    assert last is not None
    assert best.info["best"]["epoch"] == 3
    assert best.info["best"]["value"] is None
    assert all(torch.equal(best.model[name], last.model[name]) for name in last.model)
    for name in ("run.json", "checkpoints/last/state.json", "checkpoints/best/state.json"):
        json.loads(Path("r", name).read_text(), parse_constant=pytest.fail)
    for text in Path("r/metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)
    assert {problem for problem in verify(RunDirectory(Path("r"))).values() if problem} == set()


def test_a_resumed_run_finds_its_best_among_the_finite(
    spoiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of NaN, saved; then two of numbers: the best is one of these."""
    spoiled()
    run = fit(tmp_path / "r", epochs=2)
    assert best_of(run.path)["epoch"] == 2
    monkeypatch.undo()
    assert main(["train", str(run.path / "recipe.toml"), "--resume", "--allow-changes", "--epochs", "4"]) == 0
    best = best_of(run.path)
    assert best["epoch"] in (3, 4)
    assert math.isfinite(best["value"])
    assert [row["val/accuracy"] is None for row in run.info["history"]] == [True, True, False, False]


def test_monitoring_the_last_epoch_stays_so(spoiled: Any, tmp_path: Path) -> None:
    spoiled()
    run = fit(tmp_path / "r", epochs=2, options={"monitor": "last"})
    assert best_of(run.path)["epoch"] == 2
    assert run.info["verdicts"][0][0] == "val/accuracy was not finite in 2 of 2 epochs"


def test_patience_ends_a_stage_without_a_finite_metric(spoiled: Any, tmp_path: Path) -> None:
    spoiled()
    run = fit(tmp_path / "r", epochs=9, options={"patience": 2})
    assert len(run.info["history"]) == 2
    assert best_of(run.path)["epoch"] == 2


def test_notes_count_each_metric() -> None:
    rows = [
        {"stage": "a", "val/loss": None, "val/rmse": 1.0},
        {"stage": "a", "val/loss": math.inf, "val/rmse": None},
        {"stage": "b"},
    ]
    notes = [english for english, _ in describe_undefined_metrics(rows, "a", Goal("rmse", False), last=False)]
    assert notes == [
        "val/loss was not finite in 2 of 2 epochs",
        "val/rmse was not finite in 1 of 2 epochs: none of these is the best epoch",
    ]
    assert describe_undefined_metrics(rows, "b", Goal("rmse", False), last=False) == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and a regression on small tables, with tables of one class and of equal targets beside them."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [(i % 7, i / 9) for i in range(60)]
    for name, of in (("c", lambda i: "pq"[i % 2]), ("n", lambda i: f"{i / 3:.2f}")):
        (folder / f"{name}.csv").write_text(
            "a,x,y\n" + "".join(f"{a},{x:.3f},{of(i)}\n" for i, (a, x) in enumerate(rows))
        )
        api.train("mlp", data=folder / f"{name}.csv", out=folder / name, epochs=2)
    (folder / "one-class.csv").write_text("a,x,y\n1,2.5,p\n2,3.5,p\n")
    (folder / "equal.csv").write_text("a,x,y\n1,2.5,1.5\n2,3.5,1.5\n")
    return folder


@pytest.mark.parametrize(
    ("run", "data", "metric", "why"),
    [
        ("c", "one-class.csv", "roc-auc", "all examples are of one class"),
        ("n", "equal.csv", "r2", "all targets are equal"),
    ],
)
def test_what_is_not_defined_is_null_and_says_why(
    runs: Path, run: str, data: str, metric: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(runs / run), "--data", str(runs / data), "--json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["metrics"][metric] is None
    assert f"{metric} is not defined: {why}" in report["notes"]
    assert main(["eval", str(runs / run), "--data", str(runs / data)]) == 0
    captured = capsys.readouterr()
    assert f"all/{metric}\t–\n" in captured.out
    assert why in captured.err


@pytest.mark.parametrize("kind", ["c", "n"])
def test_outputs_that_are_not_finite_are_counted(runs: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first example of each part gives NaN, the second infinity: a note counts them, and no metric is silently
    fine."""
    from layerwise.tasks.base import Task

    real = Task.outputs

    def outputs(task: Any, model: Any, batch: Any) -> torch.Tensor:
        result = real(task, model, batch).clone()
        result[0], result[1] = math.nan, math.inf
        return result

    monkeypatch.setattr(Task, "outputs", outputs)
    evaluation = evaluate_run(runs / kind, split="val")
    assert any("the network's outputs for 2 example(s) are not finite" in note for note in evaluation.notes)
    assert not math.isfinite(evaluation.metrics["loss"])
    assert main(["eval", str(runs / kind), "--split", "val"]) == 0
    assert main(["eval", str(runs / kind), "--split", "val", "--json"]) == 0
