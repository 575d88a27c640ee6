"""SIGKILL at any moment, during a save too: the resumed run ends as if nothing had happened (F22)."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import pytest
import torch

from layerwise import registry
from layerwise.run_check import verify
from layerwise.run_directory import Checkpoint, RunDirectory
from processes import CONTEXT, Child, assert_same, find_leftovers, kill_self_at, load_weights, read_rows, wait_until
from small_runs import BATCH_SIZES, get_small_form, make_run_info, write_corpus

SPECS = [registry.find(name) for name in sorted(registry.load_specs())]
FAMILIES = {
    (spec.module, spec.rule): spec.name for spec in SPECS if spec.rule
}.values()  # one model a file and rule: what a resume meets
KEYS = ("--seed", 5, "--set", "train.threads=1", "--set", "train.log_every=2")
SAVES = ("--set", "train.checkpoint_seconds=0.0001")
DATA = {"perceptron": "iris", "mlp": "digits", "rbm": "digits", "dbn": "digits", "lenet5": "digits", "cnn": "digits"}
SMALL = {
    "mlp": ("--set", "model.hidden=[16]"),
    "dbn": ("--set", "model.hidden=[12,8]"),
    "rbm": ("--set", "model.hidden=8"),
    "cnn": ("--set", "model.widths=[4,8]", "--set", "model.dense=[16]"),
}


def command(name: str, *more: object) -> list[object]:
    """Return the arguments that train a model in ``run``, saving after every step."""
    return ["train", name, "--data", DATA.get(name, "digits"), "--out", "run", *KEYS, *SMALL.get(name, ()), *more]


def small(name: str, folder: Path) -> list[object]:
    """Return the arguments that train a model's small form, on a text in ``folder`` where it learns words."""
    data = (
        write_corpus(folder / "text.txt") if registry.find(name).family == "word-vectors" else DATA.get(name, "digits")
    )
    given = [
        part
        for key, value in get_small_form(name, examples=192).items()
        for part in ("--set", f"{key}={json.dumps(value)}")
    ]
    return ["train", name, "--data", data, "--out", "run", *KEYS, *given]


def trained(args: list[object], folder: Path) -> float:
    """Train without a break and return the seconds it took."""
    folder.mkdir()
    began = time.monotonic()
    child = Child(args, folder)
    assert child.wait() == 0, child.stderr
    return time.monotonic() - began


def resumed(args: list[object], folder: Path, *, report: bool = False) -> None:
    """Go on to the end."""
    child = Child([*args, "--resume"], folder, report=report)
    assert child.wait() == 0, child.stderr


@pytest.mark.parametrize("name", ["mlp"])
def test_three_kills_at_random_and_during_a_save(name: str, tmp_path: Path) -> None:
    args = command(name, "--epochs", 3, "--batch-size", 64)
    unbroken, cut = tmp_path / "whole", tmp_path / "cut"
    trained(args, unbroken)
    args += SAVES  # the other run saved at epochs only: saving changes nothing either
    cut.mkdir()
    draw = random.Random(time.time_ns())
    last = -1
    for _ in range(2):
        child = Child([*args, "--resume"], cut)
        wait_until(lambda: _step(cut / "run") > last + 2, child)  # noqa: B023
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        assert child.wait() == -9, child.stderr
        last = _step(cut / "run")
    operation = draw.randrange(25, 200)
    assert Child([*args, "--resume"], cut, kill_at=operation).wait() == -9, operation
    resumed(args, cut)
    assert_same(cut / "run", unbroken / "run")


def test_a_kill_in_each_stage_of_dbn(tmp_path: Path) -> None:
    args = command("dbn", "--epochs", 2, "--batch-size", 64)
    unbroken, cut = tmp_path / "whole", tmp_path / "cut"
    trained(args, unbroken)
    args += SAVES
    cut.mkdir()
    stages = list(dict.fromkeys(row["stage"] for row in read_rows(unbroken / "run")))
    assert len(stages) == 3
    for stage in stages:
        child = Child([*args, "--resume"], cut)
        wait_until(lambda: f'"stage": "{stage}"' in _text(cut / "run/metrics.jsonl"), child)  # noqa: B023
        child.kill()
        assert child.wait() == -9, child.stderr
        assert f'"stage": "{stage}"' in _text(cut / "run/metrics.jsonl")
        assert stage == stages[-1] or f'"stage": "{stages[-1]}"' not in _text(cut / "run/metrics.jsonl")
    resumed(args, cut)
    assert_same(cut / "run", unbroken / "run")


def test_a_kill_without_any_checkpoint_begins_afresh(tmp_path: Path) -> None:
    """With saving switched off the log of the killed attempt is not kept beside the new one's."""
    args = command("mlp", "--epochs", 3, "--batch-size", 64, "--set", "train.checkpoint_seconds=0")
    unbroken, cut = tmp_path / "whole", tmp_path / "cut"
    trained(args, unbroken)
    cut.mkdir()
    child = Child(args, cut)
    wait_until(lambda: _text(cut / "run/metrics.jsonl").count("\n") >= 5, child)
    child.kill()
    assert child.wait() == -9
    resumed(args, cut)
    assert read_rows(cut / "run") == read_rows(unbroken / "run")
    best = load_weights(unbroken / "run", "best")
    assert all(torch.equal(best[n], t) for n, t in load_weights(cut / "run", "best").items())


