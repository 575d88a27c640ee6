"""The writer: a file appears whole or not at all, links are refused, and only marked folders are ever removed."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerwise.errors import StorageError, UsageError
from layerwise.runtime import atomic_io
from layerwise.runtime.atomic_io import flush_folder, open_replacing, write_file, write_files
from layerwise.runtime.folder_io import build_folder, hold_lock, open_unfinished, put_folder, stage_file, stage_files
from layerwise.runtime.in_place_io import append_line, remove_if_unchanged, truncate_file
from layerwise.runtime.owned_folders import MARKER, is_owned, make_owned, remove_owned, sweep_unfinished
from layerwise.runtime.write_checks import check_target

KIND = "cache"


@pytest.fixture(params=["nameless", "named"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to write: with nameless files, and as on systems that have none."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


def tree(place: Path) -> dict[str, bytes | str]:
    """Return everything below a place: contents of files, targets of links, an empty text for folders."""
    entries: dict[str, bytes | str] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        entries[name] = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else path.read_bytes()
    return entries


@pytest.mark.usefixtures("_way")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.none() | st.binary(max_size=50), pieces=st.lists(st.binary(max_size=50), max_size=4), fails=st.booleans())
def test_a_file_is_the_old_one_or_the_new_one(
    old: bytes | None, pieces: list[bytes], fails: bool, tmp_path: Path
) -> None:
    tmp_path = Path(tempfile.mkdtemp(dir=tmp_path))
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    try:
        with open_replacing(path) as stream:
            for piece in pieces:
                stream.write(piece)
                assert tree(tmp_path).get("a") == old  # nobody sees it before it is whole
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert tree(tmp_path) == ({} if old is None else {"a": old})
    else:
        assert tree(tmp_path) == {"a": b"".join(pieces)}


@pytest.mark.usefixtures("_way")
def test_permissions_are_those_of_the_old_file_or_the_systems(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "new", b"1")
        (tmp_path / "old").touch(0o600)
        write_file(tmp_path / "old", b"2")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_refused_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("mine")
    (tmp_path / "link").symlink_to("diary")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        before = {p.name: p.lstat().st_mode for p in tmp_path.iterdir()}
        for name, text in (
            ("link", "is a link"),
            ("gone", "is a link"),
            ("folder", "is a folder, not a file"),
            ("pipe", "is a pipe"),
            ("socket", "is a socket"),
            ("no/where", "there is no folder"),
        ):
            with pytest.raises(UsageError, match=text):
                write_file(tmp_path / name, b"x")
        with pytest.raises(UsageError, match="/dev/full is a device, not a file"):
            write_file(Path("/dev/full"), b"x")
        assert {p.name: p.lstat().st_mode for p in tmp_path.iterdir()} == before
    assert (tmp_path / "diary").read_text() == "mine"


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/file"])
def test_a_link_anywhere_below_the_root_is_refused(link: str, tmp_path: Path) -> None:
    """Above the root a link is the user's way to say where runs lie; below it, it leads elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/diary").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    root = tmp_path / "root"
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(tmp_path / "home" / ("diary" if link.endswith("file") else ""))
    before = tree(tmp_path)
    for write in (lambda p: write_file(p, b"x", root=root), lambda p: append_line(p, b"x", root=root)):
        with pytest.raises(UsageError, match=f"{link} is a link, and Layerwise does not write through links"):
            write(root / "a/b/file")
    if link.endswith("file"):
        with pytest.raises(UsageError, match="is a link"):
            truncate_file(root / link, 0, root=root)
    assert tree(tmp_path) == before


