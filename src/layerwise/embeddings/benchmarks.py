"""Benchmarks of word vectors: similarity ratings of word pairs by people, and analogies by section.

``V`` words, ``Q`` questions. Two formats, detected from the content: lines ``word<TAB>word<TAB>rating`` (WordSim-353,
L. Finkelstein et al. 2002; SimLex-999, F. Hill et al. 2015), and four words a line under sections ``: name``
(questions-words, T. Mikolov et al. 2013). Questions with a word without a vector are skipped, so a score means nothing
without its coverage.
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

MAX_WORDS = 300_000  # of a large table: the most frequent ones
MAX_SCORES = 1 << 25  # scores at a time
ENDINGS = (".txt", ".tsv")
Ids = NDArray[np.int64]


class Section(NamedTuple):
    """A section of a benchmark: the number of questions, of those with vectors, and the score, Spearman's ρ or the
    accuracy."""

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
    """The results of all benchmarks: metrics by name, NaN without any question, and the sections behind them."""

    sections: tuple[Section, ...]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """``NAME/spearman``, ``NAME/accuracy`` (over all questions asked) and ``NAME/coverage``."""
        values: dict[str, float] = {}
        for benchmark in dict.fromkeys(section.benchmark for section in self.sections):
            parts = [section for section in self.sections if section.benchmark == benchmark]
            asked = sum(section.asked for section in parts)
            correct = sum(section.score * section.asked for section in parts if section.asked)
            score = parts[0].score if parts[0].kind == "spearman" else correct / asked if asked else float("nan")
            values[f"{benchmark}/{parts[0].kind}"] = score
            values[f"{benchmark}/coverage"] = asked / sum(section.total for section in parts)
        return values

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; an undefined score is null."""
        rows = [{**section._asdict(), "coverage": section.coverage} for section in self.sections]
        return {
            "metrics": {k: _to_json_number(v) for k, v in self.metrics.items()},
            "sections": [{**r, "score": _to_json_number(r["score"])} for r in rows],
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return all sections as a table's header and rows."""
        rows = [
            [s.benchmark, s.name, f"{s.asked:,} of {s.total:,}", s.kind, f"{s.score:.3f}" if s.asked else "–"]
            for s in self.sections
        ]
        return ["benchmark", "section", "asked", "measure", "score"], rows


def _to_json_number(value: float) -> float | None:
    """Return a number for JSON: NaN becomes null."""
    return None if np.isnan(value) else value


class CaseFoldedWords:
    """A table's words without regard to case, as in benchmarks: of several forms the first counts, the most frequent
    one in most files.

    ``form`` gives for every row the first row of the same word (V,).
    """

    def __init__(self, table: VectorTable, max_words: int) -> None:
        words = [word.lower() for word in table.words[:max_words]]
        self.rows: dict[str, int] = {}
        self.form: Ids = np.array([self.rows.setdefault(word, row) for row, word in enumerate(words)], dtype=np.int64)
        self.unit = table.unit[: len(words)]
        duplicates: dict[int, list[int]] = {}
        for row in np.flatnonzero(self.form != np.arange(len(words))).tolist():
            duplicates.setdefault(int(self.form[row]), []).append(row)
        self.others = {first: np.array(rows) for first, rows in duplicates.items()}

    def find(self, words: Sequence[Sequence[str]]) -> Ids:
        """Return the rows of lines of words, (Q, n), −1 for words without a vector."""
        rows = [[self.rows.get(word.lower(), -1) for word in line] for line in words]
        return np.array(rows, dtype=np.int64).reshape(len(words), -1)


def evaluate_words(
    table: VectorTable, source: str | Path = "word-eval", *, method: Method = "add", max_words: int = MAX_WORDS
) -> WordEvaluation:
    """Evaluate word vectors on every benchmark of a file, a folder or a named dataset.

    Words are compared without regard to case. An analogy is correct if the best word other than the three given ones is
    the fourth.

    Args:
        table: the vectors, the most frequent words first.
        source: the file, folder or dataset.
        method: the scoring of analogies, ``add`` or ``mul`` (`similarity.score_analogies`).
        max_words: how many of the table's first words are used.

    Raises `DataError` for a source without benchmarks and for malformed lines, by number.
    """
    words = CaseFoldedWords(table, max_words)
    sections: list[Section] = []
    for path in _list_files(source):
        lines = _read_lines(path)
        sections += (
            _evaluate_analogies(lines, path, words, method)
            if lines[0][1].startswith(":")
            else [_evaluate_pairs(lines, path, words)]
        )
    return WordEvaluation(tuple(sections))


def is_word_benchmark(source: str | Path) -> bool:
    """Whether a source holds benchmarks for words, by its name or by the first lines of its files."""
    if any(item.name == str(source) and item.benchmark for item in datasets.catalog()):
        return True
    path = Path(source).expanduser()
    refuse_special_file(path)
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in ENDINGS)
    return bool(files) and all(_looks_like_benchmark(file) for file in files)


