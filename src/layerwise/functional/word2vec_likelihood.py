"""The likelihood of held-out windows under the objective of word2vec (E30), without sampled windows.

Training draws each window's size from 1 … w and its negatives from P. Here the expectation over the sizes is exact, and
that over the negatives uses one large sample, the same for every model, so that the metrics of two models or two epochs
are comparable.

Shape letters: ``N`` blocks, ``L`` tokens each, ``M`` words in them, ``V`` words, ``O`` rows of outputs, ``D``
dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

PIECE = 64  # vectors at a time: their scores with a thousand negatives, a quarter of a MB, stay in the cache
PAIRS = 1024  # at a time: the rows of a pair's words, likewise


class WindowScore(NamedTuple):
    """A log-likelihood as a sum of two terms: one of vectors (M, D) and the words that they predict (M,), and one of
    the vectors alone, which is needed once for each vector.

    Both return (M,).
    """

    pair: Callable[[Tensor, Tensor], Tensor]
    alone: Callable[[Tensor], Tensor]


class Sentences(NamedTuple):
    """The words of some blocks: their numbers ``ids`` (M,), and the ``sentence`` (M,) and the ``block`` (M,) of
    each."""

    ids: Tensor
    sentence: Tensor
    block: Tensor


def split_sentences(blocks: Tensor, *, end: int = -1) -> Sentences:
    """Return the words of blocks (N, L); ``end`` ends a sentence, as does the end of a block; other negative numbers
    are left out."""
    count, length = blocks.shape
    flat = blocks.reshape(-1).long()
    block = torch.arange(count, device=flat.device).repeat_interleave(length)
    number = (flat == end).cumsum(0) + block  # grows at each end and at each block's border
    is_word = flat >= 0
    return Sentences(flat[is_word], number[is_word], block[is_word])


def score_negative_sampling(outputs: Tensor, negatives: Tensor, *, count: int) -> WindowScore:
    """Return E30's score with ``count`` negatives: log σ(u_oᵀ v) + count · mean over the ``negatives`` (S,) of log
    σ(−u_nᵀ v)."""
    noise = outputs[negatives]  # (S, D)

    def pair(v: Tensor, words: Tensor) -> Tensor:
        return logsigmoid((outputs.index_select(0, words) * v).sum(1))

    def alone(v: Tensor) -> Tensor:
        return count * torch.cat([logsigmoid(-part @ noise.T).mean(1) for part in v.split(PIECE)])

    return WindowScore(pair, alone)


def score_hierarchical_softmax(outputs: Tensor, nodes: Tensor, signs: Tensor) -> WindowScore:
    """Return the score of a tree: Σ log σ(s uₙᵀ v) over a word's path; ``nodes`` and ``signs`` are (V, longest), sign 0
    beyond its end."""

    def pair(v: Tensor, words: Tensor) -> Tensor:
        sign = signs[words].to(v.dtype)
        along = torch.einsum("mpd,md->mp", outputs[nodes[words]], v)
        return (logsigmoid(sign * along) * sign.abs()).sum(1)

    return WindowScore(pair, lambda v: v.new_zeros(len(v)))


def skipgram_log_likelihood(
    sentences: Sentences, vectors: Tensor, score: WindowScore, *, window: int, blocks: int
) -> Tensor:
    """Return each block's expected log-likelihood over pairs, and their expected number, (blocks, 2) float64.

    A pair at distance o stands in a window with probability (w − o + 1) / w.
    """
    out = torch.zeros(blocks, 2, dtype=torch.float64, device=vectors.device)
    words, index = sentences.ids.unique(return_inverse=True)
    alone = torch.cat([score.alone(vectors.index_select(0, part)) for part in words.split(PAIRS)])
    for offset in range(1, window + 1):
        share = (window - offset + 1) / window
        for first in range(0, max(0, len(sentences.ids) - offset), PAIRS):
            a = torch.arange(first, min(first + PAIRS, len(sentences.ids) - offset), device=vectors.device)
            a = a[sentences.sentence[a] == sentences.sentence[a + offset]]
            for of, by in ((a, a + offset), (a + offset, a)):
                gain = (
                    score.pair(vectors.index_select(0, sentences.ids[by]), sentences.ids[of]).double()
                    + alone[index[by]]
                )
                _accumulate(out, sentences.block[of], gain, share)
    return out


def cbow_log_likelihood(
    sentences: Sentences, vectors: Tensor, score: WindowScore, *, window: int, blocks: int
) -> Tensor:
    """Return each block's expected log-likelihood over windows whose mean predicts the middle, and their number,
    (blocks, 2) float64."""
    out = torch.zeros(blocks, 2, dtype=torch.float64, device=vectors.device)
    total = len(sentences.ids)
    for first in range(0, total, PAIRS):
        middle = torch.arange(first, min(first + PAIRS, total), device=vectors.device)
        mean = vectors.new_zeros(len(middle), vectors.shape[1])
        count = vectors.new_zeros(len(middle), 1)
        for size in range(1, window + 1):
            for step in (-size, size):
                other = (middle + step).clamp(0, total - 1)
                inside = (middle + step == other) & (sentences.sentence[other] == sentences.sentence[middle])
                mean = mean + vectors.index_select(0, sentences.ids[other]) * inside.unsqueeze(1)
                count = count + inside.unsqueeze(1)
            some = count.squeeze(1) > 0
            v = mean[some] / count[some]
            gain = score.pair(v, sentences.ids[middle[some]]).double() + score.alone(v)
            _accumulate(out, sentences.block[middle[some]], gain, 1 / window)
    return out


def _accumulate(out: Tensor, blocks: Tensor, gain: Tensor, share: float) -> None:
    """Add gains (K,) and their number, times a share, to their blocks (K,)."""
    both = torch.stack([gain, torch.ones_like(gain)], 1) * share
    out.index_add_(0, blocks, both)
