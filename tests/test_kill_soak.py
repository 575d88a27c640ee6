"""SIGKILL at any moment of any command that writes: what is there is the old or the new, whole, and the user's files
are untouched (F22).

Ten models; training with its saves and caches, the first file operations of a new run, exports, indexes, answers and
figures. Kills come at random times and before random file operations.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from layerwise import registry
from processes import Child, assert_same
from refusals import Record, find_differences, record
from small_runs import BATCH_SIZES, get_small_form, write_corpus, write_digit_folders

IMAGES = {"lenet5", "cnn"}  # learned from image files, decoded once into a cache
MODELS = ("perceptron", "mlp", "rbm", "dbn", "lenet5", "cnn", "hopfield", "skipgram", "cbow", "glove")
OPERATIONS = {
    "train": 300,
    "start": 100,
    "export": 8,
    "index": 24,
    "predict": 5,
    "inspect": 14,
}  # that kills are drawn from
KEYS = ("--seed", 5, "--epochs", 2, "--set", "train.threads=1", "--set", "train.log_every=2")
SAVES = ("--set", "train.checkpoint_seconds=0.0001")
PLANTED = {
    "notes.txt.new": "mine",
    "docs/novel.part/chapter.txt": "once",
    ".x.0123456789abcdef.new": "a file",
    "cache/mycorp/tokens.bin": "0123",
    "cache/.mine.0123456789abcdef.new/all.tex": "text",
    "cache/index.json": "{}",
    "elsewhere/diary": "dear diary",
}
LINKS = {"diary.new": "elsewhere/diary", "cache/linked": "../elsewhere", ".views.0123456789abcdef.new": "elsewhere"}


@dataclass(frozen=True)
class Command:
    """A command that writes ``outputs`` beside a finished run."""

    kind: str
    args: tuple[object, ...]
    outputs: tuple[str, ...]


@dataclass
class Model:
    """A model's small form, trained without a break, and the commands that its run is good for."""

    name: str
    root: Path
    report: bool = True  # whether runs end with their page, whose figures cost more than a small training
    turn: int = 0  # of its commands
    args: list[object] = field(default_factory=list)
    seconds: float = 0.0
    commands: list[Command] = field(default_factory=list)
    expected: dict[tuple[object, ...], dict[str, Record]] = field(
        default_factory=dict
    )  # what each command writes, without a kill

    @property
    def unbroken(self) -> Path:
        """The folder of the run without a break."""
        return self.root / "whole"


def prepare(name: str, root: Path, *, graphs: bool, report: bool) -> Model:
    """Train a model without a break; ``graphs``: export an ``.onnx`` file of it too."""
    model = Model(name, root, report)
    root.mkdir()
    words = registry.find(name).family == "word-vectors"
    data: object = write_corpus(root / "text.txt") if words else {"perceptron": "iris"}.get(name, "digits")
    given = [
        part
        for key, value in get_small_form(name, examples=192).items()
        for part in ("--set", f"{key}={json.dumps(value)}")
    ]
    if name in IMAGES:
        (root / "images").mkdir()
        data = write_digit_folders(root / "images", 330, side=12)
        given = ["--set", "task.size=32", "--set", "train.memory_mib=1"]
    if words or name in IMAGES:
        given += ["--set", "data.cache=cache"]
    (root / "texts").mkdir()
    (root / "texts/a.txt").write_text("a1 a2 a3 b1\nb2 b3 c4\n" * 20)
    model.args = [
        "train",
        name,
        "--data",
        data,
        "--out",
        "run",
        "--batch-size",
        BATCH_SIZES.get(name, 30),
        *given,
        *KEYS,
    ]
    plant(model.unbroken)
    began = time.monotonic()
    child = Child(model.args, model.unbroken, report=report)
    assert child.wait(120) == 0, child.stderr
    model.seconds = time.monotonic() - began
    model.commands = commands_of(name, words=words, graphs=graphs, root=root)
    return model


