"""What can go wrong while training, each fault provoked for real: F19, F21, F23–F26, F29–F32."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
from PIL import Image

from layerwise import api
from layerwise.cli import main
from layerwise.data.loader import refuse_small_shared_memory
from layerwise.durable import digest, sealed, unsealed
from layerwise.errors import DamagedError, LayerwiseError, TrainingError, UsageError
from layerwise.planning.resolve import Request
from layerwise.run import RunDirectory
from layerwise.train.start import train
from layerwise.weights import load
from processes import Child, assert_same, litter, report_written, rows, until, weights

ONE_THREAD = {"train.threads": 1}
SMALL = {**ONE_THREAD, "model.hidden": [16], "model.dropout": 0}


def fit(out: Path, name: str = "mlp", **more: Any) -> api.Run:
    """Train a small network on the digits."""
    options = {**SMALL, **more.pop("options", {})}
    keys = {"data": "digits", "epochs": 2, "batch": 64, "seed": 5, **more}
    return api.train(name, out=out, options=options, **keys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A finished run that tests copy before they spoil it."""
    with report_written(True):
        return fit(tmp_path_factory.mktemp("faults") / "run")


@pytest.fixture
def run(finished: api.Run, tmp_path: Path) -> api.Run:
    """A copy of the finished run."""
    return api.Run(Path(shutil.copytree(finished.path, tmp_path / "run")))


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
    report = unsealed((run.path / "failure.json").read_bytes(), run.path / "failure.json")
    assert report["layer"] in str(caught.value)
    assert all(bool(torch.isfinite(t).all()) for t in weights(run.path).values())
    assert api.open(run.path).predictor()(np.zeros((8, 8, 1), np.uint8))
    assert {n: p for n, p in RunDirectory(run.path).verify().items() if p} == {}


def test_non_finite_loss_names_term_layer_and_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight planted as infinite before the run: the text names the term, the layer and the examples' numbers."""
    bad = tmp_path / "bad.safetensors"
    net = api.build("mlp", features=64, outputs=10, hidden=[16])
    with torch.no_grad():
        net[1].weight[3, 5] = float("inf")
    safetensors.torch.save_file(net.state_dict(), bad)
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path / "run", weights=str(bad))
    assert "the first layer with a non-finite value is '1.weight' (weights)" in str(caught.value)
    assert "cross-entropy = nan" in str(caught.value) or "cross-entropy = inf" in str(caught.value)
    report = json.loads((tmp_path / "run/failure.json").read_text())
    assert len(report["examples"]) == 64
    assert set(report["terms"]) == {"cross-entropy"}
    assert main(["train", "mlp", "--data", "digits", "--weights", str(bad), "--out", "again", "--set", "model.hidden=[16]",
                 "--set", "model.dropout=0"]) == 1  # fmt: skip


# -- F21 -------------------------------------------------------------------------------------------------------------


def test_last_batch_of_one_under_batch_norm_is_refused_clearly(tmp_path: Path) -> None:
    rest = 1259  # training examples of the digits
    assert api.RunDirectory(fit(tmp_path / "plain", epochs=0).path).info()["examples"]["train"] == rest
    batch = next(b for b in range(20, 200) if rest % b == 1)
    with pytest.raises(UsageError, match="has one example, over which batch normalisation has no variance") as caught:
        fit(tmp_path / "run", batch=batch, options={"model.batch_norm": True})
    advised = int(caught.value.do.split("--batch ")[1].split(",")[0])
    assert fit(tmp_path / "other", batch=advised, epochs=1, options={"model.batch_norm": True}).metrics


def test_a_last_batch_of_one_is_refused_where_maps_have_one_place() -> None:
    """F21: at 32×32 a ResNet's last maps are 1×1, so one picture has one value a channel; of larger ones it has more, and trains."""
    options = {"task.size": 32, "model.width": 4, "model.blocks": [1, 1, 1, 1], "examples": 33}
    with pytest.raises(UsageError, match=r"the last batch of 33 examples has one example(?s:.*)or larger pictures with task\.size"):
        api.train("resnet18", data="digits", epochs=1, batch=16, options=options)
    assert api.train("resnet18", data="digits", epochs=1, batch=16, options={**options, "task.size": 40}).metrics


def test_batches_of_one_under_batch_norm_are_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch normalisation"):
        fit(tmp_path / "run", batch=1, options={"model.batch_norm": True})


