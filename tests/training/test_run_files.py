"""The files of a run: links in it, checkpoints that are lost or damaged, two processes, readers beside a save, what
`doctor` names."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from layerwise import api, recipe
from layerwise.cli import main
from layerwise.errors import DamagedError, UsageError
from layerwise.planning.resolve import Request
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.training import session
from layerwise.training.run_training import train
from processes import CONTEXT, Child, count_logged, wait_until
from refusals import find_differences, record
from small_runs import LONG, fit, make_run_info, write_digit_folders


def go_on(run: Path, **more: object) -> list[str]:
    """Return the command that goes on with a run for an epoch more, so that it writes everything."""
    return [
        "train",
        str(run / "recipe.toml"),
        "--resume",
        "--allow-changes",
        "--epochs",
        "3",
        "--set",
        "train.tensorboard=true",
    ]


# -- links
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "run.json",
        "recipe.toml",
        "task.json",
        "figures",
        "tensorboard",
        "checkpoints/last",
        "checkpoints/best",
        "checkpoints",
        ".lock",
        "report.html",
        "failure.json",
        "engines",
    ],
)
def test_a_link_in_a_run_is_refused_by_name(
    name: str, run: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It leads to a copy of what was there, so that nothing but the link is wrong; nothing is changed on either
    side."""
    place, elsewhere = run.path / name, tmp_path / "elsewhere"
    if place.is_dir() or place.exists():
        place.rename(elsewhere)
    elif name in ("failure.json", ".lock"):
        elsewhere.write_text("")
    else:
        elsewhere.mkdir()
        (elsewhere / "mine.onnx").write_text("mine")
    place.symlink_to(elsewhere)
    before = record(tmp_path)
    assert main(go_on(run.path)) == 2
    stderr = capsys.readouterr().err
    assert name.split("/")[-1] in stderr, stderr
    assert "link" in stderr or "not a regular file" in stderr, stderr
    assert find_differences(before, record(tmp_path)) == []


def test_names_that_another_program_might_take_are_left_alone(run: api.Run, tmp_path: Path) -> None:
    """``run.json.new``, ``.run.json.new`` and the like as links, files and folders of the user's: training goes on
    beside them."""
    diary = tmp_path / "diary"
    diary.write_text("dear diary")
    names = ["run.json.new", ".run.json.new", "checkpoints/last.new", "checkpoints/last.old", "metrics.jsonl.new"]
    for name in names:
        (run.path / name).symlink_to(diary)
    (run.path / "checkpoints/.mine.0123456789abcdef.new").mkdir()
    (run.path / "checkpoints/.mine.0123456789abcdef.new/notes.txt").write_text("mine")
    assert main(go_on(run.path)) == 0
    assert diary.read_text() == "dear diary"
    assert [name for name in names if not (run.path / name).is_symlink()] == []
    assert (run.path / "checkpoints/.mine.0123456789abcdef.new/notes.txt").read_text() == "mine"


