"""Runs whose files were spoiled by structure and sealed again: every reader answers, or refuses with one error for
users."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from fuzzing import fuzz, get_soak_seconds, run_seed
from spoiling import compute_folder_digest, seal_run, spoil_file

from layerwise import api
from layerwise.embeddings.sources import load_vectors
from layerwise.errors import LayerwiseError
from layerwise.inference.engines.engine_choice import find_run_choices
from layerwise.inference.evaluate import evaluate_run
from layerwise.inspection.load_target import load_target
from layerwise.planning.resolve import Request
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.training.run_training import train
from small_runs import fit

TARGETS = (
    "run.json",
    "task.json",
    "recipe.toml",
    "metrics.jsonl",
    "checkpoints/best/state.json",
    "checkpoints/last/state.json",
    "checkpoints/best/model.safetensors",
    "checkpoints/last/model.safetensors",
    "checkpoints/last/state.safetensors",
)
INPUTS: dict[str, Any] = {"rows": "5.1,3.5,1.4,0.2", "images": np.zeros((8, 8), np.uint8), "words": "a1"}
SHORT = 3  # epochs, that a spoiled recipe may ask for here


def train_runs(root: Path) -> dict[str, Path]:
    """Train the three small runs that are spoiled; each has an epoch to go, so that a resume goes on."""
    options = {"epochs": 1, "seed": 5}
    fit(root / "rows", data="iris", **options)
    model_options = {"model.widths": [4], "model.dense": [8], "model.dropout": 0, "train.threads": 1}
    api.train("cnn", data="digits", out=root / "images", options={**model_options, "examples": 100}, **options)
    text = root / "text.txt"
    text.write_text("\n".join(" ".join(f"a{n * k % 17}" for n in range(12)) for k in range(1, 600)) + "\n")
    model_options = {"model.dim": 4, "task.min_count": 1, "train.threads": 1, "data.cache": str(root / "cache")}
    api.train("skipgram", data=str(text), out=root / "words", options=model_options, **options)
    for name in INPUTS:
        recipe = tomllib.loads((root / name / "recipe.toml").read_text())
        recipe["stages"][0]["epochs"] = 2
        (root / name / "recipe.toml").write_text(tomli_w.dumps(recipe))
        info = json.loads((root / name / "run.json").read_bytes())
        (root / name / "run.json").write_text(json.dumps({**info, "status": "training"}))
        seal_run(root / name)
    return {name: root / name for name in INPUTS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_runs(tmp_path_factory.mktemp("runs"))


def can_resume(run: Path) -> bool:
    """Whether a resume of a spoiled run may be tried here: it would train for a moment, on the same data."""
    try:
        recipe = tomllib.loads((run / "recipe.toml").read_text())
        epochs = sum(int(stage.get("epochs", 10)) for stage in recipe["stages"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # a reader's first look refuses it
    source = recipe.get("data", {}).get("source") if isinstance(recipe.get("data"), dict) else None
    return epochs <= SHORT and isinstance(source, str) and not source.startswith(("/dev", "/etc", ".."))


def case(draw: random.Random, runs: dict[str, Path], targets: tuple[str, ...] = TARGETS) -> None:
    """Spoil one file of a run, seal all of them, and read it in every way."""
    kind = draw.choice(list(runs))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        run = Path(shutil.copytree(runs[kind], root / "run"))
        (root / "beside.txt").write_text("not ours")
        outside = compute_folder_digest(root, without="run")
        spoil_file(run / draw.choice(targets), draw)
        seal_run(run)
        before = compute_folder_digest(run, without=".lock")
        readers = [
            lambda: verify(RunDirectory.open(run)),
            lambda: find_run_choices(RunDirectory.open(run)),
            lambda: api.open(run).metrics,
            lambda: api.open(run).predictor()(INPUTS[kind]),
            lambda: RunDirectory(run).read_metrics(),
            lambda: load_target(str(run), needs="run", view="weights"),
        ]
        readers += [lambda: load_vectors(run)] if kind == "words" else []
        if can_resume(run):
            readers += [
                lambda: evaluate_run(run),
                lambda: train(Request(model=str(run / "recipe.toml"), resume=True), quiet=True),
            ]
        for read in readers:
            with contextlib.suppress(LayerwiseError):
                read()
            if read is not readers[-1]:
                assert compute_folder_digest(run, without=".lock") == before  # what only reads changes nothing
        assert compute_folder_digest(root, without="run") == outside


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("target", TARGETS)
def test_a_spoiled_run_is_read_or_refused(target: str, runs: dict[str, Path]) -> None:
    for seed in range(4):
        run_seed(seed, lambda draw: case(draw, runs, (target,)))
    fuzz(1, lambda draw: case(draw, runs, (target,)))


@pytest.mark.soak
@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(0)
def test_soak_of_runs(runs: dict[str, Path]) -> None:
    assert fuzz(get_soak_seconds(), lambda draw: case(draw, runs))