def commands_of(name: str, *, words: bool, graphs: bool, root: Path) -> list[Command]:
    """Return the commands that write, for a model's run."""
    commands = [
        Command("export", ("export", "run", "net.safetensors"), ("net.safetensors", "net.safetensors.json")),
        Command("inspect", ("inspect", "run", "--view", "weights", "--out", "views"), ("views",)),
    ]
    if words:
        commands.append(Command("export", ("export", "run", "net.vec"), ("net.vec", "net.vec.json")))
        commands.append(
            Command("index", ("index", str(root / "texts"), "--vectors", "run", "--out", "index"), ("index",))
        )
    if name == "perceptron":
        commands.append(
            Command("predict", ("predict", "run", "5.1,3.5,1.4,0.2", "--out", "answers.csv"), ("answers.csv",))
        )
    if name in IMAGES:
        commands.append(
            Command("predict", ("predict", "run", str(root / "images"), "--out", "answers.csv"), ("answers.csv",))
        )
    if graphs:
        commands.append(Command("export", ("export", "run", "net.onnx"), ("net.onnx", "net.onnx.json")))
    return commands


def plant(folder: Path) -> None:
    """Put files of the user's, with names like ours, into a new folder."""
    folder.mkdir()
    for name, text in PLANTED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)


def users(folder: Path) -> Record:
    """Return what is there of the user's files."""
    return {name: entry for name, entry in record(folder).items() if name in PLANTED or name in LINKS}


def litter(folder: Path) -> list[str]:
    """Return what is left of ours that is neither the user's nor an output: passing files and locks."""
    names = set(record(folder)) - set(PLANTED) - set(LINKS) - {"cache/.mine.0123456789abcdef.new"}
    return sorted(name for name in names if Path(name).name.endswith((".new", ".old", ".lock")))


def killed(model: Model, args: list[object], folder: Path, kind: str, draw: random.Random) -> int:
    """Run a command and kill it, at a random time or before a random file operation; return its exit code."""
    planned = kind == "start" or draw.random() < 0.6
    below = "" if kind not in ("train", "start") else draw.choice(["", "run"])
    child = Child(
        args, folder, kill_at=draw.randrange(1, OPERATIONS[kind]) if planned else 0, below=below, report=model.report
    )
    if not planned:
        time.sleep(draw.uniform(0, 1.2 * model.seconds if kind == "train" else 0.5))
        child.kill()
    code = child.wait(120)
    assert code in (0, -9), child.stderr
    return code


def kill_training(model: Model, folder: Path, draw: random.Random, *, most: int) -> Counter[str]:
    """Begin a run, kill it at its start and then again and again, until it ends; it must end as the one without a
    break."""
    plant(folder)
    before, kills = users(folder), Counter[str]()
    kind = "start"
    while sum(kills.values()) < most:
        code = killed(model, [*model.args, *SAVES, *(["--resume"] if kind == "train" else [])], folder, kind, draw)
        assert users(folder) == before
        kills[kind] += code == -9
        if code == 0:
            break
        kind = "train"
    child = Child([*model.args, *SAVES, "--resume"], folder, report=model.report)
    assert child.wait(120) == 0, child.stderr
    assert users(folder) == before
    assert_same(folder / "run", model.unbroken / "run")
    assert litter(folder) == []
    return kills


