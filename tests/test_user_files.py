"""Nothing of the user's is lost or touched: full disks, devices, places that are taken, caches in folders of the
user's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from disks import fill_disk, mount_small_disk
from layerwise import api, bench
from layerwise.cli import main
from layerwise.errors import LayerwiseError
from layerwise.weights.vectors import VectorTable
from processes import CONTEXT, Child, kill_self_at
from refusals import find_differences, record
from small_runs import fit, get_small_form, write_corpus

TRAIN = ["train", "mlp", "--data", "digits", "--epochs", "1", "--set", "model.hidden=[8]", "--set", "train.threads=1"]
WORDS = "the of and ark king wine silver bread water son daughter house".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run on a table, a table to answer, word vectors in two languages, their pairs, and
    texts."""
    folder = tmp_path_factory.mktemp("place")
    x = np.random.default_rng(0).normal(size=60).round(3)
    table = "a,c\n" + "".join(f"{v},{'yes' if v > 0 else 'no'}\n" for v in x)
    (folder / "t.csv").write_text(table)
    fit(folder / "run", data=str(folder / "t.csv"), epochs=1)
    (folder / "in.csv").write_text("a\n" + "".join(f"{v}\n" for v in x))
    words = WORDS + [f"{one}{other}" for one in WORDS for other in WORDS[:5]]
    matrix = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    api.write_vectors(VectorTable(list(words), matrix), folder / "en.vec")
    api.write_vectors(VectorTable([word[::-1] for word in words], matrix), folder / "ne.vec")
    (folder / "pairs.tsv").write_text("a\tb\n" + "".join(f"{word}\t{word[::-1]}\n" for word in words))
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("the king of wine\nbread and water\n")
    return folder


