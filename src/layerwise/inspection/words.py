"""The views of word vectors: ``neighbors``, ``map`` and ``norms``, each of a table of vectors, whoever trained them.

``V`` words, ``D`` dimensions, ``n`` words shown, ``k`` neighbors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.embeddings.queries import Neighbor, nearest_words
from layerwise.embeddings.sources import table_of
from layerwise.errors import DataError, UsageError
from layerwise.inspection.base import Json, Lang, Target, View, needs_run, save, table
from layerwise.inspection.views.embedding import kept, neighbors, pca, tsne
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import word_network
from layerwise.weights.vectors import VectorTable

WORDS, NEAR = 12, 6  # of the neighbors' table: words and neighbors of each
COMMON = 50  # most frequent words that are left out where the view chooses: they stand beside everything
MAPPED, MOST, LEAST = 150, 1000, 8  # words of a map
AROUND = 10  # neighbors of each word that is named for a map
BANDS = 12  # of frequency, for norms
EXTREME = 5
Ids = NDArray[np.int64]


def of_target(target: Target, view: str) -> tuple[VectorTable, str]:
    """Return a run's word vectors and the name they are called by. Raises `UsageError` for a bare model, and a run
    without word vectors."""
    if target.model is None or target.task is None:
        raise needs_run(view, target.spec)
    if not isinstance(target.task.inputs, WordInputs):
        raise UsageError(
            f"{target.spec.name} has no word vectors",
            expected="a run of skipgram, cbow or glove",
            received=f"a run of {target.spec.name}",
        )
    return table_of(word_network(target.model), target.task.inputs), target.spec.name


def _say(lang: Lang) -> Callable[[str, str], str]:
    """Return what chooses between English and Chinese."""
    return lambda english, chinese: chinese if lang == "zh" else english


def _by_frequency(vectors: VectorTable) -> Ids:
    """Return the rows from the most frequent word to the rarest; without counts as they stand, which is so in most
    files."""
    if vectors.counts is None:
        return np.arange(len(vectors))
    return np.argsort(-vectors.counts, kind="stable")


# -- neighbors --------------------------------------------------------------------------------------------------------


def neighbors_view(
    vectors: VectorTable,
    *,
    name: str,
    words: Sequence[str] = (),
    k: int = NEAR,
    lang: Lang = "en",
    out: Path | None = None,
) -> View:
    """Return the nearest words of some: those named, or twelve from frequent to rare. Raises `UsageError` for a word
    without a vector."""
    chosen = list(words) or _spread(vectors)
    found = {word: nearest_words(vectors, [word], k=k) for word in chosen}
    say = _say(lang)
    data: Json = {
        "vectors": name,
        "words": len(vectors),
        "dimensions": vectors.dimensions,
        "neighbors": [
            {"word": word, "count": _count(vectors, word), "nearest": [one._asdict() for one in near]}
            for word, near in found.items()
        ],
    }
    counted = vectors.counts is not None
    head = [say("word", "词"), *([say("count", "次数")] if counted else []), *([""] * k)]
    head[2 if counted else 1] = say("nearest by cosine", "余弦最近的词")
    rows = [
        [word, *([f"{_count(vectors, word):,}"] if counted else []), *_cells(near, k)] for word, near in found.items()
    ]
    size = f"{len(vectors):,}"
    title = say(
        f"{name}: {size} words, {vectors.dimensions} dimensions", f"{name}：{size} 个词，{vectors.dimensions} 维"
    )
    laid = table(head, rows, right=frozenset({1}) if counted else frozenset())
    lines = "".join(f"{word}\t{one.word}\t{one.score:.6f}\n" for word, near in found.items() for one in near)
    return View("neighbors", data, f"{title}\n\n{laid}", save(out, "neighbors.tsv", lines))


def _spread(vectors: VectorTable) -> list[str]:
    """Return words from frequent to rare, evenly by the logarithm of their rank."""
    order = _by_frequency(vectors)
    first = COMMON if len(vectors) > 4 * COMMON else 0
    ranks = np.unique(np.geomspace(first + 1, len(vectors), min(WORDS, len(vectors))).astype(np.int64)) - 1
    return [vectors.words[at] for at in order[ranks].tolist()]


def _count(vectors: VectorTable, word: str) -> int | None:
    """Return how often a word was seen, None where the table does not say."""
    return None if vectors.counts is None else int(vectors.counts[vectors.row(word)])


def _cells(near: Sequence[Neighbor], k: int) -> list[str]:
    """Return neighbors as cells of a table."""
    cells = [f"{one.word} {one.score:.2f}" for one in near]
    return cells + [""] * (k - len(cells))


# -- map ---------------------------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """The words of a map: rows, the group of each (n,), and the groups' names; one group without a name where none were
    asked for."""

    rows: Ids
    groups: Ids
    names: tuple[str, ...]


def map_view(
    vectors: VectorTable,
    *,
    name: str,
    words: Sequence[str] = (),
    count: int = 0,
    lang: Lang = "en",
    out: Path | None = None,
) -> View:
    """Return a 2-D map (t-SNE) of some words and their nearest ones, by color; of none: of the most frequent, without
    the fifty first.

    Writes ``words.svg``. ``count``: how many words in all (default: 150). Raises `UsageError` for a word without a
    vector and for more than 1,000 words, and `DataError` for fewer than eight.
    """
    if count > MOST:
        raise UsageError("the map takes too long for so many words", expected=f"at most {MOST:,}", received=f"{count}")
    chosen = _around(vectors, words, count) if words else _frequent(vectors, count or MAPPED)
    if len(chosen.rows) < LEAST:
        raise DataError("a map needs more words", expected=f"at least {LEAST}", received=f"{len(chosen.rows)}")
    x = vectors.unit[chosen.rows].astype(np.float64)
    places = tsne(x, pca(x)[0])
    near = neighbors(x)
    share = kept(near, neighbors(places))
    named = [vectors.words[at] for at in chosen.rows.tolist()]
    data: Json = {
        "vectors": name,
        "words": len(named),
        "groups": list(chosen.names),
        "neighbors": near.shape[1],
        "kept": share,
        "points": [
            {"word": word, "group": int(group), "place": place.tolist()}
            for word, group, place in zip(named, chosen.groups, places, strict=True)
        ],
    }
    say = _say(lang)
    title = say(
        f"{name}: t-SNE of {len(named)} words, {share:.0%} of their neighbors kept",
        f"{name}：{len(named)} 个词的 t-SNE，保留近邻 {share:.0%}",
    )
    from layerwise.plotting.words import word_map

    text = "\n".join(
        [
            title,
            "",
            say(
                "t-SNE keeps neighbors, not distances: gaps and sizes of groups mean nothing.",
                "t-SNE 保留的是近邻而不是距离：各群之间的间隔与大小没有意义。",
            ),
            *(
                f"{group}: "
                + ", ".join(
                    word for word, mine in zip(named, chosen.groups, strict=True) if mine == n and word != group
                )
                for n, group in enumerate(chosen.names)
            ),
        ]
    )
    return View(
        "map",
        data,
        text,
        save(out, "words.svg", word_map(title, places, named, chosen.groups, chosen.names)) if out else [],
    )


def _around(vectors: VectorTable, words: Sequence[str], count: int) -> Chosen:
    """Return words and their nearest ones; a word near several of them goes to the nearest."""
    each = max(1, count // len(words) - 1) if count else AROUND
    seeds = [vectors.row(word) for word in dict.fromkeys(words)]
    best: dict[int, tuple[float, int]] = {row: (2.0, group) for group, row in enumerate(seeds)}
    for group, seed in enumerate(seeds):
        for one in nearest_words(vectors, [vectors.words[seed]], k=each):
            row = vectors.row(one.word)
            if row not in best or one.score > best[row][0]:
                best[row] = (one.score, group)
    rows = np.array(list(best), dtype=np.int64)
    return Chosen(rows, np.array([group for _, group in best.values()]), tuple(vectors.words[row] for row in seeds))


def _frequent(vectors: VectorTable, count: int) -> Chosen:
    """Return the most frequent words, without the first fifty of a large table."""
    order = _by_frequency(vectors)
    first = COMMON if len(order) >= COMMON + count else 0
    rows = order[first : first + count]
    return Chosen(rows, np.zeros(len(rows), dtype=np.int64), ())


# -- norms -------------------------------------------------------------------------------------------------------------


def norms_view(vectors: VectorTable, *, name: str, lang: Lang = "en", out: Path | None = None) -> View:
    """Return the lengths of the vectors by how frequent their words are, in bands of equal width of the logarithm;
    writes ``norms.svg``.

    Frequency is the count, or where a table has none the rank (the first word is taken for the most frequent).
    """
    say, counted = _say(lang), vectors.counts is not None
    norms = np.sqrt(np.einsum("vd,vd->v", vectors.matrix, vectors.matrix, dtype=np.float64))
    x = (
        np.maximum(vectors.counts, 1).astype(np.float64)
        if vectors.counts is not None
        else np.arange(1.0, len(vectors) + 1)
    )
    bands = _bands(x, norms)
    order = np.argsort(norms, kind="stable")
    ends = {"longest": order[::-1][:EXTREME], "shortest": order[:EXTREME]}
    data: Json = {
        "vectors": name,
        "words": len(vectors),
        "by": "count" if counted else "rank",
        "bands": bands,
        **{
            what: [{"word": vectors.words[at], "norm": float(norms[at]), "at": float(x[at])} for at in rows]
            for what, rows in ends.items()
        },
    }
    axis = say("count", "词频") if counted else say("rank (1 is the first word)", "名次（1 为第一个词）")
    rows = [
        [f"{b['low']:,.0f}–{b['high']:,.0f}", f"{b['words']:,}", f"{b['mean']:.3f}", f"{b['deviation']:.3f}"]
        for b in bands
    ]
    head = [axis, say("words", "词数"), say("mean norm", "平均范数"), say("deviation", "标准差")]
    listed = [
        f"{label}: " + ", ".join(f"{one['word']} {one['norm']:.2f}" for one in data[what])
        for what, label in (("longest", say("longest", "最长")), ("shortest", say("shortest", "最短")))
    ]
    text = f"{name}\n\n{table(head, rows, right=frozenset({0, 1, 2, 3}))}\n\n" + "\n".join(listed)
    if out is None:
        return View("norms", data, text)
    from layerwise.plotting.words import norm_map

    marked = np.concatenate([ends["longest"], ends["shortest"], _by_frequency(vectors)[:3]])
    labels = (axis, say("norm of the vector", "词向量的范数"), say("mean of a band", "各频段均值"), say("a word", "词"))
    means = [(band["middle"], band["mean"]) for band in bands]
    drawing = norm_map(x, norms, means, {int(at): vectors.words[at] for at in marked}, labels=labels)
    return View("norms", data, text, save(out, "norms.svg", drawing))


def _bands(x: NDArray[np.float64], norms: NDArray[np.float64]) -> list[Json]:
    """Return the norms by bands of the logarithm of frequency; bands without words are left out."""
    edges = np.geomspace(x.min(), x.max() * (1 + 1e-9), BANDS + 1)
    band = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, BANDS - 1)
    return [
        {
            "low": float(x[mine].min()),
            "high": float(x[mine].max()),
            "middle": float(np.exp(np.log(x[mine]).mean())),
            "words": int(mine.sum()),
            "mean": float(norms[mine].mean()),
            "deviation": float(norms[mine].std()),
        }
        for mine in (band == n for n in range(BANDS))
        if mine.any()
    ]
