"""Word vectors measured by what people said: pairs of words with a mark for their likeness, and analogies by section.

``V`` words, ``Q`` questions. Two forms of files, told apart by content: lines ``word<TAB>word<TAB>mark`` (WordSim-353,
L. Finkelstein et al. 2002; SimLex-999, F. Hill et al. 2015), and four words a line under sections ``: name``
(questions-words, T. Mikolov et al. 2013). The
one idea: a question with a word that has no vector is not asked, so a score means nothing without its coverage.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.data.download import datasets
from layerwise.errors import DataError
from layerwise.functional import similarity
from layerwise.functional.retrieval_metrics import spearman
from layerwise.functional.similarity import Method
from layerwise.runtime.input_files import open_regular_file, read_regular_file, refuse_special_file
from layerwise.weights.vectors import VectorTable

MOST = 300_000  # words that are looked at: the most frequent ones of large tables
AT_ONCE = 1 << 25  # scores that are held together
ENDINGS = (".txt", ".tsv")
Ids = NDArray[np.int64]


class Section(NamedTuple):
    """A section of a benchmark: questions in all, those that could be asked, and the score, Spearman's ρ or the share
    answered rightly."""

    benchmark: str
    name: str
    kind: str
    total: int
    asked: int
    score: float

    @property
    def coverage(self) -> float:
        """The share of the questions whose words all have vectors."""
        return self.asked / self.total


@dataclass(frozen=True)
class WordEvaluation:
    """What all benchmarks said: metrics by name, NaN for what could not be asked, and each section behind them."""

    sections: tuple[Section, ...]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """``NAME/spearman``, ``NAME/accuracy`` (over all that were asked) and ``NAME/coverage``."""
        found: dict[str, float] = {}
        for benchmark in dict.fromkeys(section.benchmark for section in self.sections):
            mine = [section for section in self.sections if section.benchmark == benchmark]
            asked = sum(section.asked for section in mine)
            right = sum(section.score * section.asked for section in mine if section.asked)
            score = mine[0].score if mine[0].kind == "spearman" else right / asked if asked else float("nan")
            found[f"{benchmark}/{mine[0].kind}"] = score
            found[f"{benchmark}/coverage"] = asked / sum(section.total for section in mine)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; a score that could not be measured is null."""
        rows = [{**section._asdict(), "coverage": section.coverage} for section in self.sections]
        return {
            "metrics": {k: _plain(v) for k, v in self.metrics.items()},
            "sections": [{**r, "score": _plain(r["score"])} for r in rows],
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return all sections as a table's header and rows."""
        rows = [
            [s.benchmark, s.name, f"{s.asked:,} of {s.total:,}", s.kind, f"{s.score:.3f}" if s.asked else "–"]
            for s in self.sections
        ]
        return ["benchmark", "section", "asked", "measure", "score"], rows


def _plain(value: float) -> float | None:
    """Return a number as JSON has it: NaN is null."""
    return None if np.isnan(value) else value


class Folded:
    """A table's words without regard to case, as benchmarks are asked: of several forms the first counts, the most
    frequent in most files.

    ``form`` gives for every row the first row of the same word (V,).
    """

    def __init__(self, table: VectorTable, most: int) -> None:
        words = [word.lower() for word in table.words[:most]]
        self.rows: dict[str, int] = {}
        self.form: Ids = np.array([self.rows.setdefault(word, at) for at, word in enumerate(words)], dtype=np.int64)
        self.unit = table.unit[: len(words)]
        other: dict[int, list[int]] = {}
        for at in np.flatnonzero(self.form != np.arange(len(words))).tolist():
            other.setdefault(int(self.form[at]), []).append(at)
        self.others = {first: np.array(rows) for first, rows in other.items()}

    def find(self, words: Sequence[Sequence[str]]) -> Ids:
        """Return the rows of lines of words, (Q, n), −1 for words without a vector."""
        found = [[self.rows.get(word.lower(), -1) for word in line] for line in words]
        return np.array(found, dtype=np.int64).reshape(len(words), -1)


def evaluate_words(
    table: VectorTable, place: str | Path = "word-eval", *, method: Method = "add", most: int = MOST
) -> WordEvaluation:
    """Measure word vectors by every benchmark of a file, a folder or a named data set.

    Words are compared without regard to case. An analogy is answered rightly if the best of all words but the three
    given is the fourth.

    Args:
        table: the vectors, the most frequent words first.
        place: the benchmarks.
        method: how analogies are answered, ``add`` or ``mul`` (`similarity.analogies`).
        most: how many of the table's first words take part.

    Raises `DataError` for a place without benchmarks and for lines that are none, by number.
    """
    words = Folded(table, most)
    sections: list[Section] = []
    for path in _files(place):
        lines = _lines(path)
        sections += (
            _analogies(lines, path, words, method) if lines[0][1].startswith(":") else [_pairs(lines, path, words)]
        )
    return WordEvaluation(tuple(sections))


def recognized(place: str | Path) -> bool:
    """Whether a place holds benchmarks for words: by its name, or by how its files begin."""
    if any(item.name == str(place) and item.benchmark for item in datasets.catalog()):
        return True
    path = Path(place).expanduser()
    refuse_special_file(path)
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in ENDINGS)
    return bool(files) and all(_begins_as_one(file) for file in files)