def test_a_kill_while_the_report_is_written(tmp_path: Path) -> None:
    """The run is finished when its report is there: a resume completes it."""
    args = command("mlp", "--epochs", 1, "--batch-size", 256)
    child = Child(args, tmp_path, report=True)
    wait_until(lambda: any((tmp_path / "run").glob("figures/*")) or (tmp_path / "run/report.html").exists(), child)
    child.kill()
    assert child.wait() == -9, "it was finished before the kill"
    resumed(args, tmp_path, report=True)
    run = RunDirectory(tmp_path / "run")
    assert (run.path / "report.html").is_file()
    assert run.info()["status"] == "finished"
    assert {n: p for n, p in verify(run).items() if p} == {}
    assert find_leftovers(run.path) == []


def _step(path: Path) -> int:
    """Return the last step in the log, as far as it can be read while the file grows."""
    lines = [text for text in _text(path / "metrics.jsonl").split("\n") if text.endswith("}")]
    return int(lines[-1].split('"step": ')[1].split(",")[0]) if lines else -1


def _text(path: Path) -> str:
    """Return a file's text, empty where there is none yet."""
    return path.read_text() if path.exists() else ""


# -- one save, killed before each of its file operations -------------------------------------------------------------


def checkpoint(value: float, serial: int) -> Checkpoint:
    """Return a checkpoint whose tensors all hold one value."""
    return Checkpoint(
        {"w": torch.full((50,), value)}, {"m": torch.full((70,), value)}, {"serial": serial, "value": value}
    )


def _save_over(path: Path, kill_at: int) -> None:
    """Save one checkpoint and a small file over old ones, and die on the way."""
    kill_self_at(kill_at, str(path))
    RunDirectory(path).save("last", checkpoint(2.0, 2))
    RunDirectory(path).replace("task.json", b"new")
    sys.exit(0)


def test_a_save_killed_before_each_file_operation(tmp_path: Path) -> None:
    """After every kill the old or the new checkpoint opens, whole; the next save succeeds and clears up."""
    codes, states = [], set()
    for kill_at in range(1, 60):
        run = RunDirectory.create(tmp_path / str(kill_at) / "run")
        run.save("last", checkpoint(1.0, 1))
        run.write("task.json", b"old")
        run.write_info(make_run_info(), new_files=["task.json"])
        child = CONTEXT.Process(target=_save_over, args=(run.path, kill_at))
        child.start()
        child.join(30)
        codes.append(child.exitcode)
        restored = run.restore("last")
        assert restored is not None, kill_at
        value = restored.info["value"]
        assert torch.equal(restored.model["w"], torch.full((50,), value))
        assert torch.equal(restored.state["m"], torch.full((70,), value))
        assert run.read("task.json") in (b"old", b"new")
        states.add((value, run.read("task.json")))
        run.clean_up()
        assert find_leftovers(run.path) == []
        tidied = run.restore("last")
        assert tidied is not None
        assert (tidied.info, torch.equal(tidied.model["w"], restored.model["w"])) == (restored.info, True)
        run.save("last", checkpoint(3.0, 3))
        restored = run.restore("last")
        assert restored is not None
        assert restored.info["value"] == 3.0
        assert find_leftovers(run.path / "checkpoints") == []
        if child.exitcode == 0:
            break
    assert codes[-1] == 0
    assert len(codes) > 12  # so many moments were tried
    assert set(codes[:-1]) == {-9}
    assert states == {(1.0, b"old"), (2.0, b"old"), (2.0, b"new")}


# -- long ------------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("name", FAMILIES)
def test_fifty_kills(name: str, tmp_path: Path) -> None:
    """Fifty kills, at random times and before random file operations; every run that gets to its end equals the
    unbroken one."""
    args = [
        *small(name, tmp_path),
        "--epochs",
        4,
        "--batch-size",
        BATCH_SIZES.get(name, 30),
    ]  # of 193 examples, so that none is left alone
    seconds = trained(args, tmp_path / "whole")
    args += SAVES
    seed = time.time_ns()
    draw = random.Random(seed)
    kills = runs = 0
    while kills < 50:
        folder = tmp_path / f"cut-{runs}"
        folder.mkdir()
        runs += 1
        while True:
            planned = draw.random() < 0.5
            child = Child([*args, "--resume"], folder, kill_at=draw.randrange(1, 400) if planned else 0)
            if not planned:
                time.sleep(draw.uniform(0, 1.5 * seconds))
                child.kill()
            code = child.wait(120)
            assert code in (0, -9), f"seed {seed}: {child.stderr}"
            if code == 0:
                break
            kills += 1
        assert_same(folder / "run", tmp_path / "whole/run")
