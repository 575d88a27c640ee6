"""What can go wrong while training, each fault provoked for real: F19, F21, F23, F24, F31, F32."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from disks import mount_small_disk
from layerwise import api
from layerwise.cli import main
from layerwise.errors import DamagedError, LayerwiseError, TrainingError, UsageError
from layerwise.planning.resolve import Request
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.runtime.checksums import digest, is_finite, load_checksummed
from layerwise.training.run_training import train
from processes import Child, assert_same, count_logged, find_leftovers, load_weights, read_rows, wait_until
from small_runs import LONG, fit, write_linear_model

# -- repeating bit for bit -------------------------------------------------------------------------------------------

# two writes to one place may come in any order
UNORDERED = "self.linear(x.clone().put_(torch.zeros(1, dtype=torch.long), x[0, :1]))"


def test_a_kernel_that_cannot_repeat_is_refused_by_name(tmp_path: Path) -> None:
    write_linear_model(tmp_path / "unordered.py", UNORDERED)
    command = [
        sys.executable,
        "-m",
        "layerwise",
        "train",
        "unordered",
        "--import",
        "unordered.py",
        "--data",
        "iris",
        "--out",
        "run",
    ]
    done = subprocess.run([*command, "--set", "train.deterministic=true"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "layerwise: train.deterministic refuses the kernel put_, which adds in any order" in done.stderr
    assert "do this:  train on the CPU (--device cpu), or without train.deterministic" in done.stderr
    assert "Traceback" not in done.stderr


# -- F19 -------------------------------------------------------------------------------------------------------------


def test_rate_too_high_stops_at_the_first_non_finite_value(run: api.Run) -> None:
    """The last checkpoint is from before: it opens and its weights are finite; what is known is in failure.json."""
    settings = ("rule.optimizer=sgd", "rule.schedule=constant")
    request = Request(
        model=str(run.path / "recipe.toml"), epochs=6, lr=1e30, resume=True, allow_changes=True, settings=settings
    )
    with pytest.raises(TrainingError, match=r"not finite|no longer finite") as caught:
        train(request, quiet=True)
    assert "the last checkpoint is intact" in str(caught.value)
    report = load_checksummed((run.path / "failure.json").read_bytes(), run.path / "failure.json")
    assert report["layer"] in str(caught.value)
    assert all(bool(torch.isfinite(t).all()) for t in load_weights(run.path).values())
    assert api.open(run.path).predictor()(np.zeros((8, 8, 1), np.uint8))
    assert {n: p for n, p in verify(RunDirectory(run.path)).items() if p} == {}


@pytest.mark.parametrize("numbers", [[], [1.0, -2.0], [3e38, 3e38]])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_are_not_finite_are_seen_wherever_they_lie(numbers: list[float], kind: torch.dtype) -> None:
    assert is_finite(torch.tensor(numbers, dtype=kind))
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in range(len(numbers) + 1):
            assert not is_finite(torch.tensor([*numbers[:place], bad, *numbers[place:]], dtype=kind))


def test_non_finite_loss_names_term_layer_and_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight so large that its products are infinite: the text names the term, the layer and the examples'
    numbers."""
    bad = tmp_path / "bad.safetensors"
    net = api.build("mlp", features=64, outputs=10, hidden=[16])
    with torch.no_grad():
        net[1].weight[3] = 3e38
    safetensors.torch.save_file(net.state_dict(), bad)
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path / "run", weights=str(bad))
    assert "the first layer with a non-finite value is '1' " in str(caught.value)
    assert "cross-entropy = nan" in str(caught.value) or "cross-entropy = inf" in str(caught.value)
    report = json.loads((tmp_path / "run/failure.json").read_text())
    assert len(report["examples"]) == 64
    assert set(report["terms"]) == {"cross-entropy"}
    assert (
        main(
            [
                "train",
                "mlp",
                "--data",
                "digits",
                "--weights",
                str(bad),
                "--out",
                "again",
                "--set",
                "model.hidden=[16]",
                "--set",
                "model.dropout=0",
            ]
        )
        == 1
    )


# -- F21 -------------------------------------------------------------------------------------------------------------


def test_last_batch_of_one_under_batch_norm_is_refused_clearly(tmp_path: Path) -> None:
    rest = 1259  # training examples of the digits
    assert api.RunDirectory(fit(tmp_path / "plain", epochs=0).path).info()["examples"]["train"] == rest
    batch = next(b for b in range(20, 200) if rest % b == 1)
    with pytest.raises(UsageError, match="has one example, over which batch normalization has no variance") as caught:
        fit(tmp_path / "run", batch_size=batch, options={"model.batch_norm": True})
    advised = int(caught.value.do.split("--batch-size ")[1].split(",")[0])
    assert fit(tmp_path / "other", batch_size=advised, epochs=1, options={"model.batch_norm": True}).metrics