def _looks_like_benchmark(path: Path) -> bool:
    """Whether a file's first line is a section's name, or two words and a number."""
    with io.TextIOWrapper(open_regular_file(path), encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip() and not line.startswith("#")), "")
    cells = first.rstrip("\n").split("\t") if "\t" in first else first.split()
    return first.startswith(":") or (len(cells) == 3 and cells[2].replace(".", "", 1).isdigit())


def _list_files(source: str | Path) -> list[Path]:
    """Return the files of benchmarks in order."""
    path = Path(source).expanduser()
    if not path.exists() and str(source) in [item.name for item in datasets.catalog()]:
        path = datasets.get_dataset_folder(str(source))
    refuse_special_file(path)
    if path.is_file():
        return [path]
    files = sorted(p for p in path.glob("*") if p.suffix in ENDINGS)
    if not files:
        raise DataError(
            f"{path} holds no benchmarks for words",
            expected=f"a file, or a folder of files ending in {' or '.join(ENDINGS)}",
        )
    return files


def _read_lines(path: Path) -> list[tuple[int, str]]:
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


def _make_line_error(path: Path, number: int, expected: str, line: str) -> DataError:
    """Return the error for a line that is not a question."""
    return DataError(f"{path} line {number} is no question", expected=expected, received=line[:60])


def _evaluate_pairs(lines: Sequence[tuple[int, str]], path: Path, words: CaseFoldedWords) -> Section:
    """Evaluate a file of pairs: Spearman's ρ between ratings and cosines."""
    pairs, ratings = [], []
    for number, line in lines:
        cells = line.split("\t") if "\t" in line else line.split()
        try:
            first, second, rating = cells
            ratings.append(float(rating))
        except ValueError:
            raise _make_line_error(path, number, "two words and a number, between tabs", line) from None
        pairs.append((first.strip(), second.strip()))
    rows = words.find(pairs)
    asked = (rows >= 0).all(1)
    cosines = np.einsum("qd,qd->q", words.unit[rows[asked, 0]], words.unit[rows[asked, 1]])
    return Section(
        path.stem, "all", "spearman", len(pairs), int(asked.sum()), spearman(cosines, np.array(ratings)[asked])
    )


def _evaluate_analogies(
    lines: Sequence[tuple[int, str]], path: Path, words: CaseFoldedWords, method: Method
) -> list[Section]:
    """Evaluate a file of analogies, section by section."""
    questions_by_section: dict[str, list[list[str]]] = {}
    for number, line in lines:
        if line.startswith(":"):
            section = questions_by_section.setdefault(line[1:].strip(), [])
        elif len(cells := line.split()) == 4:
            section.append(cells)
        else:
            raise _make_line_error(path, number, "four words, or a section's name after a colon", line)
    sections = []
    for name, questions in questions_by_section.items():
        if questions:
            rows = words.find(questions)
            rows = rows[(rows >= 0).all(1)]
            correct = check_analogies(words, rows, method)
            score = float(correct.mean()) if len(rows) else float("nan")
            sections.append(Section(path.stem, name, "accuracy", len(questions), len(rows), score))
    return sections


def check_analogies(words: CaseFoldedWords, rows: Ids, method: Method = "add") -> NDArray[np.bool_]:
    """Return which analogies (Q, 4) are correct, (Q,). No form of the three words given is a candidate."""
    correct = np.zeros(len(rows), dtype=bool)
    step = max(1, MAX_SCORES // len(words.form))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        scores = similarity.score_analogies(words.unit, *chunk[:, :3].T, method=method)
        if words.others:
            for row, given in enumerate(chunk[:, :3].tolist()):
                for first in given:
                    if first in words.others:
                        scores[row, words.others[first]] = -np.inf
        correct[start : start + step] = words.form[scores.argmax(1)] == chunk[:, 3]
    return correct
