"""Columns of a table: kinds told from content, gaps, dates, identifiers, weights, groups and time, several files."""

import csv
import datetime as dt
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data.download import datasets
from layerwise.data.load import Options, load_splits
from layerwise.data.source import Column
from layerwise.data.splits import split_by_group, split_by_time
from layerwise.data.tables import table_files, table_source
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError, UsageError


def write_table(path, text: str):
    path.write_bytes(text.encode())
    return path


def test_kinds_are_told_and_shown(tmp_path) -> None:
    lines = ["id,town,size,built,note,empty,flag,price"]
    for i in range(60):
        town = ["Köln", " Bonn", "?"][i % 3]
        size = "" if i == 4 else f"{50 + i}"
        lines.append(
            f"{i + 10},{town},{size},20{i % 20:02d}-03-0{1 + i % 9},free text {i},,{str(i % 2 == 0).lower()},{i}.5"
        )
    table = table_source.read_table(write_table(tmp_path / "t.csv", "\n".join(lines) + "\n"))
    schema = table.source.schema
    assert schema.table == (
        Column("town", "category", ("Bonn", "Köln"), True),
        Column("size", "number", has_missing=True),
        Column("built", "date"),
        Column("flag"),
    )
    roles = {column.name: column.role for column in table.summaries}
    assert roles["id"] == "left out: numbers the rows"
    assert roles["note"] == "left out: free text"
    assert roles["empty"] == "left out: empty"
    assert roles["price"] == "target"
    row = table.source.inputs[4]
    assert row[0] == 0  # Bonn
    assert np.isnan(row[1])
    assert row[2] == (dt.date(2004, 3, 5) - dt.date(1970, 1, 1)).days
    assert row[3] == 1
    assert np.isnan(table.source.inputs[2, 0])
    assert any("numbers the rows" in note for note in table.notes)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e6, 1e6)),
            st.one_of(st.none(), st.sampled_from(["a", "b b", "ü", "None", "x,y"])),
            st.one_of(st.none(), st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1))),
            st.sampled_from(["yes", "no"]),
        ),
        min_size=2,
        max_size=25,
    )
)
@settings(max_examples=50, deadline=None)
def test_csv_json_lines_and_parquet_agree_with_pandas(tmp_path_factory, rows) -> None:
    """The same table in three formats; cells as pandas codes and converts them."""
    folder = tmp_path_factory.mktemp("t")
    rows = [*rows, (1.5, "a", dt.date(2000, 1, 1), "yes")]  # no column is empty
    names = ("x", "c", "d", "y")
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(["" if v is None else v for v in row] for row in rows)
    with open(folder / "t.jsonl", "w", encoding="utf-8") as stream:
        for row in rows:
            cells = {n: v.isoformat() if isinstance(v, dt.date) else v for n, v in zip(names, row, strict=True)}
            stream.write(json.dumps(cells, ensure_ascii=False) + "\n")
    frame = pd.DataFrame(rows, columns=names)
    pq.write_table(pa.table({n: [row[i] for row in rows] for i, n in enumerate(names)}), folder / "t.parquet")
    codes = pd.Categorical(frame["c"].where(frame["c"].notna(), None)).codes.astype(float)
    days = (pd.to_datetime(frame["d"]) - pd.Timestamp(0)).dt.total_seconds() / 86400
    want = np.stack([frame["x"].astype(float), np.where(codes < 0, np.nan, codes), days], 1)
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        table = table_source.read_table(folder / name)
        np.testing.assert_array_equal(table.source.inputs, want, err_msg=name)
        assert table.source.schema.target == "class"


def test_options_for_columns(tmp_path) -> None:
    text = "code,when,v,y\n" + "".join(
        f"{i % 3},{1 + i % 28:02d}/02/2021,{-999 if i == 3 else i},{i}.5\n" for i in range(30)
    )
    path = write_table(tmp_path / "t.csv", text)
    table = table_source.read_table(
        path, TableOptions(categories=("code",), dates="%d/%m/%Y", missing=("-999",))
    ).source
    assert table.schema.table == (
        Column("code", "category", ("0", "1", "2")),
        Column("when", "date"),
        Column("v", has_missing=True),
    )
    assert table.inputs[1, 1] == (dt.date(2021, 2, 2) - dt.date(1970, 1, 1)).days
    with pytest.raises(UsageError, match="no column 'cod'"):
        table_source.read_table(path, TableOptions(categories=("cod",)))
    with pytest.raises(UsageError, match=r"named twice: data\.group and data\.weight"):
        table_source.read_table(path, TableOptions(group="v", weight="v"))


def test_faulty_numbers_are_told_from_names(tmp_path) -> None:
    with pytest.raises(DataError, match=r"(?s)row 4: column 'x' is text \(1 of 3 rows\).*data.missing=\[\"oops\"\]"):
        table_source.read_table(write_table(tmp_path / "t.csv", "x,y\n1,2\n2,3\noops,3\n"))
    with pytest.raises(DataError, match=r"(?s)row 3: column 'x' is not finite.*data.missing"):
        table_source.read_table(write_table(tmp_path / "n.csv", "x,y\n1,2\nnan,3\n2,3\n"))
    table = table_source.read_table(
        write_table(tmp_path / "m.csv", "x,y\n1,2\nnan,3\n2,3\n"), TableOptions(missing=("nan",))
    )
    assert np.isnan(table.source.inputs[1, 0])
    with pytest.raises(DataError, match="JSON lines"):
        table_source.read_table(write_table(tmp_path / "j.jsonl", '{"x": 1, "y": 2}\n{"x": [1], "y": 2}\n'))
    with pytest.raises(DataError, match="holds no numbers, dates or text"):
        table_source.read_table(
            write_table(tmp_path / "k.jsonl", '{"x": [1], "z": 1, "y": 2}\n{"x": [1], "z": 2, "y": 3}\n')
        )


