"""Event files read back by TensorBoard's own reader, and F28: a logger that is really down stops nothing."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from layerwise import api
from layerwise.planning.resolve import Request
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.training.run_training import train
from layerwise.training.trackers import FailSafeTracker, TensorBoard

OPTIONS = {
    "train.threads": 1,
    "model.hidden": [16],
    "model.dropout": 0,
    "train.tensorboard": True,
    "train.log_every": 5,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    pytest.importorskip("tensorboard")
    return api.train("mlp", data="digits", out=tmp_path_factory.mktemp("trackers") / "run", epochs=2, options=OPTIONS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_the_log_says(run: api.Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    rows = RunDirectory(run.path).read_metrics()
    for name in ("train/loss", "val/loss", "val/accuracy"):
        logged = [(row["step"], row[name]) for row in rows if name in row]
        scalars = [(scalar.step, scalar.value) for scalar in read.Scalars(name)]
        assert [step for step, _ in scalars] == [step for step, _ in logged]
        assert [value for _, value in scalars] == pytest.approx([value for _, value in logged], rel=1e-6)
    assert {n: p for n, p in verify(RunDirectory(run.path)).items() if p} == {}


def test_a_folder_that_cannot_be_written_stops_nothing(
    run: api.Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file lies where the folder should be: not even root can write there."""
    path = Path(shutil.copytree(run.path, tmp_path / "run"))
    shutil.rmtree(path / "tensorboard")
    (path / "tensorboard").write_text("a file")
    done = train(Request(model=str(path / "recipe.toml"), epochs=3, resume=True, allow_changes=True))
    assert done.info["history"][-1]["epoch"] == 3
    stderr = capfd.readouterr().err
    assert stderr.count("warning: tensorboard is off for the rest of this run: ") == 1
    assert "training goes on" in stderr


def test_a_disk_that_refuses_under_the_tracker_is_told_once(tmp_path: Path) -> None:
    """Files may not grow: the same error from the system's side as a full disk."""
    pytest.importorskip("tensorboard")
    messages: list[str] = []
    guarded = FailSafeTracker("tensorboard", lambda: TensorBoard(tmp_path / "events", step=0), say=messages.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for step in range(3):
            guarded.write({"step": step, "train/loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(messages) == 1
    assert "File too large" in messages[0]


def test_a_link_in_the_place_of_events_is_refused_and_told(tmp_path: Path) -> None:
    """Nothing is written to where the link leads; training goes on without the tracker."""
    pytest.importorskip("tensorboard")
    (tmp_path / "diary").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").symlink_to(tmp_path / "diary")
    messages: list[str] = []
    FailSafeTracker("tensorboard", lambda: TensorBoard(tmp_path / "run/tensorboard", step=0), say=messages.append)
    assert "tensorboard is a link" in messages[0]
    assert not list((tmp_path / "diary").iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])
    messages: list[str] = []
    FailSafeTracker("tensorboard", lambda: TensorBoard(tmp_path / "events", step=0), say=messages.append)
    assert "the package tensorboard is missing (pip install 'layerwise[tensorboard]')" in messages[0]