def test_a_last_batch_of_one_is_refused_where_maps_have_one_place() -> None:
    """F21: at 32×32 a ResNet's last maps are 1×1, so one image has one value a channel; of larger ones it has more,
    and trains."""
    options = {"task.size": 32, "model.width": 4, "model.blocks": [1, 1, 1, 1], "examples": 33}
    with pytest.raises(
        UsageError, match=r"the last batch of 33 examples has one example(?s:.*)or larger images with task\.size"
    ):
        api.train("resnet18", data="digits", epochs=1, batch_size=16, options=options)
    assert api.train("resnet18", data="digits", epochs=1, batch_size=16, options={**options, "task.size": 40}).metrics


def test_batches_of_one_under_batch_norm_are_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch normalization"):
        fit(tmp_path / "run", batch_size=1, options={"model.batch_norm": True})


@pytest.mark.parametrize(("precision", "error"), [("fp64", 1e-12), ("fp32", 1e-6)])
def test_accumulation_equals_the_large_batch(precision: str, error: float, tmp_path: Path) -> None:
    """With 7 pieces of batches of 100 (pieces and last batch uneven), with penalties and clipping."""
    by_pieces = {}
    more = {"rule.l2": 1e-3, "rule.clip_grad": 0.5, "rule.optimizer": "momentum", "train.checkpoint_seconds": 0}
    for pieces in (1, 7):
        options = {"rule.grad_accum_steps": pieces, **more}
        run = fit(tmp_path / str(pieces), batch_size=100, epochs=1, lr=0.05, precision=precision, options=options)
        by_pieces[pieces] = load_weights(run.path, "best")
    assert max(float((by_pieces[1][n] - by_pieces[7][n]).abs().max()) for n in by_pieces[1]) <= error


def test_accumulation_with_batch_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accumulation would not equal the large batch"):
        fit(tmp_path / "run", options={"model.batch_norm": True, "rule.grad_accum_steps": 2})
    assert not (tmp_path / "run").exists()  # refused before it learned anything: nothing is left


# -- F23 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the interrupted ones must end as."""
    folder = tmp_path_factory.mktemp("unbroken")
    child = Child(LONG, folder)
    assert child.wait() == 0, child.stderr
    return folder / "run"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 4 MiB, or None where mounting is not permitted."""
    with mount_small_disk(tmp_path / "disk") as place:
        yield place


def test_full_disk(disk: Path | None, unbroken: Path, tmp_path: Path) -> None:
    """A checkpoint that does not fit: a clean error, the old one intact, no litter; with room again, resume ends as if
    nothing was."""
    args = [*LONG, "--set", "train.checkpoint_seconds=0.0001"]
    size = sum(p.stat().st_size for p in (unbroken / "checkpoints/last").iterdir())
    if disk is None:
        child = Child(args, tmp_path, file_limit=size // 2)  # files may not grow: the same error from the system's side
        place = tmp_path
    else:
        place = disk
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(free - int(2.7 * size)))  # room for last, best and half a third
        child = Child(args, place)
    assert child.wait() == 1, child.stderr
    assert "cannot write run/checkpoints/last: " in child.stderr
    assert "go on with --resume; what was saved before is intact" in child.stderr
    assert "Traceback" not in child.stderr
    run = RunDirectory(place / "run")
    assert {n: p for n, p in verify(run).items() if p} == {}
    assert find_leftovers(run.path) == []
    if disk is not None:
        assert run.restore("last") is not None
        (disk / "ballast").unlink()
    child = Child([*args, "--resume"], place)
    assert child.wait() == 0, child.stderr
    assert_same(run.path, unbroken)


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The system's limit on a file's length (EFBIG) is met in the same way: nothing of the small files is lost."""
    child = Child(LONG, tmp_path, file_limit=20_000)
    assert child.wait() == 1, child.stderr
    assert "cannot write run/checkpoints/last: File too large" in child.stderr
    assert "Traceback" not in child.stderr
    assert {n: p for n, p in verify(RunDirectory(tmp_path / "run")).items() if p} == {}
    assert find_leftovers(tmp_path) == []


# -- F24 -------------------------------------------------------------------------------------------------------------


def test_sigint_saves_a_checkpoint(unbroken: Path, tmp_path: Path) -> None:
    child = Child(LONG, tmp_path)
    wait_until(lambda: count_logged(tmp_path / "run") >= 13, child)
    child.kill(signal.SIGINT)
    assert child.wait() == 130, child.stderr
    _resumes_as(unbroken, child.stderr, tmp_path)


def test_sigterm_to_the_real_command(unbroken: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "layerwise", *map(str, LONG)]
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        wait_until(lambda: count_logged(tmp_path / "run") >= 13)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    _resumes_as(unbroken, text, tmp_path)


