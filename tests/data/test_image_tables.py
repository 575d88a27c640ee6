"""Tables that name images: told by content, checked like class folders, trained on and answered like any images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from layerwise import api
from layerwise.data.load import Options, load_splits
from layerwise.data.source import fetch, get_targets
from layerwise.data.splits import complete_splits
from layerwise.errors import DataError, UsageError
from layerwise.inference.predict import read_inputs

COUNT = 24


def compute_brightness(number: int) -> int:
    return 10 * number


def write_images(root: Path, count: int = COUNT) -> list[str]:
    """Write gray images of one shade each and return their names."""
    (root / "pics").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (6, 6), compute_brightness(number)).save(root / f"pics/{number}.png")
    return [f"pics/{number}.png" for number in range(count)]


def make_rows(root: Path) -> list[dict[str, object]]:
    return [
        {
            "file": name,
            "who": f"p{n // 2}",
            "shade": compute_brightness(n) + 0.5,
            "kind": "dark" if n < COUNT // 2 else "light",
        }
        for n, name in enumerate(write_images(root))
    ]


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows as CSV, JSON lines or Parquet, by the ending."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_images_and_numbers_belong_together_in_every_format(tmp_path: Path, ending: str) -> None:
    path = write_table(tmp_path / f"shades.{ending}", make_rows(tmp_path))
    splits = load_splits(Options(str(path), target="shade"), seed=0)
    seen = 0
    for part in (splits.train, splits.val, splits.test):
        assert (part.schema.kind, part.schema.target, part.schema.shape) == ("image", "number", (6, 6, 1))
        for index in range(len(part)):
            example = part[index]
            assert example.target == float(example.input[0, 0, 0]) + 0.5  # fractions are kept
            assert part.name_of(index).startswith(str(tmp_path))
            seen += 1
    assert seen == COUNT
    assert "columns left out: who, kind" in splits.notes[-1]


def test_the_last_other_column_is_the_target_wherever_the_paths_are(tmp_path: Path) -> None:
    rows = [{"kind": row["kind"], "file": row["file"]} for row in make_rows(tmp_path)]
    splits = load_splits(Options(str(write_table(tmp_path / "a.csv", rows))), seed=0)
    assert splits.train.schema.classes == ("dark", "light")
    for index in range(len(splits.train)):
        pixels, label = splits.train[index]
        assert label == (pixels[0, 0, 0] >= compute_brightness(COUNT // 2))


def test_a_column_that_leads_nowhere_is_a_category(tmp_path: Path) -> None:
    rows = [{"file": f"gone/{n % 3}.png", "x": n / 7, "y": n % 2} for n in range(30)]
    splits = load_splits(Options(str(write_table(tmp_path / "a.csv", rows))), seed=0)
    assert splits.train.schema.kind == "row"


def test_two_columns_of_images_need_a_word(tmp_path: Path) -> None:
    rows = [{"left": row["file"], "right": row["file"], "kind": row["kind"]} for row in make_rows(tmp_path)]
    path = write_table(tmp_path / "a.csv", rows)
    with pytest.raises(UsageError, match="names images in several columns"):
        load_splits(Options(str(path)), seed=0)
    assert "left out: left" in load_splits(Options(str(path), image="right"), seed=0).notes[-1]
    with pytest.raises(UsageError, match="no column 'rigth'"):
        load_splits(Options(str(path), image="rigth"), seed=0)


def test_missing_images_are_listed_all_at_once(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    for number in (3, 7, 20):
        rows[number]["file"] = f"pics/gone-{number}.png"
    path = write_table(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match="3 of 24 images that the table names are not there") as error:
        load_splits(Options(str(path)), seed=0)
    assert all(f"gone-{number}.png" in str(error.value) for number in (3, 7, 20))


def test_bad_images_stop_or_are_left_out_with_their_rows(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    (tmp_path / "pics/5.png").write_bytes(b"no image")
    rows[8]["file"] = "pics/gone.png"
    path = write_table(tmp_path / "a.csv", rows)
    (tmp_path / "pics/gone.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 24 files .* cannot be used") as error:
        load_splits(Options(str(path), target="shade"), seed=0)
    assert "5.png" in str(error.value)
    (tmp_path / "pics/gone.png").unlink()
    splits = load_splits(Options(str(path), target="shade", on_error="skip", group="who"), seed=0)
    assert (
        "1 of 24 images that the table names are not there; their rows were left out: pics/gone.png" in splits.notes[0]
    )
    assert "1 of 24 files could not be decoded" in splits.notes[1]
    examples = [splits.part(part)[i] for part in ("train", "val", "test") for i in range(len(splits.part(part)))]
    assert len(examples) == COUNT - 2
    assert all(e.target == float(e.input[0, 0, 0]) + 0.5 for e in examples)
    parts = [splits.part(part) for part in ("train", "val", "test")]
    groups = [{int(part[i].input[0, 0, 0]) // 20 for i in range(len(part))} for part in parts]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_weights_go_along(tmp_path: Path) -> None:
    rows = [{**row, "w": 1 + n % 3} for n, row in enumerate(make_rows(tmp_path))]
    splits = load_splits(Options(str(write_table(tmp_path / "a.csv", rows)), target="kind", weight="w"), seed=0)
    batch = fetch(splits.train, np.arange(len(splits.train)))
    assert batch.weights is not None
    shades = np.array([image[0, 0, 0] for image in batch.inputs], dtype=np.float64)
    np.testing.assert_allclose(batch.weights, (1 + shades / 10 % 3) / np.mean([1 + n % 3 for n in range(COUNT)]))


def test_a_folder_with_tables_beside_the_images(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    write_table(tmp_path / "train.csv", rows[::2])
    assert len(load_splits(Options(str(tmp_path)), seed=0).train) < COUNT / 2  # one table alone is split
    write_table(tmp_path / "test.csv", [*rows[1::2], rows[0]])
    splits = load_splits(Options(str(tmp_path)), seed=0)
    assert (len(splits.test), splits.train.schema.classes) == (COUNT // 2 + 1, ("dark", "light"))
    assert "1 images of the test part are in the training part too" in splits.notes


@pytest.mark.parametrize(
    ("options", "text"), [({"id": "who"}, "data.id has no meaning"), ({"target": "knd"}, "no column 'knd'")]
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, str], text: str) -> None:
    path = write_table(tmp_path / "a.csv", make_rows(tmp_path))
    with pytest.raises(UsageError, match=text):
        load_splits(Options(str(path), **options), seed=0)  # type: ignore[arg-type]


def test_a_gap_among_the_images_is_named(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    rows[4]["file"] = ""
    with pytest.raises(DataError, match=r"row 6: column 'file' names no image"):
        load_splits(Options(str(write_table(tmp_path / "a.csv", rows))), seed=0)


def test_fingerprint_follows_contents_and_targets(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    path = write_table(tmp_path / "a.csv", rows)

    def fingerprint() -> str:
        return load_splits(Options(str(path), target="shade"), seed=0).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    Image.new("L", (6, 6), 255).save(tmp_path / "pics/0.png")
    second = fingerprint()
    rows[1]["shade"] = 99.25
    write_table(path, rows)
    assert len({first, second, fingerprint()}) == 3


def test_a_network_learns_a_number_from_images_and_answers_images(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "shades.csv", [{"file": row["file"], "shade": row["shade"]} for row in make_rows(tmp_path)]
    )
    options = {"model.widths": [4], "model.dense": [8], "rule.lr": 0.01}
    run = api.train("cnn", data=path, epochs=20, batch_size=8, out=tmp_path / "run", options=options)
    assert run.metrics["test/mae"] < 30  # a guess without looking is off by about 60
    answers = run.predictor()(tmp_path / "pics/2.png", tmp_path / "pics/20.png")
    assert answers[0].value < answers[1].value - 80  # type: ignore[attr-defined]
    predictor = run.predictor()
    table = list(predictor.stream(read_inputs([str(path)], predictor.task)))
    assert [answer.input for answer in table] == [f"pics/{number}.png" for number in range(COUNT)]
    assert table[20].prediction == answers[1]  # type: ignore[union-attr]


def test_classes_named_by_numbers_are_numbers_where_regression_is_asked_for() -> None:
    from layerwise.data.sklearn_datasets import load
    from layerwise.tasks.regression import Regression, RegressionOptions

    digits = complete_splits({"train": load("digits")}, name="digits", seed=0).train
    task = Regression.prepare(digits, RegressionOptions())
    assert task.shift == pytest.approx(np.mean(get_targets(digits)))
    batch = task.collate(fetch(task.convert_source(digits), [0, 1, 2]))
    assert batch.targets is not None
    np.testing.assert_allclose(batch.targets[:, 0] * task.spread + task.shift, get_targets(digits)[:3])
    with pytest.raises(DataError, match="'class': setosa, versicolor, virginica"):
        Regression.prepare(load("iris"), RegressionOptions())
