"""E30 against loops in plain numbers, and the tree's probabilities against what probabilities must be."""

from __future__ import annotations

import math

import numpy as np
import torch

from layerwise.functional import word_vectors as F
from layerwise.kernels.text.huffman import build_huffman_tree


def log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z))


def tables(V: int, D: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    vectors, context = (torch.randn(V, D, generator=draw, dtype=torch.float64) for _ in range(2))
    return vectors, context


def test_skipgram_is_the_sum_of_log_sigmoids() -> None:
    vectors, context = tables(7, 4)
    center, positive, negatives = [0, 3], [2, 6], [[1, 1, 5], [0, 4, 2]]
    got = F.skipgram_loss(vectors, context, torch.tensor(center), torch.tensor(positive), torch.tensor(negatives))
    for n in range(2):
        v = vectors[center[n]]
        wanted = log_sigmoid(float(context[positive[n]] @ v)) + sum(
            log_sigmoid(-float(context[k] @ v)) for k in negatives[n]
        )
        assert math.isclose(float(got[n]), -wanted, rel_tol=1e-12)


def test_cbow_scores_with_the_mean_of_the_words_that_are_there() -> None:
    vectors, context = tables(7, 4)
    got = F.cbow_loss(
        vectors, context, torch.tensor([[4, 4, 1], [2, -1, -1]]), torch.tensor([0, 3]), torch.tensor([[5], [6]])
    )
    means = [(2 * vectors[4] + vectors[1]) / 3, vectors[2]]
    for n, (v, o, k) in enumerate(zip(means, (0, 3), (5, 6), strict=True)):
        wanted = log_sigmoid(float(context[o] @ v)) + log_sigmoid(-float(context[k] @ v))
        assert math.isclose(float(got[n]), -wanted, rel_tol=1e-12)
    assert F.mean_vector(vectors, torch.tensor([[-1, -1]])).abs().max() == 0


def test_scores_of_any_size_do_not_overflow() -> None:
    big = torch.full((1, 2), 1e4)
    assert float(F.negative_sampling_loss(big, -big, big[None])[0]) == 4e8
    assert float(F.negative_sampling_loss(big, big, -big[None])[0]) == 0


def test_the_tree_gives_probabilities() -> None:
    """Over all words p(w | v) adds up to 1, whatever the vectors are."""
    V, D = 9, 5
    vectors, nodes = tables(V, D)
    tree = build_huffman_tree(np.arange(1, V + 1) ** 2)
    path, signs = (torch.from_numpy(a) for a in padded(tree))
    for v in vectors[:3]:
        loss = F.hierarchical_softmax_loss(v.expand(V, D), nodes[: V - 1], path, signs.double())
        assert math.isclose(float(torch.exp(-loss).sum()), 1.0, rel_tol=1e-12)


def padded(tree: object) -> tuple[np.ndarray, np.ndarray]:
    """A tree's paths as a table (V, S), signs −1 behind each end."""
    nodes, signs, starts, lengths = tree  # type: ignore[misc]
    path = np.zeros((len(starts), int(lengths.max())), dtype=np.int64)
    labels = np.full(path.shape, -1.0)
    for w, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        path[w, :length], labels[w, :length] = nodes[start : start + length], signs[start : start + length]
    return path, labels
