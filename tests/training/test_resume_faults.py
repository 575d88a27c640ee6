"""A resume that would not go on as the run began is refused (F25), each case provoked for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerwise import api
from layerwise.errors import UsageError
from layerwise.planning.resolve import Request
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.runtime.checksums import dump_checksummed, load_checksummed
from layerwise.training.run_training import train
from processes import Child, count_logged, read_rows, wait_until
from small_runs import LONG, fit


def test_resume_with_another_recipe_is_refused_with_the_difference(run: api.Run) -> None:
    recipe = str(run.path / "recipe.toml")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    rate = run.recipe.stages[0].rule["lr"]
    with pytest.raises(UsageError, match=rf"stages.0.rule.lr: {rate} → 0.5") as caught:
        train(Request(model=recipe, lr=0.5, epochs=3, resume=True), quiet=True)
    assert "stages.0.epochs: 2 → 3" in str(caught.value)
    assert "--allow-changes" in str(caught.value)
    assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    done = train(Request(model=recipe, epochs=3, resume=True, allow_changes=True), quiet=True)
    assert done.resumed
    assert run.recipe.stages[0].epochs == 3
    assert run.info["changes"] == ["stages.0.epochs: 2 → 3"]
    assert read_rows(run.path)[-1]["epoch"] == 3
    assert {n: p for n, p in verify(RunDirectory(run.path)).items() if p} == {}


@pytest.mark.parametrize("change", ["model.hidden=[5]", "model.batch_norm=true"])
def test_a_change_under_which_the_weights_do_not_fit_is_refused_though_allowed(change: str, run: api.Run) -> None:
    """The keys are listed, and the run is as before: it opens and resumes."""
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    request = Request(
        model=str(run.path / "recipe.toml"), resume=True, allow_changes=True, epochs=3, settings=(change,)
    )
    with pytest.raises(UsageError, match=r"the checkpoint of .* does not fit this network: \d key\(s\) differ"):
        train(request, quiet=True)
    assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_an_allowed_change_of_data_or_optimizer_is_carried_out(tmp_path: Path) -> None:
    """Other numbers in the table: task.json has their statistics, as the weights now learn from them. Another optimizer
    begins afresh."""
    table = tmp_path / "t.csv"
    x = np.random.default_rng(0).normal(size=60)
    table.write_text("a,c\n" + "".join(f"{v},{'yes' if v > 0 else 'no'}\n" for v in x))
    fit(tmp_path / "run", data=str(table), epochs=1)
    table.write_text("a,c\n" + "".join(f"{v + 100},{'yes' if v > 0 else 'no'}\n" for v in x))
    settings = ("rule.optimizer=momentum", "rule.ema_decay=0.5")
    request = Request(
        model=str(tmp_path / "run/recipe.toml"), resume=True, allow_changes=True, epochs=30, lr=0.05, settings=settings
    )
    done = train(request, quiet=True)
    run = api.open(tmp_path / "run")
    assert done.metrics["test/accuracy"] > 0.8
    assert [a.label for a in run.predictor()([102.0], [98.0])] == ["yes", "no"]
    assert {n: p for n, p in verify(RunDirectory(run.path)).items() if p} == {}


def test_resume_with_other_data_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 2)).round(3)
    lines = [f"{a},{b},{'yes' if a > b else 'no'}" for a, b in x]
    table.write_text("\n".join(["a,b,c", *lines]) + "\n")
    fit(tmp_path / "run", data=str(table), epochs=1)
    table.write_text("\n".join(["a,b,c", "9.5,0.1,yes", *lines[1:]]) + "\n")
    request = Request(model=str(tmp_path / "run/recipe.toml"), resume=True)
    with pytest.raises(UsageError, match="data: other contents than the run was begun with"):
        train(request, quiet=True)


def test_resume_with_another_number_of_processes_is_refused(run: api.Run) -> None:
    """The checkpoint of two processes, resumed by one (`test_distributed` makes a real one)."""
    path = run.path / "checkpoints/last/state.json"
    path.write_bytes(dump_checksummed({**load_checksummed(path.read_bytes(), path), "world": 2}))
    with pytest.raises(UsageError, match="processes: 2 → 1"):
        train(Request(model=str(run.path / "recipe.toml"), resume=True), quiet=True)


def test_a_second_process_is_refused_while_one_trains(tmp_path: Path) -> None:
    first = Child([300 if a == 8 else a for a in LONG], tmp_path)
    wait_until(lambda: count_logged(tmp_path / "run") > 2, first)
    (tmp_path / "b").mkdir()
    second = Child(["train", str(tmp_path / "run/recipe.toml"), "--resume"], tmp_path / "b")
    assert second.wait() == 2, second.stderr
    assert "another process is training in" in second.stderr
    assert first.process.is_alive()
    first.kill()
    assert first.wait() == -9
