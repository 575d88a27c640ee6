"""Rows of a table to what a network takes: each encoder against its formula, whole columns against single cells."""

import datetime as dt
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from layerwise import api
from layerwise.data.source import Column
from layerwise.data.tables import table_files, table_source
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError
from layerwise.inference.predict import Failure, NamedPrediction, Predictor, read_inputs
from layerwise.nn.layers import CategoryEmbedding
from layerwise.tasks import table_encoding
from layerwise.tasks.column_encoders import CategoryEncoder, DateEncoder, NumberEncoder
from layerwise.tasks.row_inputs import RowInputs

nan = float("nan")


def test_numbers_and_categories_equal_scikit_learn(tmp_path) -> None:
    rng = np.random.default_rng(0)
    numbers, names = rng.normal(5, 3, 200), rng.choice(["a", "b", "c"], 200)
    lines = "".join(f"{x!r},{c},{i % 2}\n" for i, (x, c) in enumerate(zip(numbers.tolist(), names, strict=True)))
    (tmp_path / "t.csv").write_text("x,c,y\n" + lines)
    source = table_source.read_table(tmp_path / "t.csv").source
    got = RowInputs.fit(source, scale="standard").tensor(source.inputs).numpy()
    want = np.hstack(
        [
            StandardScaler().fit_transform(numbers[:, None]),
            OneHotEncoder(sparse_output=False).fit_transform(names[:, None]),
        ]
    )
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_gaps_are_marked_and_not_guessed() -> None:
    number = NumberEncoder.fit(Column("x", has_missing=True), np.array([1.0, nan, 3.0]), "standard")
    np.testing.assert_allclose(number.encode(np.array([1.0, nan, 3.0])), [[-1, 0], [0, 1], [1, 0]])
    category = CategoryEncoder.fit(
        Column("c", "category", ("a", "b"), True), np.array([0, 1, nan]), embed_above=0, unseen="unknown"
    )
    np.testing.assert_array_equal(
        category.encode(np.array([0, 1, nan, -1])), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    )
    whole = NumberEncoder.fit(Column("x"), np.array([1.0, 3.0]), "standard")
    with pytest.raises(DataError, match="never lacked one in training"):
        whole.validate_cell("")


def test_dates_by_hand() -> None:
    encoder = DateEncoder.fit(Column("d", "date"), np.array([0.0, 100.0]), "standard")
    days = (dt.date(2000, 7, 2) - dt.date(1970, 1, 1)).days
    assert encoder.parse_cell("2000-07-02") == encoder.parse_cell(dt.date(2000, 7, 2)) == days
    year, week = 2 * math.pi * days / 365.2425, 2 * math.pi * days / 7
    want = [(days - 50) / 50, math.sin(year), math.sin(week), math.cos(year), math.cos(week)]
    np.testing.assert_allclose(encoder.encode(np.array([float(days)]))[0], want, atol=1e-9)
    assert encoder.parse_cell("2000-07-02T12:00:00+00:00") == days + 0.5
    with pytest.raises(DataError, match="'d' is not a date"):
        encoder.parse_cell("2 July")


CELL = {
    "x": st.one_of(st.just(""), st.floats(-1e9, 1e9).map(repr), st.just("oops"), st.just(" 7 ")),
    "c": st.sampled_from(["a", "b", " a ", "?", "", "new", "None"]),
    "d": st.sampled_from(["2020-01-31", "1999-12-01", "", "2020-13-01"]),
}