@pytest.mark.parametrize(("precision", "error"), [("fp64", 1e-12), ("fp32", 1e-6)])
def test_accumulation_equals_the_large_batch(precision: str, error: float, tmp_path: Path) -> None:
    """With 7 pieces of batches of 100 (pieces and last batch uneven), with penalties and clipping."""
    found = {}
    more = {"rule.l2": 1e-3, "rule.clip": 0.5, "rule.optimizer": "momentum", "train.checkpoint_seconds": 0}
    for pieces in (1, 7):
        options = {"rule.accumulate": pieces, **more}
        run = fit(tmp_path / str(pieces), batch=100, epochs=1, lr=0.05, precision=precision, options=options)
        found[pieces] = weights(run.path, "best")
    assert max(float((found[1][n] - found[7][n]).abs().max()) for n in found[1]) <= error


def test_accumulation_with_batch_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="accumulation would not equal the large batch"):
        fit(tmp_path / "run", options={"model.batch_norm": True, "rule.accumulate": 2})
    assert not (tmp_path / "run").exists()  # refused before it learned anything: nothing is left


# -- F23 -------------------------------------------------------------------------------------------------------------

LONG = ["train", "mlp", "--data", "digits", "--epochs", 8, "--batch", 64, "--seed", 5, "--out", "run", "--set", "train.threads=1",
        "--set", "train.log_every=2"]  # fmt: skip


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
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        yield None
        return
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk(disk: Path | None, unbroken: Path, tmp_path: Path) -> None:
    """A checkpoint that does not fit: a clean error, the old one intact, no litter; with room again, resume ends as if nothing was."""
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
    assert "could not be written: " in child.stderr
    assert "go on with --resume; what was saved before is intact" in child.stderr
    assert "Traceback" not in child.stderr
    run = RunDirectory(place / "run")
    assert {n: p for n, p in run.verify().items() if p} == {}
    assert litter(run.path) == []
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
    assert "could not be written: File too large" in child.stderr
    assert "Traceback" not in child.stderr
    assert {n: p for n, p in RunDirectory(tmp_path / "run").verify().items() if p} == {}
    assert litter(tmp_path) == []


# -- F24 -------------------------------------------------------------------------------------------------------------


def test_sigint_saves_a_checkpoint(unbroken: Path, tmp_path: Path) -> None:
    child = Child(LONG, tmp_path)
    until(lambda: _lines(tmp_path / "run") >= 13, child)
    child.kill(signal.SIGINT)
    assert child.wait() == 130, child.stderr
    _resumes_as(unbroken, child.stderr, tmp_path)


def test_sigterm_to_the_real_command(unbroken: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "layerwise", *map(str, LONG)]
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        until(lambda: _lines(tmp_path / "run") >= 13)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    _resumes_as(unbroken, text, tmp_path)


def _resumes_as(unbroken: Path, text: str, place: Path) -> None:
    """The message names the command that goes on, and that ends as the unbroken run."""
    assert "a checkpoint was saved" in text
    assert "Traceback" not in text
    assert "layerwise train run/recipe.toml --resume" in text
    assert 12 <= RunDirectory(place / "run").restore("last").info["steps"] < rows(unbroken)[-1]["step"]  # type: ignore[union-attr]
    child = Child(["train", "run/recipe.toml", "--resume"], place)
    assert child.wait() == 0, child.stderr
    assert_same(place / "run", unbroken)


def _lines(path: Path) -> int:
    """Return the lines of a run's log."""
    log = path / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


# -- F25 -------------------------------------------------------------------------------------------------------------


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
    assert rows(run.path)[-1]["epoch"] == 3
    assert {n: p for n, p in RunDirectory(run.path).verify().items() if p} == {}


def test_a_run_begun_before_an_option_came_resumes_with_its_default(run: api.Run) -> None:
    """An option of each owner is taken out of the kept recipe, as an earlier version would have kept it; only another value is a change."""
    kept = RunDirectory.open(run.path)
    text = kept.read("recipe.toml").decode()
    later = ("phrases", "label_smoothing", "clip", "batch_norm")
    older = "\n".join(line for line in text.splitlines() if line.partition(" =")[0] not in later)
    assert text.count("\n") - older.count("\n") >= 1 + len(later)  # label_smoothing stands in the stage too
    kept.replace("recipe.toml", older.encode())
    recipe = str(run.path / "recipe.toml")
    for setting in ("rule.clip=1.0", "task.label_smoothing=0.1", "model.batch_norm=true"):
        with pytest.raises(UsageError, match=rf"{setting.partition('=')[0].split('.')[1]}: (0\.0|False) → "):
            train(Request(model=recipe, resume=True, settings=(setting,)), quiet=True)
    assert train(Request(model=recipe, resume=True), quiet=True).resumed
    assert "changes" not in run.info