def _resumes_as(unbroken: Path, text: str, place: Path) -> None:
    """The message names the command that goes on, and that ends as the unbroken run."""
    assert "a checkpoint was saved" in text
    assert "Traceback" not in text
    assert "layerwise train run/recipe.toml --resume" in text
    assert 12 <= RunDirectory(place / "run").restore("last").info["steps"] < read_rows(unbroken)[-1]["step"]  # type: ignore[union-attr]
    child = Child(["train", "run/recipe.toml", "--resume"], place)
    assert child.wait() == 0, child.stderr
    assert_same(place / "run", unbroken)


# -- F31: newer formats ------------------------------------------------------------------------------------------------


def test_newer_formats_are_refused(run: api.Run) -> None:
    """run.json, task.json, the recipe and a checkpoint's state, each written by a later version with right
    checksums."""
    directory = RunDirectory(run.path)
    for name, old, new in (
        ("run.json", b'"format": 1', b'"format": 2'),
        ("recipe.toml", b"format = 1", b"format = 2"),
        ("checkpoints/best/state.json", b'"format": 1', b'"format": 2'),
        ("task.json", b"", b""),
    ):
        path = run.path / name
        originals = {p: p.read_bytes() for p in (path, run.path / "run.json")}
        if name == "task.json":
            task = json.loads(originals[path])
            assert task["format"] == 1
            directory.replace(name, json.dumps({**task, "format": 2}).encode())
        elif name == "recipe.toml":
            assert old in originals[path]
            directory.replace(name, originals[path].replace(old, new))
        else:
            body = {k: v for k, v in json.loads(originals[path]).items() if k != "checksum"}
            body["format"] = 2
            text = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
            path.write_bytes(
                (json.dumps({**body, "checksum": digest(text)}, ensure_ascii=False, indent=1) + "\n").encode()
            )
        with pytest.raises(DamagedError, match=r"newer version|has recipe format 2"):
            api.open(run.path).predictor()
        for path, data in originals.items():
            path.write_bytes(data)
    assert api.open(run.path).predictor()


# -- F32 -------------------------------------------------------------------------------------------------------------


def test_one_flipped_byte_in_any_file_is_found(run: api.Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file of a run, at random places: ``doctor`` names it, and what needs the file refuses it, naming it."""
    seed = time.time_ns()
    draw = random.Random(seed)
    files = sorted(
        p.relative_to(run.path).as_posix()
        for p in run.path.rglob("*")
        if p.is_file() and p.name not in (".lock", ".layerwise")
    )
    assert {"run.json", "recipe.toml", "task.json", "metrics.jsonl", "report.html"} <= set(files)
    assert sum(name.startswith("figures/") for name in files) > 0
    assert sum(name.startswith("checkpoints/") for name in files) == 6
    for name in files:
        path = run.path / name
        good = path.read_bytes()
        positions = {0, len(good) - 1, *(draw.randrange(len(good)) for _ in range(10))}
        for place in sorted(positions):
            flipped = good[place] ^ (1 << draw.randrange(8)) if draw.random() < 0.7 else draw.choice(b" \n\t\r0E")
            if flipped == good[place]:
                continue
            path.write_bytes(good[:place] + bytes([flipped]) + good[place + 1 :])
            where = f"seed {seed}: {name} at {place}: {good[place]} → {flipped}"
            assert verify(RunDirectory(run.path))[name], where
            if name in ("run.json", "recipe.toml", "task.json") or name.startswith("checkpoints/best"):
                with pytest.raises(DamagedError, match=path.name):
                    api.open(run.path).predictor()
            if name in ("run.json", "recipe.toml") or name.startswith("checkpoints/last"):
                with pytest.raises(DamagedError, match=path.name):
                    _resume(run)
        if name == "run.json":
            with pytest.raises(LayerwiseError, match=path.name):
                api.open(run.path)
        capsys.readouterr()
        assert main(["doctor", str(run.path), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["files"][name]
        path.write_bytes(good)
    assert {n: p for n, p in verify(RunDirectory(run.path)).items() if p} == {}


def _resume(run: api.Run) -> None:
    """Resume a run with one epoch more, as the command would."""
    train(Request(model=str(run.path / "recipe.toml"), resume=True, epochs=3, allow_changes=True), quiet=True)


@pytest.mark.parametrize(
    "name", ["task.json", "checkpoints/last/model.safetensors", "checkpoints/last/state.safetensors"]
)
def test_resume_refuses_damaged_and_missing_files(name: str, run: api.Run) -> None:
    path = run.path / name
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DamagedError, match=path.name):
        _resume(run)
    path.unlink()
    with pytest.raises(DamagedError, match=path.name):
        _resume(run)
    assert os.path.exists(run.path / "run.json")
