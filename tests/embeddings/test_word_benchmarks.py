"""Benchmarks of word vectors against gensim's scores; questions asked of a table in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerwise.embeddings import queries
from layerwise.embeddings.benchmarks import evaluate_words
from layerwise.errors import DataError, UsageError
from layerwise.weights.vectors import VectorTable

COUNTRIES = "Athens Greece Oslo Norway Paris France Rome Italy Bern Switzerland Cairo Egypt".split()
VERBS = "go went run ran see saw do did".split()


def table() -> VectorTable:
    """Return vectors that answer some analogies: noise, and a direction for countries and one for the past; forms in
    capitals too."""
    rng = np.random.default_rng(3)
    words = [*COUNTRIES, *VERBS, "GREECE", "Went", "oslo"]
    matrix = rng.normal(size=(len(words), 12))
    for pairs, direction in ((COUNTRIES, rng.normal(size=12)), (VERBS, rng.normal(size=12))):
        for first, second in zip(pairs[::2], pairs[1::2], strict=True):
            at, to = words.index(first), words.index(second)
            matrix[to] = matrix[at] + 2 * direction + 0.8 * rng.normal(size=12)
    matrix[words.index("GREECE")] = matrix[words.index("Greece")] + 0.1
    return VectorTable(words, matrix.astype(np.float32))


def write_benchmarks(folder: Path) -> None:
    """Write a file of pairs and one of analogies, with words that have no vectors among them."""
    rng = np.random.default_rng(4)
    pairs = [(a, b, f"{rng.uniform(0, 10):.2f}") for a in (*COUNTRIES[:6], "atlantis") for b in ("Run", "ROME", "saw")]
    (folder / "pairs.tsv").write_text(
        "# two words, a mark\n" + "".join("\t".join(pair) + "\n" for pair in pairs), encoding="utf-8"
    )
    lines = []
    for name, words in (("capitals", [*COUNTRIES, "Atlantis", "Sea"]), ("gram-past", VERBS)):
        lines.append(f": {name}")
        couples = list(zip(words[::2], words[1::2], strict=True))
        lines += [f"{a} {b} {c} {d}" for a, b in couples for c, d in couples if a != c]
    (folder / "questions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def gensims(ours: VectorTable):
    """Return the same vectors as gensim has them."""
    from gensim.models import KeyedVectors

    theirs = KeyedVectors(ours.dimensions)
    theirs.add_vectors(ours.words, ours.matrix)
    return theirs


def test_scores_are_gensims(tmp_path: Path) -> None:
    write_benchmarks(tmp_path)
    ours, theirs = table(), gensims(table())
    found = evaluate_words(ours, tmp_path)
    _, rho, unknown = theirs.evaluate_word_pairs(str(tmp_path / "pairs.tsv"))
    assert found.metrics["pairs/spearman"] == pytest.approx(rho.statistic, abs=1e-6)
    assert found.metrics["pairs/coverage"] == pytest.approx(1 - unknown / 100)
    accuracy, sections = theirs.evaluate_word_analogies(str(tmp_path / "questions.txt"))
    assert 0 < accuracy < 1
    assert found.metrics["questions/accuracy"] == pytest.approx(accuracy)
    assert found.metrics["questions/coverage"] == pytest.approx((30 + 12) / (42 + 12))
    mine = {section.name: section for section in found.sections if section.benchmark == "questions"}
    for one in sections[:2]:
        right, wrong = len(one["correct"]), len(one["incorrect"])
        assert mine[one["section"]].asked == right + wrong
        assert mine[one["section"]].score == pytest.approx(right / (right + wrong))
    assert [row[1] for row in found.rows()[1]] == ["all", "capitals", "gram-past"]


def test_what_cannot_be_asked_has_no_score(tmp_path: Path) -> None:
    write_benchmarks(tmp_path)
    none = VectorTable(["x", "y"], np.eye(2, dtype=np.float32))
    found = evaluate_words(none, tmp_path / "questions.txt")
    assert np.isnan(found.metrics["questions/accuracy"])
    assert found.metrics["questions/coverage"] == 0
    assert found.to_json()["metrics"] == {"questions/accuracy": None, "questions/coverage": 0.0}


def test_lines_that_are_no_questions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    for text, told in (
        (": a\nw x y z\nw x y\n", r"q.txt line 3 is no question\n  expected: four words.*\n  received: w x y"),
        ("# c\na\tb\tone\n", r"q.txt line 2 is no question\n  expected: two words and a number"),
        ("\n", "is empty"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=told):
            evaluate_words(table(), path)
    with pytest.raises(DataError, match="holds no benchmarks for words"):
        evaluate_words(table(), tmp_path / "nowhere")


def test_questions_in_words() -> None:
    ours, theirs = table(), gensims(table())
    assert queries.word_similarity(ours, "go", "went") == pytest.approx(theirs.similarity("go", "went"), abs=1e-6)
    for plus, minus in ((["go"], []), (["Paris", "Norway"], ["Oslo"]), (["run", "see", "do"], ["ran"])):
        said = theirs.most_similar(positive=plus, negative=minus, topn=4)
        found = queries.find_nearest_words(ours, plus, minus, k=4)
        assert [one.word for one in found] == [word for word, _ in said]
        np.testing.assert_allclose([one.score for one in found], [score for _, score in said], atol=1e-6)
    found = queries.solve_analogy(ours, "Oslo", "Norway", "Paris", k=3)
    assert [one.word for one in found] == [
        one.word for one in queries.find_nearest_words(ours, ["Norway", "Paris"], ["Oslo"], k=3)
    ]
    assert queries.find_odd_one_out(ours, ["go", "run", "see", "Cairo"]) == theirs.doesnt_match(
        ["go", "run", "see", "Cairo"]
    )
    assert len(queries.find_nearest_words(ours, ["go"], k=100)) == len(ours) - 1
    with pytest.raises(UsageError, match=r"(?s)no vector of 'Osloo'.*did you mean 'Oslo'"):
        queries.word_similarity(ours, "Osloo", "go")
    with pytest.raises(UsageError, match="three words or more"):
        queries.find_odd_one_out(ours, ["go", "run"])


def test_the_named_set_is_a_benchmark() -> None:
    from layerwise.data.load import Options, load_splits

    with pytest.raises(
        UsageError, match=r"word-eval is a benchmark: .*\n  do this:  layerwise eval RUN --data word-eval"
    ):
        load_splits(Options("word-eval"), seed=0)