@pytest.mark.parametrize("change", ["model.hidden=[5]", "model.batch_norm=true"])
def test_a_change_under_which_the_weights_do_not_fit_is_refused_though_allowed(change: str, run: api.Run) -> None:
    """The keys are listed, and the run is as before: it opens and resumes."""
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    request = Request(model=str(run.path / "recipe.toml"), resume=True, allow_changes=True, epochs=3, settings=(change,))
    with pytest.raises(UsageError, match=r"the checkpoint of .* does not fit this network: \d key\(s\) differ"):
        train(request, quiet=True)
    assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_an_allowed_change_of_data_or_optimizer_is_carried_out(tmp_path: Path) -> None:
    """Other numbers in the table: task.json has their statistics, as the weights now learn from them. Another optimizer begins afresh."""
    table = tmp_path / "t.csv"
    x = np.random.default_rng(0).normal(size=60)
    table.write_text("a,c\n" + "".join(f"{v},{'yes' if v > 0 else 'no'}\n" for v in x))
    fit(tmp_path / "run", data=str(table), epochs=1)
    table.write_text("a,c\n" + "".join(f"{v + 100},{'yes' if v > 0 else 'no'}\n" for v in x))
    settings = ("rule.optimizer=momentum", "rule.ema=0.5")
    request = Request(model=str(tmp_path / "run/recipe.toml"), resume=True, allow_changes=True, epochs=30, lr=0.05, settings=settings)
    done = train(request, quiet=True)
    run = api.open(tmp_path / "run")
    assert done.metrics["test/accuracy"] > 0.8
    assert [a.label for a in run.predictor()([102.0], [98.0])] == ["yes", "no"]
    assert {n: p for n, p in RunDirectory(run.path).verify().items() if p} == {}


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
    place = run.path / "checkpoints/last/state.json"
    place.write_bytes(sealed({**unsealed(place.read_bytes(), place), "world": 2}))
    with pytest.raises(UsageError, match="processes: 2 → 1"):
        train(Request(model=str(run.path / "recipe.toml"), resume=True), quiet=True)


def test_a_second_process_is_refused_while_one_trains(tmp_path: Path) -> None:
    first = Child([300 if a == 8 else a for a in LONG], tmp_path)
    until(lambda: _lines(tmp_path / "run") > 2, first)
    (tmp_path / "b").mkdir()
    second = Child(["train", str(tmp_path / "run/recipe.toml"), "--resume"], tmp_path / "b")
    assert second.wait() == 2, second.stderr
    assert "another process is training in" in second.stderr
    assert first.process.is_alive()
    first.kill()
    assert first.wait() == -9


# -- F26: the streaming path ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of digits, 240 pictures of 8 × 8."""
    from sklearn.datasets import load_digits

    place = tmp_path_factory.mktemp("pictures")
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:240], labels, strict=False)):
        folder = place / f"class {label}"
        folder.mkdir(exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype(np.uint8)).save(folder / f"{number:04}.png")
    return place


def test_streaming_gives_the_same_batches(pictures: Path, tmp_path: Path) -> None:
    """Weights and log are equal bit for bit whether the pictures were held in memory or decoded batch by batch."""
    held = fit(tmp_path / "held", data=str(pictures), batch=16)
    streamed = fit(tmp_path / "streamed", data=str(pictures), batch=16, options={"train.workers": -1})
    assert_same(held.path, streamed.path)


STREAM = ["train", "lenet5", "--epochs", 50, "--batch", 32, "--out", "run", "--set", "train.workers=1", "--set", "train.threads=1",
          "--set", "train.memory_mib=1", "--set", "train.timeout=60", "--set", "train.log_every=1"]  # fmt: skip