def test_weights(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "x,w,y\n1,1,a\n2,3,b\n")
    np.testing.assert_allclose(table_source.read_table(path, TableOptions(weight="w")).source.weights, [0.5, 1.5])
    for cells, message in (("-1", "is no weight"), ("", "is no weight"), ("x", "holds no numbers")):
        bad = write_table(tmp_path / "b.csv", f"x,w,y\n1,{cells},a\n2,{cells or 1},b\n")
        with pytest.raises(DataError, match=message):
            table_source.read_table(bad, TableOptions(weight="w"))


def test_ids_name_rows(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "who,x,y\nann,1,a\nbob,2,b\n")
    source = table_source.read_table(path, TableOptions(id="who")).source
    assert source.name_of(1).endswith("t.csv[3, who bob]")
    assert source.schema.features == ("x",)


@given(st.lists(st.integers(0, 12), min_size=3, max_size=200), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_groups_stay_together(values, seed) -> None:
    groups = np.array(values)
    parts = split_by_group(groups, (0.15, 0.15), seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    sets = [set(groups[part].tolist()) for part in parts]
    assert not (sets[0] & sets[1])
    assert not (sets[0] & sets[2])
    assert not (sets[1] & sets[2])
    if len(set(values)) >= 3:
        assert all(len(part) for part in parts)


@given(st.lists(st.integers(0, 1000), min_size=10, max_size=200, unique=True))
@settings(max_examples=100, deadline=None)
def test_time_runs_through_the_parts(values) -> None:
    times = np.array(values, dtype=float)
    train, val, test = split_by_time(times, (0.15, 0.15))
    assert sorted(np.concatenate([train, val, test]).tolist()) == list(range(len(times)))
    assert times[train].max() < times[val].min() <= times[val].max() < times[test].min()
    assert abs(len(test) - 0.15 * len(times)) <= 1


def test_open_data_keeps_groups_and_time(tmp_path) -> None:
    text = "who,day,x,y\n" + "".join(f"p{i % 10},2020-01-{1 + i // 4:02d},{i},{'ab'[i % 2]}\n" for i in range(100))
    path = str(write_table(tmp_path / "t.csv", text))
    by_group = load_splits(Options(path, group="who", drop=("day",)), seed=1)
    assert by_group.train.schema.features == ("x",)
    people = [set((part.inputs[:, 0] % 10).tolist()) for part in (by_group.train, by_group.val, by_group.test)]
    assert not (people[0] & people[1])
    assert not (people[1] & people[2])
    assert not (people[0] & people[2])
    by_time = load_splits(Options(path, time="day", drop=("who",)), seed=1)
    assert by_time.train.inputs.max() < by_time.val.inputs.min() < by_time.test.inputs.min()
    with pytest.raises(DataError, match=r"(?s)does not order the rows.*category"):
        load_splits(Options(path, time="who"), seed=1)


def test_a_folder_with_a_table_for_each_part(tmp_path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for part, count in (("train", 40), ("dev", 10), ("test", 20)):
        write_table(
            folder / f"my-{part}.csv", "c,y\n" + "".join(f"{'abc'[i % 3]},{'uv'[i % 2]}\n" for i in range(count))
        )
    splits = load_splits(Options(str(folder)), seed=0)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [40, 10, 20]
    write_table(folder / "other.csv", "c,y\na,u\n")
    with pytest.raises(DataError, match="do not say which part"):
        load_splits(Options(str(folder)), seed=0)


def test_named_tables_against_pandas() -> None:
    adult = load_splits(Options("adult"), seed=0)
    folder = datasets.get_dataset_folder("adult")
    frame = pd.read_csv(folder / "adult-test.csv", header=None, skipinitialspace=True, na_values=["?"])
    assert len(adult.test) == len(frame)
    assert adult.test.schema.classes == ("<=50K", ">50K")
    assert adult.test.targets.sum() == frame[14].str.startswith(">50K").sum()
    column = adult.test.schema.table[1]
    cells = adult.test.inputs[:, 1]
    assert ["?" if np.isnan(c) else column.values[int(c)] for c in cells] == frame[1].fillna("?").tolist()
    wine = load_splits(Options("wine-quality"), seed=0)
    assert wine.train.schema.columns[-1] == Column("color", "category", ("red", "white"))
    assert len(wine.train) + len(wine.val) + len(wine.test) == 6497


def test_rows_of_json_lines(tmp_path) -> None:
    path = write_table(tmp_path / "t.jsonl", '{"x": 1, "c": "a"}\n{"x": null, "c": "b"}\n')
    assert [row for chunk in table_files.iterate_rows(path) for row in chunk] == [
        {"x": 1, "c": "a"},
        {"x": None, "c": "b"},
    ]
