"""What killed processes leave: told by machine, number and start, swept or given its name back, never while somebody
may be at work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from layerwise.errors import UsageError
from layerwise.runtime import folder_io, owned_folders, process_identity
from layerwise.runtime.folder_io import build_folder, open_unfinished, put_folder
from layerwise.runtime.owned_folders import (
    MARKER,
    find_temporary,
    make_owned,
    make_temporary_path,
    read_marker,
    sweep_unfinished,
)
from layerwise.runtime.process_identity import describe_process, get_start_time, is_running

KIND = "cache"
DAY = 24 * 3600

LEFT = """
import os, sys
from pathlib import Path
from layerwise.runtime.owned_folders import make_owned, make_temporary_path
folder = make_temporary_path(Path(sys.argv[1]))
make_owned(folder, "cache")
print(folder, flush=True)
if sys.argv[2:]:
    sys.stdin.read()
os._exit(9)
"""


def left_by_a_killed_process(target: Path) -> Path:
    """Return an unfinished folder beside a target whose process is gone."""
    done = subprocess.run([sys.executable, "-c", LEFT, str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    return Path(done.stdout.strip())


def age(folder: Path, seconds: float) -> None:
    """Set the times of a folder and of everything in it back."""
    past = time.time() - seconds
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (past, past))


def test_a_process_is_known_by_its_start() -> None:
    mine = describe_process()
    assert is_running(mine) is True
    assert is_running({**mine, "started": get_start_time(os.getpid()) + 100}) is False  # its number was given again
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        other = {**mine, "process": child.pid, "started": get_start_time(child.pid)}
        assert is_running(other) is True
        child.kill()
    assert is_running(other) is False
    for strange in ({**mine, "machine": "elsewhere"}, {}, {**mine, "process": "1"}, {**mine, "started": None}):
        assert is_running(strange) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the clock moves psutil's start on Linux only")
def test_a_set_clock_changes_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil's start is the kernel's boot time, which moves with the clock, and the ticks since; ours are the ticks."""
    mine = describe_process()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: 0.0)
    assert is_running(mine) is True


def test_without_proc_processes_are_told_by_host_and_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""
    process_identity.get_machine_id.cache_clear()
    monkeypatch.setattr(process_identity, "Path", lambda _: Path("/nowhere"))
    try:
        mine = describe_process()
        assert mine["machine"] == socket.gethostname()
        assert mine["started"] == pytest.approx(psutil.Process().create_time())
        assert is_running(mine) is True
        assert is_running({**mine, "process": 2**22 + 5}) is False
    finally:
        process_identity.get_machine_id.cache_clear()


def test_what_a_killed_process_left_goes_and_a_running_ones_stays(tmp_path: Path) -> None:
    gone = left_by_a_killed_process(tmp_path / "a")
    running = subprocess.Popen(
        [sys.executable, "-c", LEFT, str(tmp_path / "b"), "stay"], stdin=-1, stdout=-1, text=True
    )
    assert running.stdout is not None
    assert running.stdin is not None
    held = Path(running.stdout.readline().strip())
    age(held, 30 * DAY)  # however old: its process runs
    sweep_unfinished(tmp_path, KIND)
    assert not gone.exists()
    assert held.exists()
    running.communicate("")
    sweep_unfinished(tmp_path, KIND)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["new", "old"])
def test_another_machines_folder_goes_when_nothing_has_changed_for_a_day(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f".a.0123456789abcdef.{ending}"
    with monkeypatch.context() as patch:
        patch.setattr(
            owned_folders, "describe_process", lambda: {"machine": "another", "process": os.getpid(), "started": 1}
        )
        make_owned(folder, KIND)
    (folder / "deep").mkdir()
    (folder / "deep/tokens").write_text("1")
    (tmp_path / "a").mkdir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + DAY - 600)
    sweep_unfinished(tmp_path, KIND)
    assert folder.exists()
    os.utime(folder / "deep/tokens", (now + 1200, now + 1200))
    monkeypatch.setattr(time, "time", lambda: now + DAY + 600)
    sweep_unfinished(tmp_path, KIND)
    assert folder.exists()  # it writes still
    monkeypatch.setattr(time, "time", lambda: now + DAY + 1800)
    sweep_unfinished(tmp_path, KIND)
    assert not folder.exists()


def test_a_folder_that_a_running_process_has_set_aside_stays(tmp_path: Path) -> None:
    """Whoever made it is gone, whoever replaces it is at work: giving it its name back would be in the way."""
    folder = left_by_a_killed_process(tmp_path / "index")
    aside = folder.rename(make_temporary_path(tmp_path / "index", ending="old"))
    sweep_unfinished(tmp_path, KIND)
    assert list(tmp_path.iterdir()) == [aside]


@pytest.fixture(params=["exchange", "two steps"])
def _put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to replace a folder: in one step, and as on systems that have no renameat2 (NFS, macOS)."""
    if request.param == "two steps":
        monkeypatch.setattr(folder_io, "_exchange", lambda *_: False)


@pytest.mark.usefixtures("_put")
@pytest.mark.parametrize("killed_at", range(1, 9))
def test_a_kill_while_a_folder_is_replaced_loses_neither(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of its renames or removals; the next build in this place finds the old folder or the new one,
    whole."""
    place = tmp_path / "index"
    left_by_a_killed_process(place).rename(place)
    (place / "content").write_text("old")
    child = os.fork()
    if child == 0:  # the real calls, and a kill before the one of this number
        count = [0]

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def dies(*arguments: Any, **options: Any) -> Any:
                count[0] += 1
                if count[0] == killed_at:
                    os._exit(9)
                return call(*arguments, **options)

            return dies

        for holder, name in ((folder_io, "_exchange"), (Path, "rename"), (Path, "unlink"), (Path, "rmdir")):
            monkeypatch.setattr(holder, name, counted(getattr(holder, name)))
        with open_unfinished(place, KIND) as new:
            (new / "content").write_text("new")
            put_folder(new, place, KIND)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sweep_unfinished(tmp_path, KIND)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert (place / "content").read_text() in (("new",) if code == 0 else ("old", "new"))


def test_a_folder_that_was_set_aside_counts_when_a_new_one_is_built(tmp_path: Path) -> None:
    aside = left_by_a_killed_process(tmp_path / "index")
    aside.rename(aside.with_suffix(".old"))
    with pytest.raises(UsageError, match="exists already"), build_folder(tmp_path / "index", KIND):
        raise AssertionError("the block does not begin")
    assert read_marker(tmp_path / "index") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_users_folder_called_old_keeps_its_name(tmp_path: Path) -> None:
    mine = tmp_path / ".thesis.0123456789abcdef.old"
    mine.mkdir()
    (mine / "all.tex").write_text("mine")
    age(mine, 30 * DAY)
    sweep_unfinished(tmp_path, KIND, alone=True)
    assert (mine / "all.tex").read_text() == "mine"


@pytest.mark.parametrize("name", ["a", "index.v2", "数" * 83, "x" * 250, "[a]*?"])
def test_temporary_names_are_found_again(name: str, tmp_path: Path) -> None:
    """Also of names as long as the system allows, and of names with the signs of patterns."""
    folder = make_temporary_path(tmp_path / name)
    make_owned(folder, KIND)
    assert (folder / MARKER).is_file()
    assert find_temporary(tmp_path / name) == ([folder] if len(os.fsencode(name)) <= 200 else [])
    assert find_temporary(tmp_path / "b") == []
