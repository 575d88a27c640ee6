"""The Huffman tree against a heap, and against what codes must be."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from layerwise.errors import UsageError
from layerwise.kernels.text.huffman import build_huffman_tree


def total_bits(counts: list[int]) -> int:
    """Σ count · length of an optimal code: what a heap joins, summed."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


@pytest.mark.parametrize(
    "counts", [[5, 9], [1, 1, 1], [1] * 16, [7, 100, 3, 3, 1, 50, 2], [2**k for k in range(20)], list(range(1, 400))]
)
def test_codes_are_as_short_as_a_heap_makes_them_and_free_of_prefixes(counts: list[int]) -> None:
    tree = build_huffman_tree(np.array(counts))
    assert int(tree.lengths @ np.array(counts)) == total_bits(counts)
    codes = ["".join(map(str, tree.code(w))) for w in range(len(counts))]
    assert sum(2.0 ** -len(code) for code in codes) == 1.0  # Kraft: the tree is full
    for one, two in zip(sorted(codes), sorted(codes)[1:], strict=False):
        assert not two.startswith(one)


def test_the_path_is_that_of_the_code() -> None:
    """Words whose codes begin alike meet the same nodes so far, from the root on, and other nodes behind."""
    counts = np.array([3, 8, 1, 40, 22, 9, 9])
    tree = build_huffman_tree(counts)
    seen: dict[tuple[int, ...], int] = {}
    for w in range(len(counts)):
        code, first = tree.code(w), int(tree.starts[w])
        for depth in range(len(code)):
            node = int(tree.nodes[first + depth])
            assert seen.setdefault(tuple(code[:depth]), node) == node
    assert seen[()] == len(counts) - 2
    assert sorted(seen.values()) == list(range(len(counts) - 1))


def test_of_equals_the_c_program_takes_the_inner_node() -> None:
    """Counts 2, 1, 1: the joined pair (2) is taken first, so it has bit 0 and the leaf bit 1."""
    assert [build_huffman_tree(np.array([2, 1, 1])).code(w) for w in range(3)] == [[1], [0, 1], [0, 0]]


def test_one_word_needs_no_tree() -> None:
    with pytest.raises(UsageError, match="two words or more"):
        build_huffman_tree(np.array([4]))
