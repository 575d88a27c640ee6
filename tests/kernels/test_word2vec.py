"""word2vec's kernels against a slow, plain form with the same draws, and against autograd of E30; their draws against
theory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from layerwise.errors import UsageError
from layerwise.functional import word_vectors as E30
from layerwise.kernels.text import END, GAP, word2vec
from layerwise.kernels.text.huffman import HuffmanTree, build_huffman_tree
from layerwise.kernels.text.sampling import build_alias_table, compute_keep_probabilities
from layerwise.kernels.text.word2vec import NegativeSampling, PassStats

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


class Draws:
    """SplitMix64, as its authors wrote it, and what word2vec draws from it."""

    def __init__(self, state: int) -> None:
        self.state = state

    def bits(self) -> int:
        self.state = (self.state + GOLDEN) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def kept(self, chance: float) -> bool:
        return (self.bits() >> 40) / 2**24 < chance

    def radius(self, window: int) -> int:
        return 1 + ((self.bits() >> 32) * window >> 32)

    def negatives(self, count: int, alias: np.ndarray) -> list[int]:
        words = []
        while len(words) < count:
            bits = self.bits()
            for half in (bits >> 32, bits & 0xFFFFFFFF):
                place, low = divmod(half * len(alias), 1 << 32)
                words.append(place if low < alias[place, 0] else int(alias[place, 1]))
        return words[:count]


def sentences(block: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Where each sentence of a block begins, and its words with their gaps."""
    begins, words = 0, []
    for place, word in enumerate([*block.tolist(), END]):
        if word == END:
            yield begins, words
            begins, words = place + 1, []
        else:
            words.append(word)


def windows(words: list[int], window: int, draws: Draws) -> Iterator[tuple[int, list[int]]]:
    """Each center with the words around it."""
    for i, center in enumerate(words):
        r = draws.radius(window)
        yield center, words[max(0, i - r) : i] + words[i + 1 : i + r + 1]


def rows_of(center: int, objective: NegativeSampling | HuffmanTree, draws: Draws) -> list[tuple[int, int]]:
    """The rows with their labels that a center is learned by; a negative that is the center does not count."""
    if isinstance(objective, NegativeSampling):
        return [(center, 1)] + [(k, 0) for k in draws.negatives(objective.negatives, objective.alias) if k != center]
    first = int(objective.starts[center])
    return [(int(objective.nodes[first + j]), 1 - bit) for j, bit in enumerate(objective.code(center))]


def learned(x: np.ndarray, group: list[tuple[int, int]], u: np.ndarray, max_exp: float) -> tuple[np.ndarray, float]:
    """The slopes label − σ(uᵀx) of a group, none where the score is right by more than ``max_exp``, and its loss."""
    z = np.array([u[row] @ x for row, _ in group])
    labels = np.array([label for _, label in group])
    right = np.where(labels == 1, z, -z)
    return np.where(right > max_exp, 0, labels - 1 / (1 + np.exp(-z))), float(
        np.logaddexp(0, np.where(labels == 1, -z, z)).sum()
    )


def plain(
    method: str,
    blocks: np.ndarray,
    v: np.ndarray,
    u: np.ndarray,
    *,
    objective: NegativeSampling | HuffmanTree,
    keep: np.ndarray,
    states: np.ndarray,
    rates: tuple[float, float],
    window: int,
    average_gradient: bool = False,
    max_exp: float = math.inf,
) -> PassStats:
    """Skip-gram or CBOW word by word, in float64."""
    loss, pairs, tokens, kept = 0.0, 0, 0, 0
    share = objective.group_size if isinstance(objective, NegativeSampling) else 1
    for n, block in enumerate(blocks):
        draws = Draws(int(states[n]))
        for begins, words in sentences(block):
            eta = rates[0] + (rates[1] - rates[0]) * (n * len(block) + begins) / blocks.size
            stay = [w for w in words if w >= 0 and draws.kept(keep[w])]
            tokens, kept = tokens + len(words), kept + len(stay)
            for center, around in windows(stay, window, draws):
                if method == "skipgram":
                    for begin in range(0, len(around), share):
                        group, together = rows_of(center, objective, draws), around[begin : begin + share]
                        found = [learned(v[w], group, u, max_exp) for w in together]
                        for w, (slopes, one) in zip(together, found, strict=True):
                            x, loss = v[w].copy(), loss + one
                            for (row, _), slope in zip(group, slopes, strict=True):
                                v[w] += eta * slope * u[row]
                                u[row] += eta * slope * x
                    pairs += len(around)
                else:
                    group = rows_of(center, objective, draws)
                    if not around:
                        continue
                    mean = v[around].mean(0)
                    slopes, one = learned(mean, group, u, max_exp)
                    work = np.zeros_like(mean)
                    for (row, _), slope in zip(group, slopes, strict=True):
                        work += eta * slope * u[row]
                        u[row] += eta * slope * mean
                    for w in around:
                        v[w] += work / (len(around) if average_gradient else 1)
                    loss, pairs = loss + one, pairs + 1
    return PassStats(loss, pairs, tokens, kept)


