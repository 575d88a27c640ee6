"""What is said of a table before anything is trained: kinds, gaps, purposes, uneven classes, rows in two parts (F18),
`data PATH`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from layerwise import api
from layerwise.cli import main
from layerwise.data.load import Options, load_splits
from layerwise.data.source import ArraySource, Column, Schema, Splits, summarize_columns
from layerwise.data.splits import find_repeated_rows, hash_rows
from layerwise.tasks.classification import describe_imbalance
from processes import patch_report


def make_source(inputs: list[list[float]], targets: list[float]) -> ArraySource:
    columns = tuple(f"x{i}" for i in range(len(inputs[0])))
    return ArraySource(
        Schema("row", (len(columns),), "number", (), columns, "y"), np.array(inputs), np.array(targets), "t"
    )


def write_messy_table(path: Path, count: int = 60) -> Path:
    lines = ["id,who,town,size,built,note,w,y"]
    for i in range(count):
        size = "" if i % 10 == 0 else f"{50 + i}"
        lines.append(
            f"{i},p{i // 3},{'ABC'[i % 3]},{size},2020-01-{1 + i % 28:02d},text {i},1,{'yes' if i % 6 == 0 else 'no'}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_notes_name_every_column_and_what_becomes_of_it(tmp_path: Path) -> None:
    splits = load_splits(Options(str(write_messy_table(tmp_path / "t.csv")), group="who", weight="w"), seed=0)
    output = " | ".join(splits.notes)
    assert "1 number (size), 1 category (town: 3), 1 date (built); target: y, 2 different values" in output
    assert "size 6" in output
    assert "id (numbers the rows), note (free text)" in output
    assert "who (group), w (weight)" in output
    assert [column.name for column in splits.columns] == ["id", "who", "town", "size", "built", "note", "w", "y"]


def test_uneven_classes_are_told_with_their_counts() -> None:
    assert describe_imbalance(("a", "b"), np.array([20, 11])) == ()
    (note,) = describe_imbalance(("a", "b", "c"), np.array([10, 80, 10]))
    assert "'b' 80 (80.0%), 'a' 10 (10.0%), 'c' 10 (10.0%)" in note
    assert "task.class_weights=balanced" in note
    (note,) = describe_imbalance(tuple("abcdefgh"), np.array([1, 9, 9, 9, 9, 9, 9, 2]))
    assert note.count("%") == 6
    assert "…, 'a' 1" in note
    assert describe_imbalance(("a", "b"), np.array([5, 0])) == ()


def test_rows_of_training_in_other_parts_are_counted() -> None:
    """F18 for tables, with gaps, both zeros and targets; beside a naive loop over sets of rows."""
    nan = float("nan")
    train = make_source([[1, nan], [2, 0.0], [3, 3], [4, 4]], [0, 1, 2, 3])
    val = make_source([[1, nan], [2, -0.0], [3, 3], [nan, 1]], [0, 1, 9, 0])
    test = make_source([[3, 4]], [2])
    (note,) = find_repeated_rows(Splits(train, val, test, "t"))
    assert note.startswith("2 of 4 rows of the val part are in the training part too")
    rng = np.random.default_rng(0)
    a, b = (
        make_source(rng.integers(0, 3, (200, 4)).astype(float).tolist(), rng.integers(0, 2, 200).tolist())
        for _ in range(2)
    )
    known = {(*row, y) for row, y in zip(a.inputs.tolist(), a.targets, strict=True)}
    count = sum((*row, y) in known for row, y in zip(b.inputs.tolist(), b.targets, strict=True))
    (note,) = find_repeated_rows(Splits(a, b, test, "t"))
    assert note.startswith(f"{count} of 200 ")
    assert len(set(hash_rows(a).tolist())) == len(known)


def test_training_says_it_before_it_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A test part with the training rows in it; the run keeps the notes and the columns, and `eval` knows its data.

    By itself the test part's column of notes would be a category: the training part's kinds hold for all parts.
    """
    folder = tmp_path / "d"
    folder.mkdir()
    write_messy_table(folder / "train.csv")
    lines = (folder / "train.csv").read_text().splitlines()
    same = [re.sub("text [0-9]+", "text", line) for line in lines]
    (folder / "test.csv").write_text("\n".join([*same, same[2].replace(",B,", ",Z,")]) + "\n")
    options = {"data.group": "who", "data.weight": "w"}
    with patch_report(True):
        run = api.train("mlp", data=folder, out=tmp_path / "run", epochs=1, options=options, quiet=False)
    output = capfd.readouterr().err
    trained = run.info["examples"]["train"]
    assert output.index(f"{trained} of 61 rows of the test part are in the training part too") < output.index(
        "epoch 1/1"
    )
    assert output.index("the classes are uneven in the training part: 'no' ") < output.index("epoch 1/1")
    assert "test: town: 1 cell(s) never seen in training are taken as unknown, such as 'Z'" in output
    assert any(f"{trained} of 61 rows" in note for note in run.info["notes"])
    assert [column["name"] for column in run.info["columns"]] == lines[0].split(",")
    page = (run.path / "report.html").read_text()
    assert "The table’s columns" in page
    assert "3 places, one a value" in page
    assert "left out: free text" in page
    assert re.search(r"<td class=.n.>2020-01-\d\d</td>", page)  # a date as a date among the mistakes
    assert main(["eval", str(run.path), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert not any("changed" in note for note in content["notes"])
    assert [one["name"] for one in content["classes"]] == ["no", "yes"]
    assert sum(map(sum, content["confusion"])) == 61
    assert content["metrics"] == {k.removeprefix("test/"): v for k, v in run.metrics.items() if k.startswith("test/")}
    assert main(["eval", str(run.path), "--split", "all"]) == 0
    output = capfd.readouterr().out
    assert "true \\ predicted" in output
    assert "precision" in output


def test_data_shows_a_path(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_messy_table(tmp_path / "t.csv")
    assert main(["data", str(path), "--set", "data.target=size", "--set", "data.drop=['y']"]) == 2  # gaps in the target
    assert "column 'size' has no value" in capfd.readouterr().err
    assert main(["data", str(path), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert content["data"][0]["tasks"] == ["classification"]
    assert sum(content["parts"].values()) == 60
    kinds = {column["name"]: (column["kind"], column["missing"], column["distinct"]) for column in content["columns"]}
    assert kinds["size"] == ("number", 6, 54)
    assert kinds["town"] == ("category", 0, 3)
    assert any("uneven" in note for note in content["notes"])
    assert main(["data", str(path)]) == 0
    out = capfd.readouterr().out
    assert "town\tfeature\tcategory\t0\t3\tA" in out
    assert "classes\tno, yes" in out
    assert main(["data", "digits", "--set", "data.target=y"]) == 2
    assert main(["data", str(path), "--set", "rule.lr=1"]) == 2
    assert "does not tell how to read data" in capfd.readouterr().err


def test_held_rows_are_described() -> None:
    schema = Schema(
        "row", (2,), "class", ("u", "v"), ("c", "x"), "y", (Column("c", "category", ("p", "q"), True), Column("x"))
    )
    source = ArraySource(schema, np.array([[1.0, 5], [float("nan"), 6], [1, 6]]), np.array([0, 1, 1]), "t")
    assert [tuple(one) for one in summarize_columns(source)] == [
        ("c", "feature", "category", 1, 1, "q"),
        ("x", "feature", "number", 0, 2, "5"),
        ("y", "target", "category", 0, 2, "u"),
    ]


def test_eval_reads_other_tables_as_the_training_part(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Kinds are the run's: in a short file towns that never repeat would be free text, ids that repeat a feature, gaps
    an empty column."""
    path = write_messy_table(tmp_path / "t.csv")
    run = api.train("mlp", data=path, out=tmp_path / "run", epochs=1, options={"data.group": "who", "data.weight": "w"})
    lines = [f"7,q{i},T{i},,2020-02-01,same,1,{'no' if i % 2 else 'yes'}" for i in range(70)]
    other = tmp_path / "o.csv"
    other.write_text("id,who,town,size,built,note,w,y\n" + "\n".join(lines) + "\n")
    capfd.readouterr()
    assert main(["eval", str(run.path), "--data", str(other), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert sum(map(sum, content["confusion"])) == 70
    assert any("town: " in note and "never seen" in note for note in content["notes"])
    other.write_text(other.read_text().replace("2020-02-01", "soon"))
    assert main(["eval", str(run.path), "--data", str(other)]) == 2
    assert "row 2: column 'built' does not hold what the training part has there" in capfd.readouterr().err
