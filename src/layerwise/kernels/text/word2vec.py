"""word2vec over blocks of tokens: skip-gram and CBOW, each with negative sampling or hierarchical softmax, in place
(E30).

Shapes: ``N`` blocks of ``L`` tokens, ``V`` words, ``D`` dimensions, ``K`` negatives. Rows of the batch are split over
Python threads (the loops release the GIL), which change the tables without locks: with one thread the result depends on
nothing but the arguments, with several also on their timing where they meet in a row. The draws depend on the blocks'
states alone.

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
from layerwise.kernels.text.huffman import Tree
from layerwise.kernels.text.windows import Alias, Floats, States, Tokens, run_cbow, run_skipgram
from layerwise.kernels.threads import edges_of, over_parts

WITHOUT = Tree(np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Negative sampling: ``negatives`` words drawn from an alias table (V, 2) of `sampling.alias_table`.

    ``share`` contexts of a window have the same negatives: 1 draws for every pair, as word2vec does; CBOW has one pair
    a window.
    """

    alias: Alias
    negatives: int = 5
    share: int = 1


@dataclass(frozen=True)
class Covered:
    """What a call went through: the summed −log likelihood, of how many pairs (CBOW: windows), tokens of text, words
    kept of them."""

    loss: float
    pairs: int
    tokens: int
    words: int


def skipgram(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    *,
    against: Noise | Tree,
    keep: Floats,
    states: States,
    rates: tuple[float, float],
    window: int = 5,
    settled: float = math.inf,
    threads: int | None = None,
    pool: Executor | None = None,
) -> Covered:
    """Learn each center word from each word around it, in place: the context word's vector scores the center's rows
    (E30).

    The scores of a window are taken before it changes anything. The radius of each window is drawn from 1 … ``window``.

    Args:
        blocks: tokens (N, L) int32, C-contiguous: words ≥ 0, END closes a sentence, windows close over GAP.
        vectors: (V, D) float32, changed in place; rows may be further apart than D.
        context: (V, D) float32, changed in place; with a tree (V − 1, D), a row for each inner node.
        against: what a word is told apart from: `Noise`, or a Huffman `Tree` for hierarchical softmax.
        keep: the chance of an occurrence to stay (V,) float32, of `sampling.keep_probabilities`.
        states: the random state of each block (N,) uint64.
        rates: η at the batch's first and behind its last token, linear in between.
        window: the largest radius.
        settled: a score that is on its label's side by more than this is left as it is, as in word2vec's programs,
            whose tables of σ end at ±6; infinite: E30's gradient everywhere.
        threads: into how many parts the blocks are split; torch's number of threads when not given.
        pool: Python threads to run on, ``threads − 1`` of them (the calling thread works too); made for the call when
            not given.

    Raises:
        UsageError: for arrays that the compiled loop would read wrongly.
    """
    share = min(against.share, 2 * window) if isinstance(against, Noise) else 1
    return _run(
        run_skipgram, blocks, vectors, context, against, share, keep, states, rates, window, settled, threads, pool
    )


def cbow(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    *,
    against: Noise | Tree,
    keep: Floats,
    states: States,
    rates: tuple[float, float],
    window: int = 5,
    settled: float = math.inf,
    divided: bool = False,
    threads: int | None = None,
    pool: Executor | None = None,
) -> Covered:
    """Learn each center word from the mean of the vectors around it, in place (E30). Arguments as of `skipgram`.

    Args:
        divided: each context word gets 1/n of the gradient at the mean of n words, as calculus has it. word2vec's
            programs give the whole of it to each (a step n times as long), and so does this by default. See Irsoy,
            Benton, Stratos (2021).
    """
    return _run(
        run_cbow, blocks, vectors, context, against, divided, keep, states, rates, window, settled, threads, pool
    )


def _run(
    loop: Callable[..., None],
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    against: Noise | Tree,
    option: int | bool,
    keep: Floats,
    states: States,
    rates: tuple[float, float],
    window: int,
    settled: float,
    threads: int | None,
    pool: Executor | None,
) -> Covered:
    """Run a loop over contiguous parts of the batch, each on a thread."""
    noise, tree = (
        (against, WITHOUT)
        if isinstance(against, Noise)
        else (Noise(alias=np.zeros((1, 2), np.uint32), negatives=0), against)
    )
    _check(blocks, vectors, context, against, option, keep, states, window)
    slope = (rates[1] - rates[0]) / max(1, blocks.size)
    wanted = torch.get_num_threads() if threads is None else threads
    parts = max(1, min(wanted, len(blocks)))

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
            np.float32(settled),
            sums,
        )
        return sums

    loss, pairs, tokens, words = np.sum(over_parts(run, edges_of(len(blocks), parts), pool), axis=0)
    return Covered(float(loss), int(pairs), int(tokens), int(words))


def _check(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    against: Noise | Tree,
    option: int | bool,
    keep: Floats,
    states: States,
    window: int,
) -> None:
    """Refuse what the compiled loop would read wrongly: it checks no bounds."""
    words, width = vectors.shape if vectors.ndim == 2 else (-1, -1)
    rows = words if isinstance(against, Noise) else words - 1
    want: dict[str, tuple[Any, str, tuple[int, ...]]] = {
        "vectors": (vectors, "float32", (words, width)),
        "context": (context, "float32", (rows, width)),
        "keep": (keep, "float32", (words,)),
        "states": (states, "uint64", (len(blocks),)),
        "blocks": (blocks, "int32", (len(blocks), blocks.shape[-1])),
    }
    if isinstance(against, Noise):
        want["the alias table"] = (against.alias, "uint32", (words, 2))
    else:
        want["the tree"] = (against.starts, "int64", (words,))
    for name, (array, kind, shape) in want.items():
        dense = array.strides[-1] == array.itemsize and (name in ("vectors", "context") or array.flags.c_contiguous)
        if array.shape != shape or str(array.dtype) != kind or not dense:
            raise UsageError(
                f"word2vec's kernel cannot take {name}",
                expected=f"a dense array {shape} of {kind}",
                received=f"an array {array.shape} of {array.dtype}, strides {array.strides}",
            )
    if window < 1 or (
        isinstance(against, Noise) and (against.negatives < 1 or option < (not isinstance(option, bool)))
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
