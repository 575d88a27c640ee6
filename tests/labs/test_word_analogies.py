"""C20: the verdict flips when words lose their company, and when a learner's vectors are dealt out anew; measures
against references."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from layerwise.embeddings.queries import solve_analogy
from layerwise.labs import base
from layerwise.labs import word_analogies as lab
from layerwise.weights.vectors import VectorTable

PLAN = lab.Plan(8, 2_000, {"skipgram": 5, "cbow": 8, "glove": 15}, 3)


def test_words_without_company_carry_nothing() -> None:
    """The same words, dealt out over the sentences at random."""
    findings = lab.measure("quick", plan=PLAN, draw=lambda plan, seed: lab.draw_language(plan, seed, company=False))
    assert not base.is_held(findings)
    assert not findings.checks[0].passed
    assert abs(np.mean(findings.margins)) < 0.05


def test_the_claim_holds_of_a_small_language() -> None:
    findings = lab.measure("quick", plan=PLAN)
    assert base.is_held(findings), findings.table.rows


def test_the_text_is_as_described() -> None:
    with_company, without = lab.draw_language(PLAN, 1), lab.draw_language(PLAN, 1, company=False)
    for line in with_company.lines:
        words = line.split()
        (cell,) = (word for word in words if word.startswith("r"))
        row, column = cell[1:].split("c")
        assert len(words) == lab.LENGTH
        assert {word[1:].split("x")[0] for word in words if word[0] == "a"} == {row}
        assert {word[1:].split("x")[0] for word in words if word[0] == "b"} == {column}
    counts = [Counter(word for line in text.lines for word in line.split()) for text in (with_company, without)]
    assert counts[0] == counts[1]
    assert with_company.lines != without.lines


def test_measures() -> None:
    text = lab.Language(4, (), {})
    words = [word for row in text.cells for word in row] + ["w0", "w1"]
    vectors = VectorTable(words, np.random.default_rng(0).normal(size=(len(words), 5)).astype(np.float32))
    cells = [(r, c) for r in range(4) for c in range(lab.COLUMNS)]
    alike, cosines = [], []
    for n, (r, c) in enumerate(cells):
        for m in range(n):
            alike.append(r == cells[m][0] or c == cells[m][1])
            cosines.append(vectors.unit[n] @ vectors.unit[m])
    assert lab.compute_closeness(vectors, text) == pytest.approx(roc_auc_score(alike, cosines))
    questions = lab.draw_questions(text, 3)[:20]
    ranks = lab.rank_analogies(vectors, vectors.rows([word for line in questions for word in line]).reshape(-1, 4))
    for (a, b, c, d), rank in zip(questions, ranks, strict=True):
        assert (a[:2], a[2:], b[2:]) == (b[:2], c[2:], d[2:])
        assert [one.word for one in solve_analogy(vectors, a, b, c, k=100)].index(d) + 1 == rank[0]


def test_words_that_are_too_rare_are_not_asked(tmp_path: Path) -> None:
    text = lab.Language(4, ("r0c0 w0 w1",) * 9, {"skipgram": 1})
    vectors = lab.LEARNERS["skipgram"](text, lab.build_corpus(text, tmp_path), 0)
    assert sorted(vectors.words) == ["r0c0", "w0", "w1"]
