"""The Huffman tree over a vocabulary, for hierarchical softmax: each word's path of inner nodes, as flat arrays.

Shapes: ``V`` words, V − 1 inner nodes. Sources: Huffman, A method for the construction of minimum-redundancy codes
(1952); Morin and Bengio, Hierarchical probabilistic neural network language model (2005). Two pointers over sorted
counts, as in Mikolov's C program, ties included, so the codes are the same bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import UsageError
from layerwise.kernels.jit import compile_kernel
from layerwise.kernels.text.simd_rows import TILE

Numbers = NDArray[np.int64]


class HuffmanTree(NamedTuple):
    """The words' paths from the root down; that of word w is entries starts[w] … starts[w] + lengths[w] − 1.

    ``nodes`` (S,) int32 are inner nodes (the root is V − 2), ``signs`` (S,) float32 the labels there: 1 − the bit of
    the code. Each path is padded to a multiple of `TILE` entries, with the label −1, so that the compiled loops read
    complete tiles.
    """

    nodes: NDArray[np.int32]
    signs: NDArray[np.float32]
    starts: Numbers
    lengths: Numbers

    def code(self, word: int) -> list[int]:
        """Return the bits of a word's code."""
        first = int(self.starts[word])
        return [int(1 - sign) for sign in self.signs[first : first + int(self.lengths[word])]]


@compile_kernel
def _merge_nodes(counts: Numbers, parents: Numbers, bits: NDArray[np.int8]) -> None:
    """Merge the two rarest nodes until one is left; ``counts`` are in descending order. Of equals an inner node comes
    before a leaf."""
    size = len(counts)
    weights = np.full(2 * size, np.int64(1) << np.int64(62), dtype=np.int64)
    weights[:size] = counts
    leaf, inner = size - 1, size
    for parent in range(size, 2 * size - 1):
        total = np.int64(0)
        for bit in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                node = leaf
                leaf -= 1
            else:
                node = inner
                inner += 1
            parents[node], bits[node] = parent, bit
            total += weights[node]
        weights[parent] = total


@compile_kernel
def _trace_paths(
    parents: Numbers,
    bits: NDArray[np.int8],
    order: Numbers,
    starts: Numbers,
    lengths: Numbers,
    nodes: NDArray[np.int32],
    signs: NDArray[np.float32],
) -> int:
    """Write each word's path, or with empty ``nodes`` only its length and start. Return how many entries all paths
    take."""
    size, root, position = len(order), 2 * len(order) - 2, np.int64(0)
    for rank in range(size):
        word, node, length = order[rank], np.int64(rank), np.int64(0)
        while node != root:
            node = parents[node]
            length += 1
        starts[word], lengths[word] = position, length
        node = np.int64(rank)
        if len(nodes) > 0:
            for k in range(position + length - 1, position - 1, -1):
                signs[k] = np.float32(1 - bits[node])
                node = parents[node]
                nodes[k] = node - size
        position += (length + TILE - 1) // TILE * TILE
    return int(position)


def build_huffman_tree(counts: NDArray[Any]) -> HuffmanTree:
    """Return the Huffman tree of words with these counts (V,), in any order; V ≥ 2.

    Raises:
        UsageError: for fewer than two words, which need no tree.
    """
    size = len(counts)
    if size < 2:
        raise UsageError("a Huffman tree needs words to tell apart", expected="two words or more", received=str(size))
    order = np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable").astype(np.int64)
    parents, bits = np.zeros(2 * size, dtype=np.int64), np.zeros(2 * size, dtype=np.int8)
    _merge_nodes(np.asarray(counts, dtype=np.int64)[order], parents, bits)
    starts, lengths = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    nodes, signs = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
    total = _trace_paths(parents, bits, order, starts, lengths, nodes, signs)
    nodes, signs = np.zeros(total, dtype=np.int32), np.full(total, -1.0, dtype=np.float32)
    _trace_paths(parents, bits, order, starts, lengths, nodes, signs)
    return HuffmanTree(nodes, signs, starts, lengths)