def _begins_as_one(path: Path) -> bool:
    """Whether a file's first line is a section's name, or two words and a number."""
    with io.TextIOWrapper(open_regular_file(path), encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip() and not line.startswith("#")), "")
    cells = first.rstrip("\n").split("\t") if "\t" in first else first.split()
    return first.startswith(":") or (len(cells) == 3 and cells[2].replace(".", "", 1).isdigit())


def _files(place: str | Path) -> list[Path]:
    """Return the files of benchmarks in order."""
    path = Path(place).expanduser()
    if not path.exists() and str(place) in [item.name for item in datasets.catalog()]:
        path = datasets.folder_of(str(place))
    refuse_special_file(path)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix in ENDINGS)
    if not found:
        raise DataError(
            f"{path} holds no benchmarks for words",
            expected=f"a file, or a folder of files ending in {' or '.join(ENDINGS)}",
        )
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return a benchmark's lines with their numbers, without comments and blank ones."""
    try:
        text = read_regular_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no benchmark for words: it is not UTF-8") from error
    lines = [
        (n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise DataError(f"{path} is no benchmark for words: it is empty")
    return lines


def _bad(path: Path, number: int, expected: str, line: str) -> DataError:
    """Make the error for a line that is no question."""
    return DataError(f"{path} line {number} is no question", expected=expected, received=line[:60])


def _pairs(lines: Sequence[tuple[int, str]], path: Path, words: Folded) -> Section:
    """Measure a file of pairs: Spearman's ρ between people's marks and cosines."""
    pairs, marks = [], []
    for number, line in lines:
        cells = line.split("\t") if "\t" in line else line.split()
        try:
            first, second, mark = cells
            marks.append(float(mark))
        except ValueError:
            raise _bad(path, number, "two words and a number, between tabs", line) from None
        pairs.append((first.strip(), second.strip()))
    rows = words.find(pairs)
    asked = (rows >= 0).all(1)
    cosines = np.einsum("qd,qd->q", words.unit[rows[asked, 0]], words.unit[rows[asked, 1]])
    return Section(
        path.stem, "all", "spearman", len(pairs), int(asked.sum()), spearman(cosines, np.array(marks)[asked])
    )


def _analogies(lines: Sequence[tuple[int, str]], path: Path, words: Folded, method: Method) -> list[Section]:
    """Measure a file of analogies, section by section."""
    asked: dict[str, list[list[str]]] = {}
    for number, line in lines:
        if line.startswith(":"):
            section = asked.setdefault(line[1:].strip(), [])
        elif len(cells := line.split()) == 4:
            section.append(cells)
        else:
            raise _bad(path, number, "four words, or a section's name after a colon", line)
    found = []
    for name, questions in asked.items():
        if questions:
            rows = words.find(questions)
            rows = rows[(rows >= 0).all(1)]
            right = answered(words, rows, method)
            score = float(right.mean()) if len(rows) else float("nan")
            found.append(Section(path.stem, name, "accuracy", len(questions), len(rows), score))
    return found


def answered(words: Folded, rows: Ids, method: Method = "add") -> NDArray[np.bool_]:
    """Return which questions (Q, 4) are answered rightly, (Q,). No form of the three words given is an answer."""
    right = np.zeros(len(rows), dtype=bool)
    step = max(1, AT_ONCE // len(words.form))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        scores = similarity.analogies(words.unit, *some[:, :3].T, method=method)
        if words.others:
            for row, given in enumerate(some[:, :3].tolist()):
                for first in given:
                    if first in words.others:
                        scores[row, words.others[first]] = -np.inf
        right[start : start + step] = words.form[scores.argmax(1)] == some[:, 3]
    return right
