"""word2vec over blocks of tokens: skip-gram and CBOW, each with negative sampling or hierarchical softmax, in place
(E30).

Shapes: ``N`` blocks of ``L`` tokens, ``V`` words, ``D`` dimensions, ``K`` negatives. The blocks are split over Python
threads (the loops release the GIL), which change the tables without locks: with one thread the result depends only on
the arguments; with several it also depends on their timing where they change the same row. The draws depend only on the
blocks' states.

Sources: Mikolov et al., Efficient estimation of word representations in vector space, and Distributed representations
of words and phrases and their compositionality (both 2013); Niu et al., Hogwild! (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.errors import UsageError
from layerwise.kernels.parallel import run_parts, split_range
from layerwise.kernels.text.huffman import HuffmanTree
from layerwise.kernels.text.word2vec_loops import Alias, Floats, States, Tokens, run_cbow, run_skipgram

NO_TREE = HuffmanTree(np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))


@dataclass(frozen=True, kw_only=True)
class NegativeSampling:
    """Negative sampling: ``negatives`` words drawn from an alias table (V, 2) of `sampling.build_alias_table`.

    ``group_size`` contexts of a window share their negatives: 1 draws new ones for every pair, as word2vec does. CBOW
    has one pair a window.
    """

    alias: Alias
    negatives: int = 5
    group_size: int = 1


@dataclass(frozen=True)
class PassStats:
    """Totals of a call: the −log likelihood, and the numbers of pairs (CBOW: windows), of tokens, and of words after
    subsampling."""

    loss: float
    pairs: int
    tokens: int
    words: int


def skipgram(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    *,
    objective: NegativeSampling | HuffmanTree,
    keep: Floats,
    states: States,
    rates: tuple[float, float],
    window: int = 5,
    max_exp: float = math.inf,
    threads: int | None = None,
    pool: Executor | None = None,
) -> PassStats:
    """Learn each center word from each word around it, in place: the context word's vector scores the center's rows
    (E30).

    All scores of a window are computed before it changes a row. The radius of each window is drawn from 1 … ``window``.

    Args:
        blocks: tokens (N, L) int32, C-contiguous: words ≥ 0, END ends a sentence, windows close over GAP.
        vectors: (V, D) float32, changed in place; rows may be further apart than D.
        context: (V, D) float32, changed in place; with a tree (V − 1, D), a row for each inner node.
        objective: `NegativeSampling`, or a `HuffmanTree` for hierarchical softmax.
        keep: the probability (V,) float32 that an occurrence stays, from `sampling.compute_keep_probabilities`.
        states: the random state of each block (N,) uint64.
        rates: η at the batch's first token and after its last one, linear in between.
        window: the largest radius.
        max_exp: a score on its label's side by more than this changes nothing, as in word2vec's programs, whose tables
            of σ end at ±6 (MAX_EXP); infinite: E30's gradient everywhere.
        threads: into how many parts the blocks are split; torch's number of threads if None.
        pool: an executor with ``threads − 1`` threads (the calling thread works too); created for the call if None.

    Raises:
        UsageError: for arrays that the compiled loop would read wrongly.
    """
    share = min(objective.group_size, 2 * window) if isinstance(objective, NegativeSampling) else 1
    return _run(
        run_skipgram, blocks, vectors, context, objective, share, keep, states, rates, window, max_exp, threads, pool
    )


def cbow(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    *,
    objective: NegativeSampling | HuffmanTree,
    keep: Floats,
    states: States,
    rates: tuple[float, float],
    window: int = 5,
    max_exp: float = math.inf,
    average_gradient: bool = False,
    threads: int | None = None,
    pool: Executor | None = None,
) -> PassStats:
    """Learn each center word from the mean of the vectors around it, in place (E30). Arguments as of `skipgram`.

    Args:
        average_gradient: each context word gets 1/n of the gradient of the mean of n words, the exact derivative. By
            default each gets all of it (a step n times as long), as in word2vec's programs. See Irsoy, Benton, Stratos
            (2021).
    """
    return _run(
        run_cbow,
        blocks,
        vectors,
        context,
        objective,
        average_gradient,
        keep,
        states,
        rates,
        window,
        max_exp,
        threads,
        pool,
    )


def _run(
    loop: Callable[..., None],
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    objective: NegativeSampling | HuffmanTree,
    option: int | bool,
    keep: Floats,
    states: States,
    rates: tuple[float, float],
    window: int,
    max_exp: float,
    threads: int | None,
    pool: Executor | None,
) -> PassStats:
    """Run a loop over contiguous parts of the batch, each part on its own thread."""
    noise, tree = (
        (objective, NO_TREE)
        if isinstance(objective, NegativeSampling)
        else (NegativeSampling(alias=np.zeros((1, 2), np.uint32), negatives=0), objective)
    )
    _check(blocks, vectors, context, objective, option, keep, states, window)
    slope = (rates[1] - rates[0]) / max(1, blocks.size)
    parts_wanted = torch.get_num_threads() if threads is None else threads
    parts = max(1, min(parts_wanted, len(blocks)))

    def run(first: int, last: int) -> NDArray[np.float64]:
        sums = np.zeros(4)
        loop(
            blocks,
            first,
            last,
            vectors,
            context,
            keep,
            noise.alias,
            tree.nodes,
            tree.signs,
            tree.starts,
            tree.lengths,
            states,
            float(rates[0]),
            float(slope),
            window,
            noise.negatives,
            option,
            np.float32(max_exp),
            sums,
        )
        return sums

    loss, pairs, tokens, words = np.sum(run_parts(run, split_range(len(blocks), parts), pool), axis=0)
    return PassStats(float(loss), int(pairs), int(tokens), int(words))


def _check(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    objective: NegativeSampling | HuffmanTree,
    option: int | bool,
    keep: Floats,
    states: States,
    window: int,
) -> None:
    """Raise `UsageError` for arrays of wrong shape, type or layout: the compiled loop checks no bounds."""
    words, width = vectors.shape if vectors.ndim == 2 else (-1, -1)
    rows = words if isinstance(objective, NegativeSampling) else words - 1
    checks: dict[str, tuple[Any, str, tuple[int, ...]]] = {
        "vectors": (vectors, "float32", (words, width)),
        "context": (context, "float32", (rows, width)),
        "keep": (keep, "float32", (words,)),
        "states": (states, "uint64", (len(blocks),)),
        "blocks": (blocks, "int32", (len(blocks), blocks.shape[-1])),
    }
    if isinstance(objective, NegativeSampling):
        checks["the alias table"] = (objective.alias, "uint32", (words, 2))
    else:
        checks["the tree"] = (objective.starts, "int64", (words,))
    for name, (array, dtype, shape) in checks.items():
        dense = array.strides[-1] == array.itemsize and (name in ("vectors", "context") or array.flags.c_contiguous)
        if array.shape != shape or str(array.dtype) != dtype or not dense:
            raise UsageError(
                f"word2vec's kernel cannot take {name}",
                expected=f"a dense array {shape} of {dtype}",
                received=f"an array {array.shape} of {array.dtype}, strides {array.strides}",
            )
    if window < 1 or (
        isinstance(objective, NegativeSampling) and (objective.negatives < 1 or option < (not isinstance(option, bool)))
    ):
        raise UsageError(
            "word2vec needs a window, and negatives to tell a word from",
            expected="each at least 1",
            received="0 or less",
        )
    if blocks.size and int(blocks.max()) >= words:
        raise UsageError(
            "a block has a word without a vector", expected=f"words below {words}", received=str(int(blocks.max()))
        )
