"""Whatever is given as a file is refused at once if it is a pipe, a socket or a device: no reader waits, none reads for
ever."""

from __future__ import annotations

import ast
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layerwise
from layerwise import api, recipe, registry
from layerwise import inspection as views
from layerwise.cli import main
from layerwise.data.images import archives, decoding, folders, idx
from layerwise.data.load import Options, load_parts, load_splits
from layerwise.data.tables import delimited, table_files
from layerwise.data.text import text_files
from layerwise.embeddings import benchmarks, lexicon, sources
from layerwise.embeddings.passages import Passages
from layerwise.errors import DataError
from layerwise.runtime.input_files import open_regular_file, read_regular_file, refuse_special_file
from layerwise.weights import weight_files
from layerwise.weights.vector_files import read_vectors
from layerwise.weights.vectors import VectorTable

SECONDS = 20


@contextmanager
def at_once() -> Iterator[None]:
    """Fail what waits: opening a pipe without a writer does so for ever."""

    def ring(*_: object) -> None:
        raise TimeoutError("it waited")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def image(path: Path) -> Path:
    """Write an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def table() -> VectorTable:
    return VectorTable(["a", "b"], np.eye(2, dtype=np.float32))


def class_folder(path: Path) -> object:
    image(path.parent / "cat" / "1.png")
    (path.parent / "dog").mkdir()
    path = path.rename(path.parent / "dog" / "2.png")
    return load_splits(Options(str(path.parent.parent)), seed=0)


def text_folder(path: Path) -> object:
    (path.parent / "a.txt").write_text("some words of a text\n" * 40)
    return load_splits(Options(str(path.rename(path.with_suffix(".txt")).parent)), seed=0)


def table_folder(path: Path) -> object:
    (path.parent / "train.csv").write_text("x,y\n1,a\n2,b\n")
    path.rename(path.parent / "test.csv")
    return load_splits(Options(str(path.parent)), seed=0)


def idx_folder(path: Path) -> object:
    (path.parent / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 1]))
    path.rename(path.parent / "train-images-idx3-ubyte")
    return idx.read_idx_folder(path.parent)


def named_image(path: Path) -> object:
    image(path.parent / "1.png")
    path.rename(path.parent / "2.png")
    (path.parent / "t.csv").write_text("image,y\n1.png,a\n2.png,b\n1.png,a\n")
    return load_splits(Options(str(path.parent / "t.csv")), seed=0)


def endings(path: Path) -> object:
    for ending in (".csv", ".jsonl", ".parquet", ".txt", ".tar.gz", ".zip", ".png", ".json", ""):
        path = path.rename(path.with_name("x" + ending))
        with pytest.raises(DataError, match="was not opened"):
            load_splits(Options(str(path)), seed=0)
    return load_parts(Options(str(path)))


READERS: dict[str, Callable[[Path], Any]] = {
    "open": open_regular_file,
    "read": read_regular_file,
    "refuse": refuse_special_file,
    "data of any ending": endings,
    "class folder": class_folder,
    "text folder": text_folder,
    "table folder": table_folder,
    "IDX folder": idx_folder,
    "image of a table": named_image,
    "IDX": lambda p: idx.read_array(p, 1),
    "archive": archives.load_archive,
    "is_archive": archives.is_archive,
    "delimited": delimited.sniff,
    "table rows": lambda p: list(table_files.iterate_rows(p)),
    "is_parquet": table_files.is_parquet,
    "image": lambda p: decoding.decode(p, 1),
    "inspect image": decoding.inspect_image,
    "probe image": decoding.read_shape,
    "place": lambda p: folders.FolderStore(str(p.parent)).read(p.name),
    "text": lambda p: list(text_files.read_pieces(str(p))),
    "is_text": text_files.is_text,
    "is_table": text_files.is_table,
    "weights": weight_files.read_weights,
    "weights of a model": lambda p: api.build("mlp", features=4, outputs=2, weights=p),
    "vectors": read_vectors,
    "embedding": lambda p: api.embedding(p, ["a"]),
    "recipe": recipe.read_toml,
    "train a recipe": lambda p: api.train(str(p)),
    "inspect a recipe": lambda p: views.inspect_target("summary", str(p)),
    "import": registry.import_file,
    "models": lambda p: registry.read_specs(p, "m"),
    "passages": lambda p: list(Passages(str(p)).chunks()),
    "passages of a folder": lambda p: list(Passages(str(p.parent)).chunks()),
    "passages of a table": lambda p: list(Passages(str(p), column="a").chunks()),
    "labeled": sources.read_labeled_queries,
    "pairs": lexicon.read_pairs,
    "sentences": lambda p: lexicon.learn_pairs((p, p), table(), table()),
    "benchmark": lambda p: benchmarks.evaluate_words(table(), p),
    "recognized": benchmarks.is_word_benchmark,
}


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


SPECIAL = {
    "a named pipe": make_pipe,
    "a socket": make_socket,
    "a character device": lambda p: p.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_opens_what_is_no_file(reader: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x"
    SPECIAL[kind](path)
    with at_once(), pytest.raises(DataError, match=rf"{kind}, and was not opened"):
        READERS[reader](path)


COMMANDS = (
    "data x",
    "train mlp --data x",
    "train mlp --data digits --weights x",
    "train x",
    "train mlp --data iris --import x",
    "inspect x",
    "predict images x",
    "predict rows x",
    "eval rows --data x",
    "index x --out i --vectors v.vec",
    "map x v.vec --pairs p.tsv",
    "map v.vec v.vec --pairs x",
    "map v.vec v.vec --sentences x x",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_waits_for_a_pipe(
    command: str, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("x")
    for run in ("images", "rows"):
        Path(run).symlink_to(runs / run)
    Path("v.vec").write_text("2 2\na 1 0\nb 0 1\n")
    Path("p.tsv").write_text("a\ta\nb\tb\n")
    with at_once():
        assert main(command.split()) == 2
    assert "x is a named pipe, and was not opened" in capsys.readouterr().err


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of images and one of rows."""
    place = tmp_path_factory.mktemp("runs")
    for data, out in (("digits", "images"), ("iris", "rows")):
        api.train("mlp", data=data, epochs=1, out=place / out, options={"model.hidden": [4]})
    return place