def kill_command(model: Model, command: Command, folder: Path, draw: random.Random, *, overwrite: bool) -> Counter[str]:
    """Kill a command beside a finished run: its outputs are the old or the new ones; the next call succeeds and leaves
    no litter."""
    plant(folder)
    shutil.copytree(model.unbroken / "run", folder / "run")
    if command.args not in model.expected:
        shutil.copytree(model.unbroken / "run", folder / "other/run")
        model.expected[command.args] = outputs_of(Child(command.args, folder / "other"), folder / "other", command)
    new = model.expected[command.args]
    if overwrite:
        put_old(command, folder)
    old, before = {name: record_of(folder / name) for name in command.outputs}, users(folder)
    more = ["--overwrite"] if overwrite else []
    code = killed(model, [*command.args, *more], folder, command.kind, draw)
    assert users(folder) == before
    for name in command.outputs:
        entries = record_of(folder / name)
        if name == "views":  # a folder into which files come one after the other, each whole
            assert {
                path for path, entry in entries.items() if entry not in (old[name].get(path), new[name].get(path))
            } == set()
        else:
            assert entries in (old[name], new[name]), (name, code)
    again = ["--overwrite"] if overwrite or any((folder / name).exists() for name in command.outputs) else []
    assert outputs_of(Child([*command.args, *again], folder), folder, command) == new
    assert users(folder) == before
    assert litter(folder) == []
    assert find_differences(record(model.unbroken / "run"), record(folder / "run")) == []
    return Counter({command.kind: code == -9})


def put_old(command: Command, folder: Path) -> None:
    """Put older outputs into the places of a command's: an index of other texts, and files of a line."""
    if command.kind == "index":
        (folder / "older.txt").write_text("a1 a2\n")
        child = Child([command.args[0], "older.txt", *command.args[2:]], folder)
        assert child.wait(60) == 0, child.stderr
        return
    for name in command.outputs:
        if name != "views":
            (folder / name).write_text("old\n")


def outputs_of(child: Child, folder: Path, command: Command) -> dict[str, Record]:
    """Wait for a command to succeed; return what it wrote."""
    assert child.wait(120) == 0, child.stderr
    return {name: record_of(folder / name) for name in command.outputs}


def record_of(path: Path) -> Record:
    """Return what a file or folder holds, but for the marker, which tells who made it."""
    if path.is_dir():
        return {name: entry for name, entry in record(path).items() if name != ".layerwise"}
    return {"": ("a file", path.read_bytes())} if path.exists() else {}


def kill_all(
    models: tuple[str, ...],
    root: Path,
    *,
    kills: int,
    graphs: tuple[str, ...] = (),
    report: bool = True,
    seconds: float = float("inf"),
    seed: int,
) -> Counter[str]:
    """Kill so often, or for so long, over models, their trainings and commands by turns; return how many of each
    kind."""
    draw, counts, turn = random.Random(seed), Counter[str](), 0
    print(f"seed {seed}")
    prepared = [prepare(name, root / name, graphs=name in graphs, report=report) for name in models]
    try:
        end = time.monotonic() + seconds
        while counts.total() < kills and time.monotonic() < end:
            model = prepared[turn % len(prepared)]
            folder = model.root / f"cut-{turn}"
            if (turn // len(prepared)) % 3 == 0:
                counts += kill_training(model, folder, draw, most=min(8, kills - counts.total()))
            else:
                command = model.commands[model.turn % len(model.commands)]
                counts += kill_command(model, command, folder, draw, overwrite=draw.random() < 0.5)
                model.turn += 1
            shutil.rmtree(folder)
            turn += 1
            print(f"turn {turn}, {folder}: {dict(counts)}")
    except BaseException:
        print(f"seed {seed}, turn {turn}, so far {dict(counts)}")
        raise
    return counts


def test_some_kills(tmp_path: Path) -> None:
    counts = kill_all(("perceptron", "skipgram"), tmp_path, kills=15, report=False, seconds=12, seed=time.time_ns())
    assert counts.total() >= 2  # even on a busy machine
    assert counts["start"] + counts["train"] > 0


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills(tmp_path: Path) -> None:
    counts = kill_all(MODELS, tmp_path, kills=200, graphs=("mlp",), seed=time.time_ns())
    print(dict(counts))
    assert counts.total() >= 200
    assert min(counts[kind] for kind in ("start", "train", "export", "index", "predict", "inspect")) > 0
