"""Cosines, analogies, sentence vectors, the orthogonal map and measures of an order, against plain loops, gensim and
scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.functional import retrieval_metrics, similarity

RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(40, 6)).astype(np.float32)
UNIT = similarity.normalize_rows(VECTORS)


def plain_cosine(x, y) -> float:
    """Return x·y / ‖x‖‖y‖ in float64."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_cosines() -> None:
    found = similarity.cosine(VECTORS[:5], VECTORS[5:12])
    for i, j in itertools.product(range(5), range(7)):
        assert found[i, j] == pytest.approx(plain_cosine(VECTORS[i], VECTORS[5 + j]), abs=1e-6)
    nothing = np.zeros((1, 6), dtype=np.float32)
    assert similarity.cosine(nothing, VECTORS[:2]).tolist() == [[0.0, 0.0]]
    huge = np.full((1, 6), 1e30, dtype=np.float32)  # its square is no float32
    assert similarity.cosine(huge, huge)[0, 0] == pytest.approx(1, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=4), st.integers(1, 9))
def test_top_is_the_head_of_a_stable_sort(rows: list[list[int]], k: int) -> None:
    """Scores with many ties: of equals the earlier comes first."""
    scores = np.array(rows, dtype=np.float32)
    ids, found = similarity.top_k(scores, k)
    for row, mine, said in zip(rows, ids.tolist(), found.tolist(), strict=True):
        order = sorted(range(7), key=lambda at, row=row: (-row[at], at))[:k]
        assert mine == order
        assert said == [row[at] for at in order]


@pytest.mark.parametrize("method", ["add", "mul"])
def test_analogies_against_a_loop(method: similarity.Method) -> None:
    questions = RNG.integers(0, 40, (6, 3))
    found = similarity.score_analogies(UNIT, *questions.T, method=method)
    for scores, (a, b, c) in zip(found, questions.tolist(), strict=True):
        for d in range(40):
            if d in (a, b, c):
                assert scores[d] == -np.inf
                continue
            if method == "add":
                want = plain_cosine(UNIT[d], UNIT[b].astype(np.float64) - UNIT[a] + UNIT[c])
            else:
                from_a, from_b, from_c = ((1 + plain_cosine(UNIT[d], UNIT[at])) / 2 for at in (a, b, c))
                want = from_b * from_c / (from_a + 1e-3)
            assert scores[d] == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
def test_questions_get_gensims_answers() -> None:
    from gensim.models import KeyedVectors

    theirs = KeyedVectors(6)
    theirs.add_vectors([str(n) for n in range(40)], VECTORS)
    theirs.fill_norms()
    for a, b, c in RNG.permutation(40)[:39].reshape(13, 3).tolist():
        for method, ask in (("add", theirs.most_similar), ("mul", theirs.most_similar_cosmul)):
            scores = similarity.score_analogies(UNIT, *np.array([[a], [b], [c]]), method=method, eps=1e-6)
            ids, found = similarity.top_k(scores, 5)
            said = ask(positive=[str(b), str(c)], negative=[str(a)], topn=5)
            assert [str(at) for at in ids[0]] == [word for word, _ in said]
            np.testing.assert_allclose(found[0], [score for _, score in said], rtol=1e-4)
        some = RNG.permutation(40)[:5]
        assert some[similarity.find_odd_one_out(UNIT[some])] == int(theirs.doesnt_match([str(n) for n in some]))


def test_mean_vectors_and_sif() -> None:
    """Arora et al.'s algorithm 1 in loops: weights, means, and the first singular vector of all taken out."""
    counts = RNG.integers(0, 500, 40)
    texts = [RNG.integers(0, 40, n) for n in (3, 0, 7, 1, 5, 12)]
    weights = similarity.compute_sif_weights(counts)
    flat = np.concatenate(texts)
    found = similarity.compute_mean_vectors(VECTORS[flat], [len(t) for t in texts], weights[flat])
    want = np.zeros((6, 6))
    for row, text in enumerate(texts):
        for word in text:
            want[row] += 1e-3 / (1e-3 + counts[word] / counts.sum()) * VECTORS[word].astype(np.float64) / len(text)
    np.testing.assert_allclose(found, want, atol=1e-6)
    plain = similarity.compute_mean_vectors(VECTORS[flat], [len(t) for t in texts])
    np.testing.assert_allclose(plain[2], VECTORS[texts[2]].mean(0), atol=1e-6)
    u = np.linalg.svd(want)[2][0]
    direction = similarity.find_common_direction(want.T @ want)
    assert abs(float(direction @ u)) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(similarity.remove_direction(found, direction), want - want @ np.outer(u, u), atol=1e-6)


def test_procrustes_is_scipys_and_the_best_of_rotations() -> None:
    x, y = RNG.normal(size=(30, 5)), RNG.normal(size=(30, 5))
    found = similarity.procrustes(x, y)
    np.testing.assert_allclose(found, scipy.linalg.orthogonal_procrustes(x, y)[0], atol=1e-12)
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-12)
    for seed in range(20):
        other = scipy.stats.ortho_group.rvs(5, random_state=seed)
        assert np.linalg.norm(x @ found - y) <= np.linalg.norm(x @ other - y)
    turned = scipy.stats.ortho_group.rvs(5, random_state=99)
    np.testing.assert_allclose(similarity.procrustes(x, x @ turned), turned, atol=1e-12)
    with pytest.raises(ValueError, match=r"two equal shapes \(N, D\), received \(30, 5\) and \(3, 5\)"):
        similarity.procrustes(x, y[:3])


RANKS = st.lists(st.sets(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(RANKS, st.integers(1, 12))
def test_measures_of_an_order_against_loops(wanted: list[set[int]], k: int) -> None:
    ranks = [np.array(sorted(mine)[::-1]) for mine in wanted]
    precision = recall = hits = reciprocal = 0.0
    for mine in wanted:
        among = [place for place in range(1, k + 1) if place in mine]
        precision += len(among) / k / len(wanted)
        recall += len(among) / len(mine) / len(wanted)
        hits += bool(among) / len(wanted)
        place = 1
        while place not in mine:
            place += 1
        reciprocal += 1 / place / len(wanted)
    assert retrieval_metrics.precision_at_k(ranks, k) == pytest.approx(precision)
    assert retrieval_metrics.recall_at_k(ranks, k) == pytest.approx(recall)
    assert retrieval_metrics.hit_rate_at_k(ranks, k) == pytest.approx(hits)
    assert retrieval_metrics.mean_reciprocal_rank(ranks) == pytest.approx(reciprocal)


def test_spearman_is_scipys() -> None:
    x, y = RNG.integers(0, 9, 50), RNG.normal(size=50)
    assert retrieval_metrics.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert np.isnan(retrieval_metrics.spearman([1, 1, 1], [1, 2, 3]))
    assert np.isnan(retrieval_metrics.spearman([1], [2]))