@pytest.fixture
def quick_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that measures nothing."""
    result = SimpleNamespace(
        to_json=lambda: dict.fromkeys(("case", "peer", "ours", "theirs", "unit", "ratio", "runs"), 1)
    )
    monkeypatch.setattr(bench, "run", lambda name, *, runs: [result])


def writing(place: Path, out: Path) -> dict[str, list[str]]:
    """Return a command of every verb that writes, into new files of a folder ``out``."""
    index = ["index", str(place / "texts"), "--vectors", str(place / "en.vec")]
    turn = ["map", str(place / "en.vec"), str(place / "ne.vec"), "--pairs", str(place / "pairs.tsv")]
    return {
        "predict": ["predict", str(place / "run"), str(place / "in.csv"), "--out", str(out / "answers.csv")],
        "export": ["export", str(place / "run"), str(out / "net.safetensors")],
        "index": [*index, "--out", str(out / "index")],
        "map": [*turn, "--out", str(out / "mapped.vec")],
        "map-safetensors": [*turn, "--out", str(out / "mapped.safetensors")],
        "pairs": [*turn, "--pairs-out", str(out / "found.tsv")],
        "inspect": ["inspect", str(place / "run"), "--view", "weights", "--out", str(out / "views")],
        "lab": ["lab", "mcp-logic", "--quick", "--out", str(out / "figures")],
        "bench": ["bench", "loop", "--runs", "1", "--out", str(out / "results.jsonl")],
        "train": [*TRAIN, "--out", str(out / "run")],
    }


VERBS = tuple(writing(Path("a"), Path("b")))


# -- where the answers of `predict` go
# -------------------------------------------------------------------------------------


def test_answers_do_not_replace_their_input(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "in.csv"
    table.write_bytes((place / "in.csv").read_bytes())
    os.link(table, tmp_path / "same.csv")
    before = record(tmp_path)
    for out in ("in.csv", "./in.csv", "same.csv"):
        assert main(["predict", str(place / "run"), "in.csv", "--out", out, "--overwrite"]) == 2
        assert f"{Path(out)} is one of the inputs" in capsys.readouterr().err
    assert find_differences(before, record(tmp_path)) == []


def test_answers_to_a_missing_input_keep_the_old_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.csv").write_text("mine\n")
    before = record(tmp_path)
    assert main(["predict", str(place / "run"), "nofile.csv", "--out", "answers.csv", "--overwrite"]) == 2
    assert "nofile.csv" in capsys.readouterr().err
    assert find_differences(before, record(tmp_path)) == []


# -- full disks and devices, for all verbs that write
# ----------------------------------------------------------------------


def on_full_disk(command: list[str], disk: Path | None, folder: Path) -> tuple[int, str]:
    """Run a command where nothing can be written any more; return its exit code and what it says."""
    if disk is None:  # files may not grow: the same error from the system's side
        child = Child(command, folder, file_limit=100)
        return child.wait(), child.stderr
    return main(command), ""


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[tuple[Path, Path | None]]:
    """A folder on a full disk, with a file of the user's in it; and the disk, or None where mounting is not
    permitted."""
    with mount_small_disk(tmp_path / "disk") as disk:
        place = tmp_path / "disk"
        (place / "mine.txt").write_text("mine\n")
        if disk is not None:
            fill_disk(disk)
        yield place, disk


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_named_and_leaves_all_as_it_was(
    verb: str,
    place: Path,
    full_disk: tuple[Path, Path | None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quick_bench: None,
) -> None:
    folder, disk = full_disk
    command = writing(place, folder)[verb]
    before = record(folder)
    code, said = on_full_disk(command, disk, tmp_path)
    said += capsys.readouterr().err
    assert code == 1, said
    assert "layerwise: cannot write " in said, said
    assert ("No space left on device" if disk else "File too large") in said
    assert "what was" in said
    assert "intact" in said
    assert find_differences(before, record(folder)) == []


@pytest.mark.parametrize("verb", ["predict", "export", "map", "map-safetensors", "pairs"])
def test_a_full_disk_keeps_the_file_that_was_to_be_replaced(
    verb: str, place: Path, full_disk: tuple[Path, Path | None], tmp_path: Path
) -> None:
    folder, disk = full_disk
    command = writing(place, folder)[verb]
    old = Path(command[-1])
    if disk is not None:
        (folder / "ballast").unlink()
    old.write_text("old\n")
    if verb == "export":
        old.with_name(old.name + ".json").write_text("old\n")
    if disk is not None:
        fill_disk(disk)
    before = record(folder)
    assert on_full_disk([*command, "--overwrite"], disk, tmp_path)[0] == 1
    assert find_differences(before, record(folder)) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_device_is_refused(
    verb: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_bench: None
) -> None:
    """``--out /dev/full``, or what leads there: refused by name before any work."""
    command = writing(place, tmp_path)[verb]
    at = command.index(next(word for word in command if word.startswith(str(tmp_path))))
    if verb in ("export", "map", "map-safetensors"):  # whose names must end in the right way
        Path(command[at]).symlink_to("/dev/full")
    else:
        command[at] = "/dev/full"
    before = record(tmp_path)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert command[at] in said
    assert any(
        word in said
        for word in ("is a device", "is a link", "is a file, not a folder", "a file is in the way", "did not make it")
    )
    assert "Traceback" not in said
    assert find_differences(before, record(tmp_path)) == []


def test_a_benchmark_is_not_measured_for_a_place_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_, **__: pytest.fail("it was measured"))
    (tmp_path / "folder").mkdir()
    assert main(["bench", "loop", "--out", "folder"]) == 2


# -- caches
# ----------------------------------------------------------------------------------------------------------------


def test_a_cache_in_a_folder_of_the_users_touches_nothing_of_it(tmp_path: Path) -> None:
    """``data.cache=docs`` with folders in it that are called as caches and unfinished ones are, and room for hardly one
    cache."""
    docs = tmp_path / "docs"
    planted = {
        "novel.part/chapter.txt": "once",
        "mycorp/tokens.bin": "0123",
        "mycorp/index.json": "{}",
        "images/pixels.npy": "1",
        ".thesis.0123456789abcdef.new/all.tex": "text",
        ".draft.fedcba9876543210.new": "a file",
        "notes.txt.new": "new",
    }
    for name, text in planted.items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(text)
    (docs / "old").symlink_to(docs / "mycorp")
    for name in planted:
        os.utime(docs / name, (0, 0))
        os.utime((docs / name).parent, (0, 0))
    before = record(docs)
    text = write_corpus(tmp_path / "text.txt")
    options = {
        **get_small_form("skipgram", examples=100),
        "data.cache": str(docs),
        "data.cache_gib": 0.0004,
        "train.threads": 1,
    }
    for seed in (1, 2):
        with open(text, "a") as stream:
            stream.write(f"a{seed} b{seed}\n")  # another text: the cache of the one before makes room
        api.train("skipgram", data=text, epochs=1, out=tmp_path / f"run{seed}", options=options)
    changed = find_differences(before, record(docs))
    assert [line for line in changed if "is new" not in line] == []
    owned = [path for path in docs.iterdir() if (path / ".layerwise").exists()]
    assert len(owned) == 1, changed  # the second took the place of the first


def test_a_folder_that_is_called_as_a_cache_but_is_not_ours_is_refused(tmp_path: Path) -> None:
    text = write_corpus(tmp_path / "text.txt")
    options: dict[str, Any] = {
        **get_small_form("skipgram", examples=100),
        "data.cache": str(tmp_path / "docs"),
        "train.threads": 1,
    }
    api.train("skipgram", data=text, epochs=0, out=tmp_path / "run", options=options)
    cache = next(path for path in (tmp_path / "docs").iterdir() if path.is_dir())
    (cache / ".layerwise").unlink()
    before = record(tmp_path)
    with pytest.raises(LayerwiseError, match="Layerwise did not make it; it stays as it is"):
        api.train("skipgram", data=text, epochs=0, out=tmp_path / "again", options=options)
    assert find_differences(before, record(tmp_path)) == []


# -- indexes
# ---------------------------------------------------------------------------------------------------------------


def _index(args: Sequence[str], place: str, kill_at: int) -> None:
    """Build an index and die on the way."""
    kill_self_at(kill_at, place)
    raise SystemExit(main(args))


@pytest.mark.parametrize("kill_at", [3, 8, 15])
def test_an_index_killed_while_it_is_built_leaves_nothing_for_long(kill_at: int, place: Path, tmp_path: Path) -> None:
    args = writing(place, tmp_path)["index"]
    (tmp_path / "notes.txt.new").write_text("mine")
    child = CONTEXT.Process(target=_index, args=(args, str(tmp_path), kill_at))
    child.start()
    child.join(60)
    assert child.exitcode == -9
    assert not (tmp_path / "index").exists()
    assert main(args) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "notes.txt.new"]


@pytest.mark.parametrize("out", ["", "index", "deep/index", "../texts/index"])
def test_an_index_inside_its_own_source_is_refused(
    out: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("the king of wine\n")
    before = record(tmp_path)
    more = ["--overwrite"] if not out else []
    assert main(["index", str(texts), "--vectors", str(place / "en.vec"), "--out", str(texts / out), *more]) == 2
    assert "whose texts are indexed" in capsys.readouterr().err
    assert find_differences(before, record(tmp_path)) == []