def text(V: int, shape: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """Blocks of words, one in eight the end of a sentence and one in eight a gap."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, V, shape)
    what = draw.random(shape)
    return np.where(what < 0.125, END, np.where(what < 0.25, GAP, blocks)).astype(np.int32)


def tables(V: int, D: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    return (0.5 * draw.standard_normal((V, D))).astype(np.float32), (0.5 * draw.standard_normal((rows, D))).astype(
        np.float32
    )


def states(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 1 << 63, count).astype(np.uint64)


V, WIDE = 30, 21  # 21 = 2·8 + 4 + 1: every width of chunk
WEIGHTS = np.arange(1, V + 1)[::-1] ** 0.75
AGAINST = {
    "own": NegativeSampling(alias=build_alias_table(WEIGHTS), negatives=5),
    "shared": NegativeSampling(alias=build_alias_table(WEIGHTS), negatives=10, group_size=3),
    "one": NegativeSampling(alias=build_alias_table(WEIGHTS), negatives=1, group_size=99),
    "tree": build_huffman_tree(np.arange(1, V + 1) ** 3),
}
KEEP = np.linspace(0.5, 1, V).astype(np.float32)


@pytest.mark.parametrize("objective", AGAINST.values(), ids=AGAINST)
@pytest.mark.parametrize(("method", "average_gradient"), [("skipgram", False), ("cbow", False), ("cbow", True)])
def test_it_is_the_plain_form(method: str, objective: NegativeSampling | HuffmanTree, average_gradient: bool) -> None:
    blocks = text(V, (4, 50))
    v, u = tables(V, WIDE, V if isinstance(objective, NegativeSampling) else V - 1)
    wanted_v, wanted_u = v.astype(np.float64), u.astype(np.float64)
    options = {"objective": objective, "keep": KEEP, "states": states(4), "rates": (0.1, 0.02), "window": 4}
    options |= {"average_gradient": average_gradient} if method == "cbow" else {}
    got = getattr(word2vec, method)(blocks, v, u, threads=1, **options)
    wanted = plain(method, blocks, wanted_v, wanted_u, **options)
    assert (got.pairs, got.tokens, got.words) == (wanted.pairs, wanted.tokens, wanted.words)
    assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
    np.testing.assert_allclose(v, wanted_v, atol=1e-5)
    np.testing.assert_allclose(u, wanted_u, atol=1e-5)


@pytest.mark.parametrize("objective", [AGAINST["shared"], AGAINST["tree"]], ids=["noise", "tree"])
@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_scores_that_are_right_enough_are_left_alone(method: str, objective: NegativeSampling | HuffmanTree) -> None:
    """By the plain form again; half of the scores lie beyond ½, on either side."""
    blocks, options = (
        text(V, (3, 40)),
        {"objective": objective, "keep": KEEP, "states": states(3), "rates": (0.1, 0.1), "window": 3},
    )
    found = {}
    for max_exp in (0.5, math.inf):
        v, u = tables(V, WIDE, V if isinstance(objective, NegativeSampling) else V - 1)
        wanted_v, wanted_u = v.astype(np.float64), u.astype(np.float64)
        got = getattr(word2vec, method)(blocks, v, u, threads=1, max_exp=max_exp, **options)
        wanted = plain(method, blocks, wanted_v, wanted_u, max_exp=max_exp, **options)
        assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
        np.testing.assert_allclose(v, wanted_v, atol=1e-5)
        np.testing.assert_allclose(u, wanted_u, atol=1e-5)
        found[max_exp] = v
    assert np.abs(found[0.5] - found[math.inf]).max() > 1e-2


@pytest.mark.parametrize("objective", [AGAINST["own"], AGAINST["tree"]], ids=["noise", "tree"])
@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_a_small_step_is_the_gradient_of_e30(method: str, objective: NegativeSampling | HuffmanTree) -> None:
    """Two words make a window each way; the step over the rate is minus what autograd finds for the summed loss."""
    rate, rows = 2.0**-7, V if isinstance(objective, NegativeSampling) else V - 1
    v, u = (0.1 * table for table in tables(V, WIDE, rows))
    before_v, before_u = (torch.from_numpy(table.astype(np.float64)).requires_grad_() for table in (v, u))
    block = np.array([[4, 17, 9, END]], dtype=np.int32)
    start = states(1)
    options = {"average_gradient": True} if method == "cbow" else {}
    call = {
        "objective": objective,
        "keep": np.ones(V, np.float32),
        "states": start,
        "rates": (rate, rate),
        "window": 2,
        "threads": 1,
    }
    got = getattr(word2vec, method)(block, v, u, **call, **options)
    draws = Draws(int(start[0]))
    for _ in range(3):
        draws.kept(1.0)
    loss = torch.zeros((), dtype=torch.float64)
    for center, around in windows([4, 17, 9], 2, draws):
        for one in [[w] for w in around] if method == "skipgram" else [around]:
            x = before_v[one].mean(0, keepdim=True)
            group = rows_of(center, objective, draws)
            path, signs = (
                torch.tensor([[row for row, _ in group]]),
                torch.tensor([[float(label) for _, label in group]]),
            )
            if isinstance(objective, NegativeSampling):
                negatives = path[:, 1:]
                if method == "skipgram":
                    pair = E30.skipgram_loss(before_v, before_u, torch.tensor(one), path[:, 0], negatives)
                else:
                    pair = E30.cbow_loss(before_v, before_u, torch.tensor([one]), path[:, 0], negatives)
                loss = loss + pair.sum()
            else:
                loss = loss + E30.hierarchical_softmax_loss(x, before_u, path, signs).sum()
    loss.backward()
    assert got.loss == pytest.approx(float(loss.detach()), rel=2e-3)
    for table, before in ((v, before_v), (u, before_u)):
        assert before.grad is not None
        moved = (torch.from_numpy(table).double() - before.detach()) / rate
        assert (moved + before.grad).norm() < 0.02 * before.grad.norm()


WORDS = st.lists(st.sampled_from([0, 1, 2, 3, END, GAP]), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None)
@given(WORDS, st.integers(1, 3))
def test_windows_close_over_gaps_and_stop_at_ends(words: list[int], window: int) -> None:
    """Gaps can be left out without a difference, and each sentence can stand in a block of its own."""
    objective = NegativeSampling(alias=build_alias_table(np.ones(4)), negatives=2)
    counted = []
    without = [w for w in words if w != GAP]
    for tokens in (words, without):
        v, u = tables(4, 4, 4)
        got = word2vec.skipgram(
            np.array([tokens or [END]], dtype=np.int32),
            v,
            u,
            objective=objective,
            keep=np.ones(4, np.float32),
            states=states(1),
            rates=(0.1, 0.1),
            window=window,
            threads=1,
        )
        counted.append((got.loss, got.pairs, got.words, v.tobytes(), u.tobytes()))
    assert counted[0] == counted[1]
    draws, pairs = Draws(int(states(1)[0])), 0
    for _, sentence in sentences(np.array(without or [END])):
        for _ in sentence:
            draws.kept(1.0)
        for _, around in windows(sentence, window, draws):
            pairs += len(around)
            for _ in around:
                draws.negatives(2, objective.alias)
    assert counted[0][1] == pairs


def test_threads_on_words_of_their_own_are_one_thread() -> None:
    """Two blocks that share no word; the negatives both draw score about −100, which is beyond max_exp. In either
    order, the same bits."""
    half, D = 10, 12
    first, second = text(half, (1, 60)), text(half, (1, 60), seed=3)
    blocks = np.concatenate([first, np.where(second >= 0, second + half, second)]).astype(np.int32)
    objective = NegativeSampling(alias=build_alias_table(np.r_[np.full(2 * half, 1e-12), 1.0, 1.0]), negatives=3)
    found = []
    for threads in (1, 2):
        v, u = tables(22, D, 22)
        v[:, -1], u[:20, -1], u[20:] = 10, 0, 0
        u[20:, -1] = -10
        before = (v.copy(), u.copy())
        call = {
            "keep": np.ones(22, np.float32),
            "states": states(2),
            "rates": (0.01, 0.01),
            "window": 2,
            "max_exp": 6.0,
        }
        got = word2vec.skipgram(blocks, v, u, objective=objective, threads=threads, **call)
        assert np.array_equal(u[20:], before[1][20:])
        found.append((v - before[0], u - before[1], got))
    for one, two in zip(found[0][:2], found[1][:2], strict=True):
        assert np.abs(one).max() > 1e-2
        np.testing.assert_array_equal(one, two)
    assert found[0][2].pairs == found[1][2].pairs
    assert found[0][2].loss == pytest.approx(found[1][2].loss, rel=1e-4)


def test_negatives_are_drawn_by_their_weights() -> None:
    """All of a large number of draws, told by what moved: a center's row is 0, so only negatives' rows move, once
    each."""
    weights = np.array([40.0, 1.0, 10.0, 25.0, 4.0, 20.0])
    draws = Draws(7)
    counts = np.bincount(draws.negatives(60_000, build_alias_table(weights)), minlength=6)
    assert stats.chisquare(counts, weights / weights.sum() * counts.sum()).pvalue > 0.01


def test_an_alias_table_holds_its_weights() -> None:
    weights = np.random.default_rng(0).random(1000) ** 4
    table = build_alias_table(weights).astype(np.float64)
    share = np.zeros(1000)
    np.add.at(share, np.arange(1000), table[:, 0] / 2**32)
    np.add.at(share, table[:, 1].astype(int), 1 - table[:, 0] / 2**32)
    np.testing.assert_allclose(share / 1000, weights / weights.sum(), atol=1e-9)


def test_subsampling_keeps_what_the_formula_says() -> None:
    counts = np.array([500_000, 30_000, 4_000, 40])
    keep = compute_keep_probabilities(counts, 1e-3)
    f = counts / counts.sum()
    np.testing.assert_allclose(keep, np.minimum(1, np.sqrt(1e-3 / f) + 1e-3 / f), rtol=1e-6)
    assert (compute_keep_probabilities(counts, 0) == 1).all()
    blocks = np.tile(np.array([0, END, 1, END], dtype=np.int32), (50, 200))
    v, u = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    objective = NegativeSampling(alias=build_alias_table(np.ones(4)), negatives=1)
    got = word2vec.skipgram(
        blocks, v, u, objective=objective, keep=keep, states=states(50), rates=(0.1, 0.1), window=1, threads=1
    )
    each, expected = 50 * 100 * 2, 0.0
    variance = 0.0
    for chance in (float(keep[0]), float(keep[1])):
        expected, variance = expected + each * chance, variance + each * chance * (1 - chance)
    assert abs(got.words - expected) < 4 * math.sqrt(variance)
    assert got.tokens == 2 * each


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vectors", {"vectors": np.zeros((4, 3), np.float64)}),
        ("context", {"context": np.zeros((3, 3), np.float32)}),
        ("keep", {"keep": np.ones(5, np.float32)}),
        ("states", {"states": np.zeros(2, np.uint64)}),
        ("without a vector", {"blocks": np.full((1, 4), 4, np.int32)}),
        ("alias", {"objective": NegativeSampling(alias=build_alias_table(np.ones(5)))}),
        ("tree", {"objective": build_huffman_tree(np.ones(7)), "context": np.zeros((3, 3), np.float32)}),
        ("window", {"window": 0}),
        ("negatives", {"objective": NegativeSampling(alias=build_alias_table(np.ones(4)), negatives=0)}),
    ],
)
def test_what_it_cannot_read_is_refused(name: str, change: dict[str, object]) -> None:
    call: dict[str, object] = {
        "blocks": np.zeros((1, 4), np.int32),
        "vectors": np.zeros((4, 3), np.float32),
        "context": np.zeros((4, 3), np.float32),
        "objective": NegativeSampling(alias=build_alias_table(np.ones(4))),
        "keep": np.ones(4, np.float32),
        "states": np.zeros(1, np.uint64),
        "rates": (0.1, 0.1),
    }
    call |= change
    blocks, vectors, context = (call.pop(n) for n in ("blocks", "vectors", "context"))
    with pytest.raises(UsageError, match=name):
        word2vec.skipgram(blocks, vectors, context, **call)  # type: ignore[arg-type]