def test_a_link_for_the_graphs_of_a_run_is_not_followed(
    run: api.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``engines`` → a folder of models: predictions put the graph into the user's cache."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine.onnx").write_text("mine")
    (models / "mine.onnx.json").write_text("{}")
    (run.path / "engines").symlink_to(models)
    before = record(models)
    run.predictor(engine="onnxruntime")
    assert find_differences(before, record(models)) == []
    assert list((tmp_path / "cache").rglob("*.onnx"))


def test_the_log_is_on_the_disk_before_a_checkpoint_names_its_length(
    run: api.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave a checkpoint that knows more lines than the log has."""
    flushed: list[str] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    assert main(go_on(run.path)) == 0
    states = [place for place, name in enumerate(flushed) if name == "state.json"]
    assert states
    for before, place in zip([-1, *states], states, strict=False):
        assert "metrics.jsonl" in flushed[before + 1 : place]


# -- resume
# ----------------------------------------------------------------------------------------------------------------


def test_a_changed_resume_beside_a_running_training_changes_nothing(tmp_path: Path) -> None:
    """The lock is taken before recipe.toml, run.json or task.json are written."""
    first = Child([300 if a == 8 else a for a in LONG], tmp_path)
    wait_until(lambda: count_logged(tmp_path / "run") > 2, first)
    steady = ("run.json", "recipe.toml", "task.json")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in steady}
    with pytest.raises(UsageError, match="another process is training in"):
        train(Request(model=str(tmp_path / "run/recipe.toml"), resume=True, allow_changes=True, lr=0.5), quiet=True)
    first.kill()
    assert first.wait() == -9
    assert {name: (tmp_path / "run" / name).read_bytes() for name in steady} == before


def test_a_refused_resume_with_allowed_changes_changes_nothing(tmp_path: Path) -> None:
    """The change is allowed, but its batches are refused: recipe.toml and run.json are the old ones."""
    run = fit(tmp_path / "run", options={"model.batch_norm": True}, batch_size=64, epochs=1)
    batch = next(b for b in range(20, 200) if 1259 % b == 1)
    before = record(tmp_path)
    with pytest.raises(UsageError, match="batch normalization"):
        train(
            Request(model=str(run.path / "recipe.toml"), resume=True, allow_changes=True, epochs=2, batch_size=batch),
            quiet=True,
        )
    assert find_differences(before, record(tmp_path)) == []


def test_a_later_stage_that_cannot_begin_is_refused_before_the_first(tmp_path: Path) -> None:
    """A second stage whose last batch has one example: nothing is trained for it, and nothing is left."""
    run = fit(tmp_path / "run", options={"model.batch_norm": True}, batch_size=64, epochs=1)
    batch = next(b for b in range(20, 200) if 1259 % b == 1)
    (first,) = run.recipe.stages
    two = replace(run.recipe, stages=(first, replace(first, name="second", batch_size=batch)))
    (tmp_path / "two.toml").write_text(recipe.to_toml(two))
    before = record(tmp_path)
    with pytest.raises(UsageError, match="batch normalization"):
        api.train(str(tmp_path / "two.toml"), out=tmp_path / "new")
    assert find_differences(before, record(tmp_path)) == []


def test_an_empty_folder_of_the_users_stays_where_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="batch normalization"):
        fit(tmp_path / "mine", batch_size=1, options={"model.batch_norm": True})
    assert list((tmp_path / "mine").iterdir()) == []


def spoil(run: Path, which: str, how: str) -> None:
    """Take a checkpoint away, or change a byte of it."""
    if how == "missing":
        shutil.rmtree(run / "checkpoints" / which)
        return
    weights = run / "checkpoints" / which / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_resume_without_its_best_checkpoint_is_refused_with_advice_that_works(
    state: str, how: str, run: api.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(run.path / "recipe.toml"), "--resume"]
    command += ["--allow-changes", "--epochs", "4"] if state == "unfinished" else []
    spoil(run.path, "best", how)
    before = record(run.path)
    assert main(command) == 2
    stderr = capsys.readouterr().err
    assert f"checkpoints/best is {how}" in stderr
    assert "nothing was changed" in stderr
    assert find_differences(before, record(run.path)) == []
    advice = stderr.partition("train again: layerwise ")[2].split("\n")[0]
    assert main([str(run.path.with_name("new")) if word == "NEW" else word for word in advice.split()]) == 0
    new = api.open(run.path.with_name("new"))
    assert new.metrics["test/accuracy"] > 0.5
    assert main(["doctor", str(new.path)]) == 0


def test_the_advice_for_a_damaged_file_names_a_folder_that_doctor_takes(
    run: api.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run.path, "best", "damaged")
    with pytest.raises(DamagedError) as caught:
        run.predictor()
    assert f"layerwise doctor {run.path} checks" in caught.value.do
    assert main(["doctor", str(run.path)]) == 1
    assert "checkpoints/best/model.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize("resume", [True, False])
def test_a_lost_run_json_is_refused(resume: bool, run: api.Run) -> None:
    (run.path / "run.json").unlink()
    before = record(run.path)
    with pytest.raises(UsageError, match=r"has checkpoints but no run\.json; nothing was changed"):
        fit(run.path, resume=resume)
    assert find_differences(before, record(run.path)) == []


# -- doctor
# ----------------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change a byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize(
    "names",
    [
        ["checkpoints/best"],
        ["checkpoints"],
        ["metrics.jsonl"],
        ["emptied metrics.jsonl"],
        ["recipe.toml"],
        ["task.json"],
    ],
)
def test_doctor_names_what_is_gone(names: list[str], run: api.Run, capsys: pytest.CaptureFixture[str]) -> None:
    (name,) = names
    place = run.path / name.removeprefix("emptied ")
    if name.startswith("emptied"):
        place.write_bytes(b"")
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    assert main(["doctor", str(run.path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    expected = {
        "checkpoints/best": ["checkpoints/best/state.json"],
        "checkpoints": ["checkpoints/best/state.json", "checkpoints/last/state.json"],
    }.get(name, [place.name])
    assert not report["ok"]
    assert sorted(name for name, problem in report["files"].items() if problem) == expected


def test_doctor_names_flipped_bytes_of_graphs_and_event_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("tensorboard")
    from layerwise.inference.engines.exported_graphs import find_or_export_graph
    from layerwise.inference.predict import load_run

    run = fit(tmp_path / "run", options={"train.tensorboard": True}, epochs=1)
    graph = find_or_export_graph(load_run(run.path).export_source, run.path)
    assert main(["doctor", str(run.path)]) == 0
    events = next((run.path / "tensorboard").iterdir())
    for path in (graph, events, graph.with_name(graph.name + ".json")):
        before = path.read_bytes()
        flip(path)
        capsys.readouterr()
        assert main(["doctor", str(run.path), "--json"]) == 1
        bad = {name for name, problem in json.loads(capsys.readouterr().out)["files"].items() if problem}
        assert bad == {path.relative_to(run.path).as_posix()}
        path.write_bytes(before)
    assert main(["doctor", str(run.path)]) == 0


# -- readers
# ---------------------------------------------------------------------------------------------------------------


def _save_on(path: Path, stop: Event) -> None:
    """Save checkpoints, each with one value in all its tensors, until told to stop."""
    run, serial = RunDirectory(path), 1
    while not stop.is_set():
        serial += 1
        tensor = torch.full((500,), float(serial))
        run.save("last", Checkpoint({"w": tensor}, {"m": tensor}, {"serial": serial, "value": float(serial)}))


def read_beside_saves(path: Path, *, reads: int, seconds: float) -> tuple[int, int]:
    """Read a checkpoint again and again while another process replaces it; return the reads, and how many different
    ones were read."""
    run = RunDirectory.create(path)
    tensor = torch.full((500,), 1.0)
    run.save("last", Checkpoint({"w": tensor}, {"m": tensor}, {"serial": 1, "value": 1.0}))
    run.write_info(make_run_info())
    stop = multiprocessing.get_context("forkserver").Event()
    child = CONTEXT.Process(target=_save_on, args=(path, stop))
    child.start()
    done, values, end = 0, [1.0], time.monotonic() + seconds
    try:
        while done < reads and time.monotonic() < end:
            checkpoint = run.restore("last")
            assert checkpoint is not None
            value = checkpoint.info["value"]
            assert torch.equal(checkpoint.model["w"], torch.full((500,), value))
            assert torch.equal(checkpoint.state["m"], torch.full((500,), value))
            assert value >= values[-1]  # never an older one again
            values.append(value)
            done += 1
        assert child.is_alive()
    finally:
        stop.set()
        child.join(30)
    assert child.exitcode == 0
    return done, len(set(values))


def test_a_reader_always_finds_a_complete_checkpoint(tmp_path: Path) -> None:
    reads, different = read_beside_saves(tmp_path / "run", reads=10_000, seconds=2.5)
    assert reads > 100
    assert different > 20


@pytest.mark.soak
def test_ten_thousand_reads_beside_saves(tmp_path: Path) -> None:
    reads, different = read_beside_saves(tmp_path / "run", reads=10_000, seconds=600)
    assert reads == 10_000
    assert different > 500


def test_the_folder_of_a_running_training_can_be_read(tmp_path: Path) -> None:
    """What a person does meanwhile, `doctor` and a prediction: neither stumbles over a save."""
    child = Child([*[300 if a == 8 else a for a in LONG], "--set", "train.checkpoint_seconds=0.0001"], tmp_path)
    wait_until(lambda: count_logged(tmp_path / "run") > 40, child)
    for _ in range(5):
        assert api.open(tmp_path / "run").predictor()
    child.kill()
    assert child.wait() == -9

    assert os.listdir(tmp_path / "run/checkpoints")


def test_a_run_that_data_stop_before_anything_is_saved_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are cut once training reads them: the folder of the run goes again, with its checkpoint of no
    step."""
    images = tmp_path / "images"
    images.mkdir()
    write_digit_folders(images, 330, side=32)
    run_steps = session.run_steps

    def cut(*args: Any) -> Any:
        assert (tmp_path / "runs/new/checkpoints/last").is_dir()
        for path in images.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])
        return run_steps(*args)

    monkeypatch.setattr(session, "run_steps", cut)
    options = {"task.size": 32, "train.memory_mib": 1, "data.cache": "off", "train.threads": 1, "train.workers": 0}
    with pytest.raises(
        pytest.fail.Exception, match="a refused call left traces"
    ) as caught:  # the images are what differs
        api.train("lenet5", data=images, out=tmp_path / "runs/new", epochs=2, options=options)
    assert "class 1/0001.png" in str(caught.value)
    assert not (tmp_path / "runs").exists()