def test_several_files_come_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match="b is a folder"):
        write_files([(tmp_path / "a", b"new"), (tmp_path / "b", b"new")])
    assert (tmp_path / "a").read_bytes() == b"old"
    with pytest.raises(UsageError, match="a exists already"):
        write_files([(tmp_path / "c", b"new"), (tmp_path / "a", b"new")], overwrite=False)
    assert sorted(tree(tmp_path)) == ["a", "b"]
    write_files([(tmp_path / "a", b"1"), (tmp_path / "c", b"2")])
    assert tree(tmp_path) == {"a": b"1", "b": "", "c": b"2"}


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_came_up_meanwhile_stays(late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``late``: between the last look at the place and the naming of the file."""

    def come_up(*_: object, **__: object) -> None:
        (tmp_path / "a").write_bytes(b"another's")

    def write() -> None:
        with open_replacing(tmp_path / "a", overwrite=False) as stream:
            stream.write(b"ours")
            if late:
                link = os.link
                monkeypatch.setattr(os, "link", lambda *a, **k: (come_up(), link(*a, **k)))
            else:
                come_up()

    with pytest.raises(UsageError, match="exists already"):
        write()
    assert tree(tmp_path) == {"a": b"another's"}


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ENOENT, errno.EOPNOTSUPP])
def test_a_system_that_gives_no_second_names_gets_the_file_too(
    refusal: int, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT has no links; sandboxes let no file be named from /proc."""

    def refuse(source: str, *_: object, **__: object) -> None:
        if refusal != errno.ENOENT or "/proc/" in os.fspath(source):
            raise OSError(refusal, os.strerror(refusal))
        os.rename(source, tmp_path / "a")  # the link, and the source's removal that follows it
        Path(source).touch()

    if overwrite:
        (tmp_path / "a").write_bytes(b"old")
        (tmp_path / "a").chmod(0o640)
    monkeypatch.setattr(os, "link", refuse)
    with open_replacing(tmp_path / "a", overwrite=overwrite) as stream:
        stream.write(b"new" * 100_000)
    assert tree(tmp_path) == {"a": b"new" * 100_000}
    if overwrite:
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_a_killed_writer_left_goes_with_the_next_file_also_below_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``engines/`` of a run and beside the kernels' times, which no resume tidies."""
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    child = os.fork()
    if child == 0:
        with open_replacing(tmp_path / "a", root=tmp_path) as stream:
            stream.write(b"half")
            os._exit(9)
    os.waitpid(child, 0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".new"]
    write_file(tmp_path / "a", b"whole", root=tmp_path)
    assert tree(tmp_path) == {"a": b"whole"}


def test_taking_back_takes_only_what_was_written(tmp_path: Path) -> None:
    for name in ("same", "changed", "mine"):
        (tmp_path / name).write_bytes(name.encode())
    digests = {name: hashlib.sha256(b"same").hexdigest() for name in ("same", "changed", "not there")}
    remove_if_unchanged(tmp_path, digests)
    assert sorted(tree(tmp_path)) == ["changed", "mine"]


# -- folders
# ---------------------------------------------------------------------------------------------------------------


NAMES = st.sampled_from(["a", "b.part", "tokens.bin", "index.json", MARKER, "c.new"])
CONTENTS = st.sampled_from([b"", b"x", b"made by layerwise\n", "folder", "link"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(NAMES, CONTENTS, max_size=4), kind=st.sampled_from([KIND, "x"]))
def test_nothing_without_our_marker_is_ever_removed(content: dict[str, bytes | str], kind: str, tmp_path: Path) -> None:
    """Whatever a folder is called and holds: it goes only if it is empty, or has a whole marker of the kind."""
    tmp_path = Path(tempfile.mkdtemp(dir=tmp_path))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/diary").write_text("mine")
    folder = tmp_path / ".novel.0123456789abcdef.new"
    folder.mkdir()
    for name, what in content.items():
        if what == "folder":
            (folder / name).mkdir()
            (folder / name / "inside").write_text("mine")
        elif what == "link":
            (folder / name).symlink_to(tmp_path / "home")
        else:
            (folder / name).write_bytes(what)  # type: ignore[arg-type]
    before = tree(tmp_path)
    sweep_unfinished(tmp_path, kind, alone=True)
    remove_owned(folder, kind)
    nothing = not content or content == {MARKER: b""}
    assert tree(tmp_path) == (
        {name: data for name, data in before.items() if name.startswith("home")} if nothing else before
    )


def test_a_marked_folder_goes_whole_and_its_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/diary").write_text("mine")
    make_owned(tmp_path / "cache", KIND)
    (tmp_path / "cache/link").symlink_to(tmp_path / "home")
    (tmp_path / "cache/deep/er").mkdir(parents=True)
    (tmp_path / "cache/deep/link").symlink_to(tmp_path / "home/diary")
    (tmp_path / "other").symlink_to("cache")
    assert not remove_owned(tmp_path / "other", KIND)  # a link to a folder of ours is not ours
    assert not remove_owned(tmp_path / "cache", "another kind")
    assert remove_owned(tmp_path / "cache", KIND)
    assert sorted(tree(tmp_path)) == ["home", "home/diary", "other"]


def test_a_changed_marker_is_none(tmp_path: Path) -> None:
    make_owned(tmp_path / "a", KIND)
    data = (tmp_path / "a" / MARKER).read_bytes()
    for place in range(0, len(data) - 1, 7):
        (tmp_path / "a" / MARKER).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert not is_owned(tmp_path / "a", KIND), place
    (tmp_path / "a" / MARKER).write_bytes(data)
    assert is_owned(tmp_path / "a", KIND)


def test_a_folder_takes_its_place_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with build_folder(place, KIND) as new:
        (new / "a").write_text("1")
        assert not place.exists()
    for fails in (True, False):
        inode = place.stat().st_ino
        try:
            with build_folder(place, KIND, replace=True) as new:
                (new / "b").write_text("2")
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert place.stat().st_ino == inode
    assert sorted(tree(tmp_path)) == ["place", f"place/{MARKER}", "place/b"]
    with pytest.raises(UsageError, match="exists already"), build_folder(place, KIND):
        raise AssertionError("the block does not begin")


def test_a_folder_of_the_users_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/novel").write_text("mine")
    (tmp_path / "link").symlink_to("docs")
    before = tree(tmp_path)
    for name, text in (
        ("docs", "Layerwise did not make it; it stays as it is"),
        ("link", "is a link"),
        ("docs/novel", "stays as it is"),
    ):
        with pytest.raises(UsageError, match=text), build_folder(tmp_path / name, KIND, replace=True):
            raise AssertionError("the block does not begin")
        with open_unfinished(tmp_path / "x", KIND) as new, pytest.raises(UsageError, match=text):
            put_folder(new, tmp_path / name, KIND)
    assert tree(tmp_path) == before


def test_staged_files_come_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").write_text("mine")

    def write() -> None:
        with stage_files(tmp_path / "out", overwrite=False) as folder:
            for name in "abc":
                (folder / name).write_text("new")

    with pytest.raises(UsageError, match="b exists already"):
        write()
    assert tree(tmp_path / "out") == {"b": b"mine"}
    with stage_files(tmp_path / "out", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert tree(tmp_path) == {"out": "", "out/b": b"new"}
    with stage_file(tmp_path / "vectors", overwrite=False) as path:
        path.write_text("by a library")
    assert tree(tmp_path) == {"out": "", "out/b": b"new", "vectors": b"by a library"}


# -- what file systems cannot do
# -------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_flushed_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some network file systems answer EINVAL; any other error is raised."""
    monkeypatch.setattr(atomic_io, "_WARNED", set())
    code = [errno.EINVAL]

    def refuse(handle: int) -> None:
        raise OSError(code[0], os.strerror(code[0]))

    monkeypatch.setattr(os, "fsync", refuse)
    with caplog.at_level(logging.WARNING, "layerwise"):
        flush_folder(tmp_path)
        flush_folder(tmp_path)
    assert [record.message.partition(": ")[0] for record in caplog.records] == [
        f"the file system of {tmp_path} cannot flush folders"
    ]
    code[0] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        flush_folder(tmp_path)


def test_a_lock_that_another_holds_is_not_held(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock", wait=False) as first:
        assert first
        pid = os.fork()
        if pid == 0:
            with hold_lock(tmp_path / "lock", wait=False) as second:
                os._exit(0 if not second else 1)
        assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / "other").symlink_to("lock")
    with pytest.raises(UsageError, match="is a link"), hold_lock(tmp_path / "other", wait=False):
        pass


def test_a_full_device_keeps_the_old_file(tmp_path: Path) -> None:
    """A file system of one page: the old file is whole after the new one did not fit."""
    import subprocess

    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        write_file(place / "a", b"old")
        with pytest.raises(
            StorageError, match=r"cannot write .*/a: No space left(?s:.*)what was there before is intact"
        ):
            write_file(place / "a", bytes(1 << 20))
        assert tree(place) == {"a": b"old"}
        check_target(place / "a")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
