"""The check of refused calls itself: it sees every trace, and a call that is not refused may change what it likes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from layerwise import api, cli
from layerwise.errors import DataError, StorageError
from layerwise.training import run_training
from refusals import wrap


def rewrite_file(path: Path) -> None:
    """Change a byte of a file; its length and time stay."""
    facts = path.stat()
    path.write_text("mind")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def point_elsewhere(path: Path) -> None:
    """Let a link lead elsewhere."""
    path.unlink()
    path.symlink_to("nowhere")


TRACES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda place: (place / "new").write_text(""),
    "a new folder": lambda place: (place / "new").mkdir(),
    "a file gone": lambda place: (place / "mine").unlink(),
    "another content": lambda place: rewrite_file(place / "mine"),
    "another mode": lambda place: (place / "mine").chmod(0o600),
    "another link": lambda place: point_elsewhere(place / "link"),
}


@pytest.mark.parametrize("trace", TRACES)
def test_each_trace_of_a_refusal_fails_the_test(trace: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")

    @wrap
    def call(error: Exception) -> None:
        TRACES[trace](tmp_path)
        raise error

    with pytest.raises(pytest.fail.Exception, match="a refused call left traces"):
        call(DataError("refused"))


@pytest.mark.parametrize("code", [2, 0])
def test_a_command_is_judged_by_its_exit_code(code: int, tmp_path: Path) -> None:
    @wrap
    def main() -> int:
        (tmp_path / "new").write_text("")
        return code

    if code == 0:
        assert main() == 0
        return
    with pytest.raises(pytest.fail.Exception, match="/new: is new"):
        main()


def test_what_failed_on_the_way_may_leave_something(tmp_path: Path) -> None:
    @wrap
    def call() -> None:
        (tmp_path / "new").write_text("")
        raise StorageError("full")

    with pytest.raises(StorageError):
        call()


def test_a_process_is_judged_too(tmp_path: Path) -> None:
    code = "import sys; open('new', 'w'); sys.exit(2)"
    with pytest.raises(pytest.fail.Exception, match="/new: is new"):
        subprocess.run([sys.executable, "-c", code, "layerwise"])


def test_the_entry_points_are_wrapped_wherever_they_are_held() -> None:
    for function in (
        cli.main,
        api.train,
        api.run_training.train,
        api.open,
        api.build,
        api.write_vectors,
        api.Run.export,
        run_training.train,
    ):
        assert hasattr(function, "__wrapped__")


@pytest.mark.parametrize(("text", "meant"), [("input,label\n1,a\n", True), ("half", False), ("", False)])
def test_predict_may_leave_the_answers_it_could_give(text: str, meant: bool, tmp_path: Path) -> None:
    """Exit code 2 says that some inputs failed; the file of the others' answers is meant to be there."""

    @wrap
    def main(words: list[object]) -> int:
        (tmp_path / "answers.csv").write_text(text)
        return 2

    words = ["predict", "run", "good.csv", "bad.csv", "--out", tmp_path / "answers.csv"]
    if meant:
        assert main(words) == 2
        return
    with pytest.raises(pytest.fail.Exception, match="a refused call left traces"):
        main(words)
