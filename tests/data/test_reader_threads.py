"""No thread of a reader outlives Python: readers are closed, and hold nothing of Python's; a table without rows is
always an error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq
import pytest

from layerwise import api
from layerwise.data.tables import delimited, table_files
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError
from layerwise.inference.predict import Failure, read_inputs

RUNS = 20
ENCODINGS = ("utf-8", "utf8", "UTF-8", "utf-8-sig", "gbk", "cp1252", "utf-16")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run on a small table."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "t.csv").write_text("a,x,y\n" + "".join(f"{i % 7},{i / 9},{'pq'[i % 2]}\n" for i in range(60)))
    return api.train("mlp", data=folder / "t.csv", out=folder / "run", epochs=1)


@pytest.mark.timeout(600)
def test_a_table_without_rows_is_an_error_in_every_process(run: api.Run, tmp_path: Path, command: Any) -> None:
    """Python's end and the reader's thread meet by chance: of 20 processes a third aborted (134) before."""
    (tmp_path / "e.csv").write_text("a,x,y\n")
    with ThreadPoolExecutor(2) as pool:
        ended = [*pool.map(lambda _: command("predict", run.path, "e.csv", "--json", timeout=300), range(RUNS))]
    assert [p.returncode for p in ended] == [2] * RUNS
    assert all("e.csv has no rows" in p.stdout for p in ended)


@pytest.mark.parametrize("name", ["head.csv", "cut.csv", "blank.csv", "e.tsv", "e.parquet", "-"])
def test_whatever_holds_no_row_says_so(
    run: api.Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, text in (("head.csv", "a,x\n"), ("cut.csv", "a,x"), ("blank.csv", "a,x\n\n\n"), ("e.tsv", "a\tx\n")):
        (tmp_path / file).write_text(text)
    pq.write_table(pa.table({"a": pa.array([], pa.float64()), "x": pa.array([], pa.float64())}), tmp_path / "e.parquet")
    monkeypatch.setattr("sys.stdin", iter(()))
    predictor = run.predictor()
    (failure,) = predictor.stream(read_inputs([name], predictor.task))
    assert isinstance(failure, Failure)
    assert f"{'standard input' if name == '-' else name} has no rows" in failure.error


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any], Any]]:
    """Note each call of pyarrow's readers: the source, the options, what came back."""
    calls: list[tuple[Any, dict[str, Any], Any]] = []
    for module, name in ((pacsv, "open_csv"), (pacsv, "read_csv"), (pajson, "open_json")):
        real = getattr(module, name)

        def call(source: Any, *, real: Any = real, **options: Any) -> Any:
            calls.append((source, options, None))
            calls[-1] = (source, options, real(source, **options))
            return calls[-1][2]

        monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pyarrow_is_given_nothing_of_pythons(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback, a Python file or an encoding that pyarrow decodes through Python is freed on its thread, which needs
    Python then."""
    (tmp_path / "t.csv").write_bytes(
        "a,名字\n1,北京\n2,上海\n".encode(encoding) if encoding != "cp1252" else b"a,x\xe9\n1,a\n2,b\n"
    )
    calls = record_calls(monkeypatch)
    dialect = delimited.sniff(tmp_path / "t.csv", encoding=encoding)
    full, parts = delimited.read_table(dialect), list(delimited.read_chunks(dialect))
    assert parts[0].num_columns == 2
    assert full.num_rows == sum(map(len, parts)) == 2
    assert full.column(1).to_pylist() == parts[0].column(1).to_pylist()
    assert calls
    for source, options, _ in calls:
        assert isinstance(source, str | pa.Buffer)
        assert options["parse_options"].invalid_row_handler is None
        assert options["read_options"].encoding == "utf8"


class Spy:
    """A reader that notes whether it was closed."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.closed = reader, False

    def __enter__(self) -> Any:
        return self.reader.__enter__()

    def __exit__(self, *error: object) -> None:
        self.closed = True
        self.reader.__exit__(*error)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_reader_is_closed_where_reading_is_given_up(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "a,b\n" + "1,2\n" * 400_000 if kind == "csv" else '{"a": 1, "b": 2}\n' * 200_000
    (tmp_path / f"t.{kind}").write_text(lines)
    spies: list[Spy] = []
    module, name = (pacsv, "open_csv") if kind == "csv" else (pajson, "open_json")
    real = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given, **options: spies.append(Spy(real(*given, **options))) or spies[-1])
    with closing(table_files.iterate_tables(tmp_path / f"t.{kind}", size=4)) as tables:
        assert len(next(tables)) == 4
        assert [spy.closed for spy in spies] == [False]
    assert [spy.closed for spy in spies] == [True]


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
def test_ragged_rows_are_named_by_line(tmp_path: Path, encoding: str) -> None:
    """Whole or in pieces, at the beginning or after megabytes, too short or too long."""
    for at in (0, 150_000):
        for row in ("7", "7,8,9"):
            lines = ["a,名"] + ["12,345"] * 200_000
            lines[at + 1] = row
            (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
            dialect = delimited.sniff(tmp_path / "t.csv", encoding=encoding)
            with pytest.raises(DataError, match=f"row {at + 2} does not have as many cells"):
                delimited.read_table(dialect)
            with pytest.raises(DataError, match=f"row {at + 2} does not have as many cells"):
                for _ in delimited.read_chunks(dialect):
                    pass


def test_a_table_is_the_same_in_every_encoding(tmp_path: Path) -> None:
    """Types are told from all rows, however the text is written; gaps, quotes and line breaks in cells too."""
    text = 'n,s,d\n1,"北京, 中国",2024-01-05\n,"两\n行",2024-02-05\n3,"""引""",\n'
    tables = []
    for encoding in ("utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"):
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        table, rows = table_files.load_table(tmp_path / "t.csv", TableOptions(encoding=encoding))
        tables.append((table.to_pylist(), table.schema, rows.tolist()))
    assert all(table == tables[0] for table in tables)
    assert tables[0][0][0]["s"] == "北京, 中国"