@given(
    st.lists(st.fixed_dictionaries(CELL), min_size=1, max_size=8), st.sampled_from(["unknown", "refuse"]), st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_whole_columns_equal_single_cells(tmp_path_factory, rows, unseen, gaps) -> None:
    """The fast way over a file's columns gives what reading each cell gives, or leaves the chunk to it."""
    inputs = RowInputs(
        (
            NumberEncoder("x", gaps, 1.0, 2.0, False),
            CategoryEncoder("c", gaps, ("None", "a", "b"), False, unseen),
            DateEncoder("d", gaps, 0.0, 1.0, False, False),
        )
    )
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("x,c,d\n" + "".join(f"{r['x']},{r['c']},{r['d']}\n" for r in rows))
    singly: list[np.ndarray | None] = []
    for row in rows:
        try:
            singly.append(inputs.parse_row(row))
        except DataError:
            singly.append(None)
    for table in table_files.iterate_tables(path):
        whole = table_encoding.parse_table(inputs, table)
        if any(row is None for row in singly):
            assert whole is None
        else:
            np.testing.assert_array_equal(whole, np.stack(singly))


def test_vectors_of_categories() -> None:
    """Looked up by number behind the plain inputs; the unknown is zero and gets no gradient."""
    net = CategoryEmbedding((4, 3))
    inputs = torch.tensor([[0.5, 2.0, 0.0], [0.25, 3.0, 1.0]])
    out = net(inputs)
    first, second = (table.weight for table in net.tables)
    torch.testing.assert_close(out[0], torch.cat([torch.tensor([0.5]), first[2], torch.zeros(second.shape[1])]))
    torch.testing.assert_close(out[1], torch.cat([torch.tensor([0.25]), first[3], second[1]]))
    out.sum().backward()
    assert second.grad[0].abs().sum() == 0
    assert out.shape[1] == 1 + net.width


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a small table with everything in it: the class follows from town and day of the week, with gaps
    about."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(1)
    lines = ["town,size,built,w,y"]
    for i in range(400):
        town, day = f"t{rng.integers(14)}", dt.date(2020, 1, 1) + dt.timedelta(int(rng.integers(700)))
        size = "" if rng.random() < 0.1 else f"{rng.normal(50, 9):.2f}"
        lines.append(f"{town},{size},{day},{1 + i % 3},{'in' if (int(town[1:]) < 7) != (day.weekday() > 4) else 'out'}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    settings_ = {"data.weight": "w"}
    return api.train("mlp", data=folder / "t.csv", out=folder / "run", epochs=60, options=settings_), folder


def test_a_mixed_table_is_learned_and_answered(run) -> None:
    made, _ = run
    assert made.metrics["test/accuracy"] > 0.9
    predictor = made.predictor()
    assert isinstance(predictor.task.inputs, RowInputs)
    assert predictor.task.inputs.embedded  # fourteen towns are more than ten
    answer = predictor({"town": "t2", "size": "", "built": "2021-06-01"})[0]
    assert answer.label == "in"
    saved = json.loads((made.path / "task.json").read_text())
    assert [column["kind"] for column in saved["inputs"]["columns"]] == ["category", "number", "date"]


def test_unseen_categories_are_reported(run, tmp_path) -> None:
    made, _ = run
    predictor = made.predictor()
    (tmp_path / "new.csv").write_text("town,size,built\nt3,50,2021-06-01\nAtlantis,50,2021-06-01\n")
    (tmp_path / "odd.csv").write_text("town,size,built\nAtlantis,50,2021-06-01\nt3,wide,2021-06-01\nt3,5,soon\n")
    good, strange = predictor.stream(read_inputs([str(tmp_path / "new.csv")], predictor.task))
    assert isinstance(good, NamedPrediction)
    assert good.unseen == ()
    assert strange.unseen == ("town 'Atlantis'",)
    first, second, third = predictor.stream(read_inputs([str(tmp_path / "odd.csv")], predictor.task))
    assert first.unseen == ("town 'Atlantis'",)
    assert first.prediction == strange.prediction
    assert isinstance(second, Failure)
    assert "'size' is not a number" in second.error
    assert "'built' is not a date" in third.error


def test_eval_on_other_data_matches_categories_by_name(run, tmp_path) -> None:
    from layerwise.inference.evaluate import evaluate_run

    made, folder = run
    lines = (folder / "t.csv").read_text().splitlines()
    (tmp_path / "o.csv").write_text(
        "\n".join([lines[0], *[line.replace("t9,", "u9,") for line in lines[:0:-1]]]) + "\n"
    )
    found = evaluate_run(made.path, data=str(tmp_path / "o.csv"))
    assert any("town" in note and "'u9'" in note for note in found.notes)
    again = evaluate_run(made.path, data=str(folder / "t.csv"))
    assert again.metrics["accuracy"] > 0.9


def test_an_example_counts_by_its_weight(tmp_path) -> None:
    """A row of weight 3 pulls as three rows of weight 1: the same gradient (torch, float64)."""
    from layerwise.tasks.regression import Regression, RegressionOptions

    (tmp_path / "w.csv").write_text("x,w,y\n1,3,0.5\n2,1,1.5\n4,2,-1.5\n")
    (tmp_path / "r.csv").write_text("x,y\n1,0.5\n1,0.5\n1,0.5\n2,1.5\n4,-1.5\n4,-1.5\n")
    weighted = table_source.read_table(tmp_path / "w.csv", TableOptions(weight="w")).source
    repeated = table_source.read_table(tmp_path / "r.csv").source
    task = Regression.prepare(repeated, RegressionOptions())
    net = torch.nn.Linear(1, 1)
    grads = []
    for source in (weighted, repeated):
        loss = task.objective(net, task.collate(source.fetch(np.arange(len(source)))))
        net.zero_grad()
        (loss.total / loss.weight).backward()
        grads.append(net.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_predictor_takes_rows_as_it_did(run) -> None:
    made, _ = run
    predictor = made.predictor()
    assert isinstance(predictor, Predictor)
    assert predictor("t2,50,2021-06-01") == predictor(["t2", 50, "2021-06-01"])
    with pytest.raises(DataError, match=r"(?s)does not fit.*3 cells: town, size, built"):
        predictor("t2,50")