def test_predict_names_a_pipe_in_a_folder_and_answers_the_others(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "in" / "1.png")
    os.mkfifo(tmp_path / "in" / "2.png")
    with at_once():
        assert main(["predict", str(runs / "images"), "in"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("in/1.png\t")
    assert "2.png is a named pipe" in err


def test_a_pipe_of_the_shell_is_refused_with_what_works(tmp_path: Path) -> None:
    """``<(cmd)`` is a pipe without a name: /dev/fd/63."""
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(
            DataError, match=r"/dev/fd/\d+ is a named pipe.*\n.*\n.*pipe it in, where '-' reads standard input"
        ):
            load_splits(Options(f"/dev/fd/{read_end}"), seed=0)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_files_folders_and_what_is_not_there_behave_as_ever(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    assert read_regular_file(tmp_path / "link") == b"abc"
    with pytest.raises(IsADirectoryError):
        open_regular_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "y")
    refuse_special_file(tmp_path / "y")
    refuse_special_file("a\0b")


def test_what_takes_a_files_place_between_the_looks_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(
        "layerwise.runtime.input_files.refuse_special_file", lambda path: None
    )  # as if it had still been a file
    open_files = len(os.listdir("/dev/fd"))
    with at_once(), pytest.raises(DataError, match="is a named pipe"):
        open_regular_file(tmp_path / "pipe")
    assert len(os.listdir("/dev/fd")) == open_files


def test_the_watch_sees_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain ``open`` of a pipe waits: what the sweep would fail on."""
    monkeypatch.setattr("test_input_files.SECONDS", 0.2)
    os.mkfifo(tmp_path / "x")
    assert stat.S_ISFIFO(os.stat(tmp_path / "x").st_mode)
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(TimeoutError), at_once():
        (tmp_path / "x").open("rb")


# Modules that open files which Layerwise itself has written (runs, caches, indexes), and those that write.
OWN_FILES = {
    "cooccurrence.py",
    "cooccurrence_build.py",
    "corpus.py",
    "corpus_build.py",
    "image_cache.py",
    "cache_folders.py",
    "downloader.py",
    "index.py",
    "token_file.py",
}


def test_every_reader_opens_regular_files_only() -> None:
    bare = []
    for package in ("data", "weights", "embeddings"):
        for path in (Path(layerwise.__file__).parent / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or path.name in OWN_FILES:
                    continue
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                mode = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                writes = any(one.startswith(("w", "a", "r+", "x")) for one in mode)
                if name in ("open", "read_bytes", "read_text") and not writes:
                    bare.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    known = ("Image.open(stream", "new.open('rb')", "tarfile.open(fileobj", "RunDirectory.open(path)")
    assert not [line for line in bare if not any(one in line for one in known)]
