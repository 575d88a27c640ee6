"""Several processes as one: the same order and the same loss, one run directory; a lost rank ends them all (F25,
F27)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ranks
import torch

from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from processes import CONTEXT, Child, assert_same, load_weights, read_rows, wait_until

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--master-port",
    "0",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KEYS = ("--seed", "5", "--set", "train.threads=1", "--set", "train.log_every=4", "--set", "train.timeout=60")


def mlp(precision: str, out: str, *more: str) -> list[str]:
    """Return the arguments of a small network's training: 1259 digits in batches of 74 leave a last batch of one
    example."""
    return [
        "train",
        "mlp",
        "--data",
        "digits",
        "--epochs",
        "2",
        "--batch-size",
        "74",
        "--precision",
        precision,
        "--out",
        out,
        *KEYS,
        "--set",
        "model.hidden=[16]",
        "--set",
        "model.dropout=0",
        *more,
    ]


CASES = {
    "fp64": mlp("fp64", "fp64", "--set", "rule.l2=0.001", "--set", "rule.clip_grad=1", "--set", "rule.ema_decay=0.9"),
    "fp32": mlp("fp32", "fp32"),
    # without --out: both ranks agree on a place
    "perceptron": ["train", "perceptron", "--data", "iris", "--epochs", "12", "--batch-size", "8", *KEYS],
    "every step": mlp("fp64", "every", "--set", "train.log_every=1"),
    "rbm": [
        "train",
        "rbm",
        "--data",
        "digits",
        "--epochs",
        "4",
        "--batch-size",
        "74",
        "--out",
        "rbm",
        *KEYS,
        "--set",
        "model.hidden=16",
    ],
    "dbn": [
        "train",
        "dbn",
        "--data",
        "digits",
        "--epochs",
        "2",
        "--batch-size",
        "74",
        "--out",
        "dbn",
        *KEYS,
        "--set",
        "model.hidden=[12,8]",
    ],
    # 1259 digits in batches of 74 leave a last batch of one example: one rank's share is empty
    "oja": [
        "train",
        "oja",
        "--data",
        "digits",
        "--epochs",
        "2",
        "--batch-size",
        "74",
        "--precision",
        "fp64",
        "--out",
        "oja",
        *KEYS,
        "--set",
        "model.units=2",
    ],
    # three patterns a step for two ranks; the last step has one
    "hopfield": ["train", "hopfield", "--data", "digits", "--batch-size", "3", "--out", "hopfield", *KEYS],
    "hopfield by hebb": [
        "train",
        "hopfield",
        "--data",
        "digits",
        "--batch-size",
        "3",
        "--out",
        "hopfield-by-hebb",
        *KEYS,
        "--set",
        "rule.variant=hebb",
    ],
    # 67 blocks of text in batches of 8 leave a last one of three
    "skipgram": [
        "train",
        "skipgram",
        "--data",
        "story.txt",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--out",
        "skipgram",
        *KEYS,
        "--set",
        "model.dim=8",
    ],
    "glove": [
        "train",
        "glove",
        "--data",
        "story.txt",
        "--epochs",
        "2",
        "--batch-size",
        "1",
        "--out",
        "glove",
        *KEYS,
        "--set",
        "model.dim=8",
    ],
    # the head, then all at rates by depth, from the first case's weights
    "transfer": mlp(
        "fp64",
        "transfer",
        "--weights",
        "fp64",
        "--transfer",
        "--set",
        "stages.all.rule.l2=0.001",
        "--set",
        "stages.all.rule.clip_grad=1",
        "--set",
        "stages.all.rule.ema_decay=0.9",
    ),
    # a signal to one rank after 21 steps stops both; the next case goes on
    "cut": mlp("fp32", "cut"),
    "cut resumed": [*mlp("fp32", "cut"), "--resume"],
    "dbn cut": [
        "train",
        "dbn",
        "--data",
        "digits",
        "--epochs",
        "2",
        "--batch-size",
        "74",
        "--out",
        "dbn-cut",
        *KEYS,
        "--set",
        "model.hidden=[12,8]",
    ],
    "dbn cut resumed": ["train", "dbn-cut/recipe.toml", "--resume"],
}
ENDED = {name: args for name, args in CASES.items() if not name.endswith("cut")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case on two ranks, which find each other by the variables that torchrun sets. (torchrun itself: see the
    killed rank.)"""
    folder = tmp_path_factory.mktemp("ranks")
    draw = random.Random(0)
    (folder / "story.txt").write_text(
        "".join(" ".join(draw.choices("abcdefghijklmnop", k=16)) + "\n" for _ in range(4100))
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [CONTEXT.Process(target=ranks.run, args=(CASES, folder, rank, port)) for rank in (0, 1)]
    for rank in processes:
        rank.start()
    try:
        for number, rank in enumerate(processes):
            rank.join(60)
            assert rank.exitcode == 0, (folder / f"stderr.{number}").read_text()[-6000:]
    finally:
        for rank in processes:
            rank.kill()
    return folder


def path(name: str) -> str:
    """Return the run directory of a case."""
    folders = {"perceptron": "runs/perceptron-iris-1", "every step": "every"}
    return folders.get(name, name.removesuffix(" resumed").replace(" ", "-"))


def report(root: Path, name: str) -> list[dict[str, Any]]:
    """Return what each rank wrote about a case."""
    return [json.loads((root / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", sorted(ENDED))
def test_both_ranks_end_with_the_same_weights_and_one_run(name: str, root: Path) -> None:
    first, second = report(root, name)
    assert first["code"] == second["code"] == 0
    assert first["ended"] == second["ended"] != []
    out = path(name)
    assert {n: p for n, p in verify(RunDirectory(root / out)).items() if p} == {}
    assert RunDirectory(root / out).info()["world"] == 2
    assert [p.name for p in (root / "runs").iterdir()] == ["perceptron-iris-1"]


@pytest.mark.parametrize(
    ("name", "error"), [("fp64", 1e-10), ("every step", 1e-10), ("fp32", 1e-4), ("oja", 1e-10), ("transfer", 1e-10)]
)
def test_losses_are_those_of_one_process(name: str, error: float, root: Path, tmp_path: Path) -> None:
    if name == "transfer":
        shutil.copytree(root / "fp64", tmp_path / "fp64")
    child = Child(CASES[name], tmp_path)
    assert child.wait() == 0, child.stderr
    one, two = read_rows(tmp_path / path(name)), read_rows(root / path(name))
    assert len(one) == len(two) > 8
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        epochs, steps = divmod(a["step"], 18)
        assert a["examples"] == b["examples"] == epochs * 1259 + steps * 74
        for key in (k for k in a if k.endswith("loss")):
            assert a[key] == pytest.approx(b[key], abs=error), (a["step"], key)
    a, b = load_weights(tmp_path / path(name)), load_weights(root / path(name))
    assert max(float((a[n] - b[n]).abs().max()) for n in a) <= 100 * error


@pytest.mark.parametrize("name", ["hopfield", "hopfield by hebb"])
def test_patterns_are_stored_as_by_one_process(name: str, root: Path, tmp_path: Path) -> None:
    """Whole numbers in the one rule, the same order of patterns in the other: not one bit differs."""
    child = Child(CASES[name], tmp_path)
    assert child.wait() == 0, child.stderr
    a, b = load_weights(tmp_path / path(name)), load_weights(root / path(name))
    assert float(a["weight"].abs().max()) > 0
    assert torch.equal(a["weight"], b["weight"])


@pytest.mark.parametrize(
    ("name", "metric", "better"),
    [
        ("fp32", "val/accuracy", 1),
        ("perceptron", "val/accuracy", 1),
        ("rbm", "val/mse", -1),
        ("oja", "val/mse", -1),
    ],
)
def test_training_improves(name: str, metric: str, better: int, root: Path) -> None:
    values = [better * row[metric] for row in read_rows(root / path(name)) if metric in row]
    assert max(values[1:]) > values[0]


@pytest.mark.parametrize(("cut", "whole"), [("cut", "fp32"), ("dbn cut", "dbn")])
def test_resume_on_two_ranks_is_exact(cut: str, whole: str, root: Path) -> None:
    """SIGINT to one rank stops both with a checkpoint; resumed by two ranks the run ends as the unbroken one."""
    assert [r["code"] for r in report(root, cut)] == [130, 130]
    first, _ = report(root, f"{cut} resumed")
    assert first["ended"] == report(root, whole)[0]["ended"][-len(first["ended"]) :]
    assert_same(root / cut.replace(" ", "-"), root / whole)


def test_resume_by_one_process_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "fp32", tmp_path / "fp32")
    child = Child(["train", "fp32/recipe.toml", "--resume", "--allow-changes"], tmp_path)
    assert child.wait() == 2
    assert "processes: 2 → 1" in child.stderr


@pytest.mark.timeout(150)
def test_a_killed_rank_ends_all(tmp_path: Path) -> None:
    """The real command under torchrun; kill -9 to one rank: everything ends, non-zero, in time; no orphan, a whole
    run."""
    args = [*TORCHRUN, "-m", "layerwise", *mlp("fp32", "run", "--set", "train.timeout=10")]
    args[args.index("--epochs") + 1] = "5000"
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(args, cwd=tmp_path, env=ENVIRONMENT, stdout=errors, stderr=errors)
        log = tmp_path / "run/metrics.jsonl"
        wait_until(lambda: process.poll() is not None or (log.exists() and log.read_text().count("\n") > 8), timeout=90)
        ranks = psutil.Process(process.pid).children()
        assert len(ranks) == 2, (tmp_path / "stderr").read_text()
        began = time.monotonic()
        os.kill(ranks[1].pid, signal.SIGKILL)
        code = process.wait(timeout=60)
    assert code != 0
    assert time.monotonic() - began < 45
    assert not [p for p in ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert {n: p for n, p in verify(RunDirectory(tmp_path / "run")).items() if p} == {}
    last = RunDirectory(tmp_path / "run").restore("last")
    assert last is not None
    assert all(bool(torch.isfinite(t).all()) for t in last.model.values())
