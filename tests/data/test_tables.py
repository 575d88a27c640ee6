"""Tables: round trips, headers, targets of every kind, and what is refused, by row and column (F11, F12)."""

import csv
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data.load import Options, load_splits
from layerwise.data.source import FLOAT32_MAX, ArraySource, fetch, get_targets
from layerwise.data.tables import table_files, table_source
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError, UsageError
from layerwise.tasks import classification, regression

FINITE = st.floats(-FLOAT32_MAX, FLOAT32_MAX)


def read_source(path, **reading) -> ArraySource:
    """Read a table, as examples."""
    return table_source.read_table(path, TableOptions(**reading)).source


def write_table(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@given(
    st.lists(
        st.tuples(FINITE, FINITE, st.sampled_from(["red", "green, or so", 'b\n"l"ue'])),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory, rows) -> None:
    folder = tmp_path_factory.mktemp("csv")
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y", "color"])
        writer.writerows(rows)
    columns = {"x": [r[0] for r in rows], "y": [r[1] for r in rows], "color": [r[2] for r in rows]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        source = read_source(folder / name)
        np.testing.assert_array_equal(source.inputs, [[r[0], r[1]] for r in rows])
        assert source.schema.features == ("x", "y")
        assert source.schema.classes == tuple(sorted({r[2] for r in rows}))
        assert [source.schema.classes[i] for i in source.targets] == [r[2] for r in rows]
    cells = [row for chunk in table_files.iterate_rows(folder / "t.csv", size=7) for row in chunk]
    assert [(float(c["x"]), float(c["y"]), c["color"]) for c in cells] == rows


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("x,y\n1,2\n3,4\n", ("x", "y")),
        ("1,2\n3,4\n", ("column1", "column2")),
        ("x;y\n1;2\n3;4\n", ("x", "y")),
        ("x\ty\n1\t2\n3\t4\n", ("x", "y")),
        ("\n\n x , y \n1,2\n\n3,4\n", ("x", "y")),
        ("\ufeffx,y\n1,2\n3,4\n", ("x", "y")),
        (",y\r\n1,2\r\n3,4\r\n", ("column1", "y")),
        ('"x","y"\n"1","2"\n"3","4"', ("x", "y")),
    ],
)
def test_separator_header_and_marks_are_told_by_content(tmp_path, text: str, columns: tuple[str, ...]) -> None:
    source = read_source(write_table(tmp_path / "t.csv", text))
    assert (*source.schema.features, source.schema.target_name) == columns
    np.testing.assert_array_equal(source.inputs, [[1], [3]])


def test_header_can_be_said(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "2019,2020\n1,2\n3,4\n")
    assert len(read_source(path)) == 3
    assert read_source(path, header="yes").schema.target_name == "2020"
    named = write_table(tmp_path / "n.csv", "x,red\ny,red\n")
    assert len(read_source(named)) == 1
    assert read_source(named, header="no").schema.columns[0].values == ("x", "y")


def test_rows_are_numbered_as_an_editor_does(tmp_path) -> None:
    plain = read_source(write_table(tmp_path / "a.csv", "x,y\n1,a\n2,b\n"))
    assert plain.name_of(1).endswith("a.csv[3]")
    odd = read_source(write_table(tmp_path / "b.csv", 'x,y\n\n1,"a\nb"\n\n2,b\n'))
    assert odd.rows.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("cells", "kind", "classes", "targets"),
    [
        (["b", "a", "b"], "class", ("a", "b"), [1, 0, 1]),
        (["true", "false", "true"], "class", ("false", "true"), [1, 0, 1]),
        (["10", "-2", "3"], "either", ("-2", "3", "10"), [2, 0, 1]),
        (["1.5", "2", "3"], "number", (), [1.5, 2, 3]),
        ([str(i) for i in range(21)], "number", (), list(range(21))),
    ],
)
def test_kinds_of_target(tmp_path, cells, kind: str, classes, targets) -> None:
    source = read_source(write_table(tmp_path / "t.csv", "x,y\n" + "".join(f"{i},{c}\n" for i, c in enumerate(cells))))
    assert (source.schema.target, source.schema.classes) == (kind, classes)
    np.testing.assert_array_equal(source.targets, targets)


