"""How likely held-out windows are under the objective of word2vec (E30), without chance in the windows.

Training draws each window's size from 1 … w and its negatives from P. Here the expectation over the sizes is taken
exactly, and that over the negatives over one large sample, the same for every model: so the figures of two models, or
of two epochs, may be compared.
Shape letters: ``N`` blocks, ``L`` tokens each, ``M`` words in them, ``V`` words, ``O`` rows of outputs, ``D``
    dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

PIECE = 64  # vectors at a time: their scores of a thousand negatives, a quarter of a MB, stay in the cache
PAIRS = 1024  # at a time: the rows of a pair's words, likewise


class Score(NamedTuple):
    """A log-likelihood in two parts that add up: that of vectors (M, D) and the words they are to predict (M,), and
    that of vectors alone.

    Whoever asks with the same vector many times needs the second only once. Both return (M,).
    """

    pair: Callable[[Tensor, Tensor], Tensor]
    alone: Callable[[Tensor], Tensor]


class Sentences(NamedTuple):
    """The words of some blocks: their numbers ``ids`` (M,), the ``sentence`` (M,) and the ``block`` (M,) in which each
    stands."""

    ids: Tensor
    sentence: Tensor
    block: Tensor


def sentences(blocks: Tensor, *, end: int = -1) -> Sentences:
    """Return the words of blocks (N, L); ``end`` closes a sentence, as a block does, and other negative numbers are
    left out."""
    count, length = blocks.shape
    flat = blocks.reshape(-1).long()
    block = torch.arange(count, device=flat.device).repeat_interleave(length)
    number = (flat == end).cumsum(0) + block  # grows at each end and at each block's border
    kept = flat >= 0
    return Sentences(flat[kept], number[kept], block[kept])


def sampled(outputs: Tensor, negatives: Tensor, *, count: int) -> Score:
    """Return E30's score with ``count`` negatives: log σ(u_oᵀ v) + count · mean over the ``negatives`` (S,) of log
    σ(−u_nᵀ v)."""
    noise = outputs[negatives]  # (S, D)

    def pair(v: Tensor, words: Tensor) -> Tensor:
        return logsigmoid((outputs.index_select(0, words) * v).sum(1))

    def alone(v: Tensor) -> Tensor:
        return count * torch.cat([logsigmoid(-part @ noise.T).mean(1) for part in v.split(PIECE)])

    return Score(pair, alone)


def hierarchical(outputs: Tensor, nodes: Tensor, signs: Tensor) -> Score:
    """Return the score of a tree: Σ log σ(s uₙᵀ v) over a word's path; ``nodes`` and ``signs`` are (V, longest), sign 0
    beyond its end."""

    def pair(v: Tensor, words: Tensor) -> Tensor:
        sign = signs[words].to(v.dtype)
        along = torch.einsum("mpd,md->mp", outputs[nodes[words]], v)
        return (logsigmoid(sign * along) * sign.abs()).sum(1)

    return Score(pair, lambda v: v.new_zeros(len(v)))


def skipgram(found: Sentences, vectors: Tensor, score: Score, *, window: int, blocks: int) -> Tensor:
    """Return each block's expected log-likelihood over pairs, and their expected number, (blocks, 2) float64.

    A pair at distance o stands in a window with probability (w − o + 1) / w.
    """
    out = torch.zeros(blocks, 2, dtype=torch.float64, device=vectors.device)
    words, place = found.ids.unique(return_inverse=True)
    alone = torch.cat([score.alone(vectors.index_select(0, part)) for part in words.split(PAIRS)])
    for offset in range(1, window + 1):
        share = (window - offset + 1) / window
        for first in range(0, max(0, len(found.ids) - offset), PAIRS):
            a = torch.arange(first, min(first + PAIRS, len(found.ids) - offset), device=vectors.device)
            a = a[found.sentence[a] == found.sentence[a + offset]]
            for of, by in ((a, a + offset), (a + offset, a)):
                gain = score.pair(vectors.index_select(0, found.ids[by]), found.ids[of]).double() + alone[place[by]]
                _gather(out, found.block[of], gain, share)
    return out


def pooled(found: Sentences, vectors: Tensor, score: Score, *, window: int, blocks: int) -> Tensor:
    """Return each block's expected log-likelihood over windows whose mean predicts the middle, and their number,
    (blocks, 2) float64."""
    out = torch.zeros(blocks, 2, dtype=torch.float64, device=vectors.device)
    total = len(found.ids)
    for first in range(0, total, PAIRS):
        middle = torch.arange(first, min(first + PAIRS, total), device=vectors.device)
        mean = vectors.new_zeros(len(middle), vectors.shape[1])
        count = vectors.new_zeros(len(middle), 1)
        for size in range(1, window + 1):
            for step in (-size, size):
                other = (middle + step).clamp(0, total - 1)
                inside = (middle + step == other) & (found.sentence[other] == found.sentence[middle])
                mean = mean + vectors.index_select(0, found.ids[other]) * inside.unsqueeze(1)
                count = count + inside.unsqueeze(1)
            some = count.squeeze(1) > 0
            v = mean[some] / count[some]
            gain = score.pair(v, found.ids[middle[some]]).double() + score.alone(v)
            _gather(out, found.block[middle[some]], gain, 1 / window)
    return out


def _gather(out: Tensor, blocks: Tensor, gain: Tensor, share: float) -> None:
    """Add gains (K,) and their number, times a share, to the blocks (K,) in which they are."""
    both = torch.stack([gain, torch.ones_like(gain)], 1) * share
    out.index_add_(0, blocks, both)
