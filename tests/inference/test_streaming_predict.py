"""Long files are answered in bounded memory; and read as the training table was: its gaps, its dates, its encoding."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from layerwise import api
from layerwise.inference.predict import NamedPrediction, read_inputs

GERMAN = {"data.dates": "%d.%m.%Y", "data.missing": ["n/k"], "data.encoding": "cp1252"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run on a table in German ways: commas that are semicolons, dates with dots, gaps marked n/k, umlauts in
    cp1252."""
    folder = tmp_path_factory.mktemp("run")
    lines = [f"{i % 7},{'Köln' if i % 2 else 'Bonn'},{1 + i % 28:02d}.03.2021,{i}.5" for i in range(60)]
    lines[3] = "n/k,Köln,04.03.2021,3.5"
    (folder / "t.csv").write_bytes(("a,town,day,y\n" + "\n".join(lines) + "\n").encode("cp1252"))
    return api.train("mlp", data=folder / "t.csv", out=folder / "run", epochs=2, options=GERMAN)


def test_rows_are_read_as_the_training_table_was(run: api.Run, tmp_path: Path) -> None:
    """The columns of a file, single rows of it (one is faulty, so each is read alone), a mapping and ISO dates all say
    the same."""
    text = "a,town,day\n1,Köln,05.03.2021\nn/k,Bonn,06.03.2021\n"
    (tmp_path / "good.csv").write_bytes(text.encode("cp1252"))
    (tmp_path / "odd.csv").write_bytes((text + "x,Bonn,06.03.2021\n").encode("cp1252"))
    predictor = run.predictor()
    whole = list(predictor.stream(read_inputs([str(tmp_path / "good.csv")], predictor.task)))
    *alone, faulty = predictor.stream(read_inputs([str(tmp_path / "odd.csv")], predictor.task))
    assert all(isinstance(one, NamedPrediction) and not one.unseen for one in whole)
    assert not isinstance(faulty, NamedPrediction)
    said = [one.prediction.value for one in whole]
    assert [one.prediction.value for one in alone] == pytest.approx(said, rel=1e-5)
    assert predictor({"a": "n/k", "town": "Bonn", "day": "2021-03-06"})[0].value == pytest.approx(said[1], rel=1e-5)


def test_a_long_file_is_never_held(run: api.Run, tmp_path: Path) -> None:
    """A file of 120 MB, most of it a column that the network does not look at: what Arrow holds is the blocks that it
    reads ahead."""
    path = tmp_path / "long.csv"
    with path.open("w", encoding="cp1252") as file:
        file.write("a,town,day,remark\n")
        file.writelines(f"{i % 7},Bonn,0{1 + i % 9}.03.2021,{'x' * 12_000}\n" for i in range(10_000))
    predictor = run.predictor()
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for answer in predictor.stream(read_inputs([str(path)], predictor.task)):
        assert isinstance(answer, NamedPrediction)
        most, count = max(most, pa.total_allocated_bytes() - before), count + 1
    assert count == 10_000
    assert most < path.stat().st_size / 3


# The command, and at its end the most memory it held, in KiB. (getrusage's figure would include the parent's, from
# before exec.)
PEAK_OF_COMMAND = """
import atexit, pathlib, re, runpy
atexit.register(lambda: print(re.search("VmHWM:\\\\s+(\\\\d+)", pathlib.Path("/proc/self/status").read_text())[1]))
runpy.run_module("layerwise", run_name="__main__", alter_sys=True)
"""


@pytest.mark.soak
def test_a_million_rows(run: api.Run, tmp_path: Path) -> None:
    """The command in a process of its own: every row answered, and no more memory than for a hundredth of them, but for
    64 MiB."""
    peaks = []
    for count in (10_000, 1_000_000):
        path, out = tmp_path / f"{count}.csv", tmp_path / f"out-{count}.csv"
        with path.open("w", encoding="cp1252") as file:
            file.write("a,town,day\n")
            file.writelines(f"{i % 7},Bonn,0{1 + i % 9}.03.2021\n" for i in range(count))
        began = time.monotonic()
        command = [sys.executable, "-c", PEAK_OF_COMMAND, "predict", str(run.path), str(path), "--out", str(out)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        with out.open(newline="") as file:
            assert sum(1 for _ in csv.reader(file)) == count + 1
        peaks.append(int(printed.split()[-1]) / 1024)
        print(f"{count:,} rows: {count / (time.monotonic() - began):,.0f} rows/s, peak {peaks[-1]:.0f} MiB")
    assert peaks[1] < peaks[0] + 64