def test_whole_numbers_serve_both_tasks(tmp_path) -> None:
    values = [10, -2, 3, 3, 10, -2, 3, 10]
    source = read_source(write_table(tmp_path / "t.csv", "x,y\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values))))
    sorts = classification.Classification.prepare(source, classification.ClassificationOptions())
    assert sorts.classes == ("-2", "3", "10")
    batch = sorts.collate(sorts.convert_source(source).fetch(np.arange(8)))
    assert [int(sorts.classes[i]) for i in batch.targets.tolist()] == values
    amount = regression.Regression.prepare(source, regression.RegressionOptions())
    assert math.isclose(amount.shift, np.mean(values))
    adopted = amount.convert_source(source)
    scaled = amount.collate(fetch(adopted, np.arange(8))).targets[:, 0]
    np.testing.assert_allclose(scaled * amount.spread + amount.shift, values)
    np.testing.assert_array_equal(get_targets(amount.convert_source(adopted)), values)  # adopting twice changes nothing
    # another table of the same kind, with other values present: by name, not by position
    other = read_source(write_table(tmp_path / "o.csv", "x,y\n1,3\n2,10\n"))
    np.testing.assert_array_equal(get_targets(sorts.convert_source(other)), [1, 2])
    np.testing.assert_array_equal(get_targets(amount.convert_source(other)), [3, 10])


def test_tasks_refuse_the_other_kind_of_target(tmp_path) -> None:
    number = read_source(write_table(tmp_path / "n.csv", "x,y\n1,0.5\n2,1.5\n"))
    with pytest.raises(DataError, match="'y' is an amount"):
        classification.Classification.prepare(number, classification.ClassificationOptions())
    texts = read_source(write_table(tmp_path / "c.csv", "x,y\n1,a\n2,b\n"))
    with pytest.raises(DataError, match="no number to predict"):
        regression.Regression.prepare(texts, regression.RegressionOptions())


def test_target_and_drop(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "id2,name,x,y\n1,a,5,0.5\n2,b,6,1.5\n")
    source = read_source(path, target="x", drop=("name",))
    assert source.schema.features == ("id2", "y")
    np.testing.assert_array_equal(source.targets, [0, 1])
    with pytest.raises(UsageError, match=r"(?s)no column 'nam'.*did you mean 'name'"):
        read_source(path, drop=("nam",))
    with pytest.raises(UsageError, match="no column 'z'"):
        read_source(path, target="z")
    with pytest.raises(UsageError, match=r"(?s)named twice.*among the columns to leave out"):
        read_source(path, target="x", drop=("x",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("x,y\n", "has no rows"),
        ("hello", "has no rows"),
        ("x;y\n1,5;a\n0,25;b\n", r"(?s)row 2: column 'x' has a decimal comma \(2 of 2 rows\).*such as 1\.5"),
        ("x\n1\n2\n", "no column besides the target"),
        ("x,y\n1,2\n3\n", "row 3 does not have as many cells"),
        ("x,y\n\n1,2\n\n3,4,5\n", "row 5 does not have as many cells"),
        ('x,y\n1,2\n"3,4\n5,6\n', "does not have as many cells"),
        ("x,x\n1,2\n", "several columns of the same name"),
        ("x,y\n1,2\noops,3\n", r"row 3: column 'x' is text \(1 of 2 rows\)"),
        ("x,y\n1,2\nnan,3\n", "row 3: column 'x' is not finite"),
        ("x,y\n1,2\n-inf,3\n", "row 3: column 'x' is not finite"),
        ("x,y\n1,0.5\n2,inf\n", "row 3: column 'y' is not finite"),
        ("x,y\n1,a\n2,\n", "row 3: column 'y' has no value"),
        ("x,y\n1,2020-01-01\n2,2020-01-02\n", "the target 'y' holds neither numbers nor classes"),
        ("x,y\n,1\n,2\n", r"(?s)no column besides the target.*x \(left out: empty\)"),
    ],
)
def test_what_is_refused(tmp_path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_source(write_table(tmp_path / "t.csv", text))
    assert "t.csv" in str(caught.value)


def test_free_text_is_no_target(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "x,y\n" + "".join(f"{i},review {i}\n" for i in range(60)))
    with pytest.raises(DataError, match="free text"):
        read_source(path)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gbk", "价格,评价\n1,很好的酒店\n2,非常差\n"),
        ("cp1252", "prix,goût\n1,sucré\n2,amer\n"),
        ("utf-16", "x,y\n1,a\n2,b\n"),
    ],
)
def test_other_encodings_are_guessed_and_can_be_said(tmp_path, encoding: str, text: str) -> None:
    path = write_table(tmp_path / "t.csv", text, encoding)
    with pytest.raises(DataError, match=f"it is probably {encoding}"):
        read_source(path)
    source = read_source(path, encoding=encoding)
    assert source.schema.target_name == text.splitlines()[0].split(",")[1]
    assert len(source) == 2
    with pytest.raises(UsageError, match="unknown text encoding 'utf-99'"):
        read_source(path, encoding="utf-99")


def test_binary_files_and_damaged_parquet(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n\0\1\2,3\n")
    with pytest.raises(DataError, match="NUL bytes"):
        read_source(tmp_path / "t.csv")
    pq.write_table(pa.table({"x": [1, 2], "y": ["a", None]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 2: column 'y' has no value"):
        read_source(tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    for cut in range(4, len(data), len(data) // 10):
        (tmp_path / "t.parquet").write_bytes(data[:cut])
        with pytest.raises(DataError, match="is damaged"):
            read_source(tmp_path / "t.parquet")
        with pytest.raises(DataError, match="is damaged"):
            list(table_files.iterate_rows(tmp_path / "t.parquet"))


def test_parquet_kinds_of_column(tmp_path) -> None:
    table = pa.table(
        {
            "flag": [True, False],
            "small": pa.array([1, 2], pa.int8()),
            "y": pa.array(["b", "a"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    source = read_source(tmp_path / "t.parquet")
    np.testing.assert_array_equal(source.inputs, [[1, 1], [0, 2]])
    assert source.schema.classes == ("a", "b")


def test_a_late_change_of_type_is_seen(tmp_path) -> None:
    lines = "".join(f"{i},1\n" for i in range(300_000))
    with pytest.raises(DataError, match=r"row 300002: column 'x' is text \(1 of 300001 rows\)"):
        read_source(write_table(tmp_path / "t.csv", "x,y\n" + lines + "late,2\n"))


def test_rows_in_chunks_and_ragged_at_the_end(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "x,y\n" + "".join(f"{i},1\n" for i in range(2500)))
    assert [len(chunk) for chunk in table_files.iterate_rows(path)] == [1024, 1024, 452]
    path.write_text(path.read_text() + "5\n")
    with pytest.raises(DataError, match="row 2502"):
        list(table_files.iterate_rows(path))


def test_open_data_on_tables(tmp_path) -> None:
    path = write_table(tmp_path / "t.csv", "x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    splits = load_splits(Options(str(path)), seed=3)
    assert (splits.name, len(splits.train), len(splits.val), len(splits.test)) == ("t", 28, 6, 6)
    with pytest.raises(DataError, match=r"(?s)nothing to tell apart.*40 examples, all of class 'a'"):
        load_splits(Options(str(write_table(tmp_path / "s.csv", "x,y\n" + "1,a\n" * 40))), seed=0)
    with pytest.raises(DataError, match=r"all with y 0.5"):
        load_splits(Options(str(write_table(tmp_path / "c.csv", "x,y\n" + "1,0.5\n" * 40))), seed=0)
    with pytest.raises(DataError, match="nothing is left"):
        load_splits(Options(str(write_table(tmp_path / "o.csv", "x,y\n1,a\n"))), seed=0)


@pytest.mark.parametrize("text", [b"amount", b"violet"])
def test_a_parquet_file_with_a_name_or_cell_that_is_no_text_is_refused(text, tmp_path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"amount": [1, 2], "kind": ["violet", "b"]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(text, b"\xff\xfe\xfd\xfc\xfb\xfa"))
    with pytest.raises(DataError, match=r"a\.parquet is damaged"):
        list(table_files.iterate_rows(path))
    with pytest.raises(DataError, match=r"a\.parquet is damaged"):
        table_files.load_table(path, TableOptions())