@pytest.fixture(scope="module")
def large(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in colour and 48 × 48: more than a MiB as tensors."""
    place = tmp_path_factory.mktemp("large")
    for path in sorted(pictures.rglob("*.png"))[:200]:
        (place / path.parent.name).mkdir(exist_ok=True)
        Image.open(path).resize((48, 48)).convert("RGB").save(place / path.parent.name / path.name)
    return place


def test_a_small_shared_memory_is_named(large: Path, tmp_path: Path) -> None:
    """A /dev/shm of 64 KiB, as in a container, where the system lets us make one; else none of that size is needed."""
    line = 'mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 77; exec "$@"'
    command = [sys.executable, "-m", "layerwise", *map(str, STREAM), "--data", str(large)]
    done = subprocess.run(["unshare", "-m", "sh", "-c", line, "sh", *command], capture_output=True, text=True, cwd=tmp_path)
    if done.returncode == 77 or "unshare" in done.stderr:
        with pytest.raises(TrainingError, match="too small for the loader's workers"):
            refuse_small_shared_memory(1 << 60)
        return
    assert done.returncode == 1, done.stderr
    assert "/dev/shm is too small for the loader's workers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(180)
def test_a_killed_loader_worker_ends_the_run_with_its_cause(large: Path, tmp_path: Path) -> None:
    """Real workers over real pictures: they train, then one is killed; the error comes at once and names the cause."""
    child = Child([*STREAM, "--data", large], tmp_path)

    def workers() -> list[psutil.Process]:
        return [p for p in psutil.Process(child.process.pid).children() if "spawn_main" in " ".join(p.cmdline())]

    until(lambda: _lines(tmp_path / "run") >= 1, child, timeout=90)
    until(lambda: bool(workers()), child, timeout=90)
    began = time.monotonic()
    for worker in workers():
        worker.kill()
    assert child.wait(90) == 1, child.stderr
    assert time.monotonic() - began < 60
    assert "a loader worker was lost" in child.stderr
    assert any(cause in child.stderr for cause in ("killed by signal", "exited unexpectedly", "reset by peer", "EOFError"))
    assert "Traceback" not in child.stderr, child.stderr
    assert {n: p for n, p in RunDirectory(tmp_path / "run").verify().items() if p} == {}


# -- F29, F30, F31: other people's weights ----------------------------------------------------------------------------


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch zip", "torch legacy", "in a state_dict"])
def test_a_malicious_pickle_is_never_executed(form: str, ending: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / f"weights{ending}"
    evil: Any = {"0.weight": torch.zeros(2), "x": Evil(marker)} if form == "in a state_dict" else Evil(marker)
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form != "torch legacy")
    with pytest.raises(DamagedError) as caught:
        api.build("mlp", features=64, outputs=10, weights=path)
    assert not marker.exists()
    assert str(path) in str(caught.value)
    pickle.loads(pickle.dumps(Evil(marker))).close()  # the same object does harm where it is unpickled
    assert marker.exists()


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\x80", b"}", bytes(range(256)), b"PK\x03\x04"])
def test_foreign_files_are_no_weights(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(DamagedError, match=r"w\.pt"):
        api.build("mlp", features=64, outputs=10, weights=tmp_path / "w.pt")


def test_the_command_refuses_a_malicious_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Evil(tmp_path / "it ran"), tmp_path / "x.pt")
    assert main(["train", "mlp", "--data", "digits", "--weights", "x.pt", "--out", "run", "--epochs", "1"]) == 2
    assert "was not opened" in capsys.readouterr().err
    assert not (tmp_path / "it ran").exists()


def header(**entries: Any) -> bytes:
    """Return a safetensors header with its length."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def malformed() -> dict[str, bytes]:
    """Return malformed safetensors files by what is wrong."""
    good = safetensors.torch.save({"1.weight": torch.zeros(3, 4), "1.bias": torch.zeros(3)})
    length = int.from_bytes(good[:8], "little")
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "empty": b"",
        "seven bytes": good[:7],
        "truncated": good[:-5],
        "truncated header": good[: 8 + length // 2],
        "header too long": (length + 50).to_bytes(8, "little") + good[8:],
        "header of exabytes": (1 << 60).to_bytes(8, "little") + good[8:],
        "header too short": (length - 9).to_bytes(8, "little") + good[8:],
        "overlapping": header(a=entry, b={**entry, "data_offsets": [4, 12]}) + bytes(12),
        "offsets backwards": header(a={**entry, "data_offsets": [8, 0]}) + bytes(8),
        "offsets outside": header(a={**entry, "data_offsets": [0, 800]}) + bytes(8),
        "shape too large": header(a={**entry, "shape": [1 << 62, 4]}) + bytes(8),
        "unknown type": header(a={**entry, "dtype": "P32"}) + bytes(8),
        "more behind": good + b"x",
        "no JSON": (4).to_bytes(8, "little") + b"evil",
    }


@pytest.mark.parametrize("name", sorted(malformed()))
def test_malformed_safetensors_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(malformed()[name])
    with pytest.raises(DamagedError, match="is damaged: it is not a safetensors file") as caught:
        api.build("mlp", features=4, outputs=3, weights=path)
    assert str(path) in str(caught.value)


def test_weights_of_another_shape_list_every_key_and_load_nothing(tmp_path: Path) -> None:
    model = api.build("mlp", features=64, outputs=10, hidden=[16])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    other = {n: t + 1 for n, t in before.items()}
    other["3.weight"], other["3.bias"] = torch.zeros(7, 16), torch.zeros(7)
    other["9.weight"] = torch.zeros(2, 2)
    del other["1.bias"]
    safetensors.torch.save_file(other, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"4 key\(s\) differ") as caught:
        load(model, tmp_path / "w.safetensors")
    for text in (
        "1.bias: missing (expected (16,))",
        "9.weight: not in the model (received (2, 2))",
        "3.weight: expected (10, 16), received (7, 16)",
        "3.bias: expected (10,), received (7,)",
    ):
        assert text in str(caught.value)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_newer_formats_are_refused(run: api.Run) -> None:
    """run.json, task.json, the recipe and a checkpoint's state, each written by a later version with right checksums."""
    directory = RunDirectory(run.path)
    for name, old, new in (
        ("run.json", b'"format": 1', b'"format": 2'),
        ("recipe.toml", b"format = 1", b"format = 2"),
        ("checkpoints/best/state.json", b'"format": 1', b'"format": 2'),
        ("task.json", b"", b""),
    ):
        path = run.path / name
        kept = {p: p.read_bytes() for p in (path, run.path / "run.json")}
        if name == "task.json":
            task = json.loads(kept[path])
            assert task["format"] == 1
            directory.replace(name, json.dumps({**task, "format": 2}).encode())
        elif name == "recipe.toml":
            assert old in kept[path]
            directory.replace(name, kept[path].replace(old, new))
        else:
            body = {k: v for k, v in json.loads(kept[path]).items() if k != "checksum"}
            body["format"] = 2
            text = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
            path.write_bytes((json.dumps({**body, "checksum": digest(text)}, ensure_ascii=False, indent=1) + "\n").encode())
        with pytest.raises(DamagedError, match=r"newer version|has recipe format 2"):
            api.open(run.path).predictor()
        for place, data in kept.items():
            place.write_bytes(data)
    assert api.open(run.path).predictor()


# -- F32 -------------------------------------------------------------------------------------------------------------


def test_one_flipped_byte_in_any_file_is_found(run: api.Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file of a run, at random places: ``doctor`` names it, and what needs the file refuses it, naming it."""
    seed = time.time_ns()
    draw = random.Random(seed)
    files = sorted(p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock")
    assert {"run.json", "recipe.toml", "task.json", "metrics.jsonl", "report.html"} <= set(files)
    assert sum(name.startswith("figures/") for name in files) > 0
    assert sum(name.startswith("checkpoints/") for name in files) == 6
    for name in files:
        path = run.path / name
        good = path.read_bytes()
        places = {0, len(good) - 1, *(draw.randrange(len(good)) for _ in range(10))}
        for place in sorted(places):
            flipped = good[place] ^ (1 << draw.randrange(8)) if draw.random() < 0.7 else draw.choice(b" \n\t\r0E")
            if flipped == good[place]:
                continue
            path.write_bytes(good[:place] + bytes([flipped]) + good[place + 1 :])
            where = f"seed {seed}: {name} at {place}: {good[place]} → {flipped}"
            assert RunDirectory(run.path).verify()[name], where
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
    assert {n: p for n, p in RunDirectory(run.path).verify().items() if p} == {}


def _resume(run: api.Run) -> None:
    """Resume a run with one epoch more, as the command would."""
    train(Request(model=str(run.path / "recipe.toml"), resume=True, epochs=3, allow_changes=True), quiet=True)


@pytest.mark.parametrize("name", ["task.json", "checkpoints/last/model.safetensors", "checkpoints/last/state.safetensors"])
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
