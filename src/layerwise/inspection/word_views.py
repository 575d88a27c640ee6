"""The views ``neighbors``, ``map`` and ``norms`` of a table of word vectors, from a run or a file.

``V`` words, ``D`` dimensions, ``n`` words in the view, ``k`` neighbors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.embeddings.queries import Neighbor, find_nearest_words
from layerwise.embeddings.sources import export_table
from layerwise.errors import DataError, UsageError
from layerwise.inspection.base import Json, Lang, Target, View, format_table, make_missing_run_error, save
from layerwise.inspection.views.embedding import compute_neighbor_overlap, find_neighbors, pca, tsne
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import require_word_vectors
from layerwise.weights.vectors import VectorTable

TABLE_WORDS, NEIGHBORS = 12, 6  # rows of the table of neighbors, and neighbors in each
SKIPPED_WORDS = 50  # the most frequent words, which the default choice leaves out: function words are near everything
MAP_WORDS, MAX_MAP_WORDS, MIN_MAP_WORDS = 150, 1000, 8
MAP_NEIGHBORS = 10  # neighbors on the map of each word that the user names
BANDS = 12  # of frequency, for norms
EXTREMES = 5  # longest and shortest vectors
Ids = NDArray[np.int64]


def get_word_vectors(target: Target, view: str) -> tuple[VectorTable, str]:
    """Return a run's word vectors and the model's name. Raises `UsageError` if there is no run or it has no word
    vectors."""
    if target.model is None or target.task is None:
        raise make_missing_run_error(view, target.spec)
    if not isinstance(target.task.inputs, WordInputs):
        raise UsageError(
            f"{target.spec.name} has no word vectors",
            expected="a run of skipgram, cbow or glove",
            received=f"a run of {target.spec.name}",
        )
    return export_table(require_word_vectors(target.model), target.task.inputs), target.spec.name


def _make_translator(lang: Lang) -> Callable[[str, str], str]:
    """Return a function that picks the English or the Chinese text."""
    return lambda english, chinese: chinese if lang == "zh" else english


def _sort_by_frequency(vectors: VectorTable) -> Ids:
    """Return row indices from the most frequent word to the rarest.

    Without counts, returns the order of the table, which most files sort by frequency.
    """
    if vectors.counts is None:
        return np.arange(len(vectors))
    return np.argsort(-vectors.counts, kind="stable")


# -- neighbors --------------------------------------------------------------------------------------------------------


def view_neighbors(
    vectors: VectorTable,
    *,
    name: str,
    words: Sequence[str] = (),
    k: int = NEIGHBORS,
    lang: Lang = "en",
    out: Path | None = None,
) -> View:
    """Return the nearest neighbors of ``words`` (default: twelve words from frequent to rare).

    Writes ``neighbors.tsv``. Raises `UsageError` for a word without a vector.
    """
    chosen = list(words) or _pick_words_by_rank(vectors)
    neighbors = {word: find_nearest_words(vectors, [word], k=k) for word in chosen}
    translate = _make_translator(lang)
    listed = []
    for word, hits in neighbors.items():
        listed.append({"word": word, "count": _get_count(vectors, word), "nearest": [hit._asdict() for hit in hits]})
    data: Json = {
        "vectors": name,
        "words": len(vectors),
        "dimensions": vectors.dimensions,
        "neighbors": listed,
    }
    has_counts = vectors.counts is not None
    head = [translate("word", "词"), *([translate("count", "次数")] if has_counts else []), *([""] * k)]
    head[2 if has_counts else 1] = translate("nearest by cosine", "余弦最近的词")
    rows = [
        [word, *([f"{_get_count(vectors, word):,}"] if has_counts else []), *_format_neighbors(nearest, k)]
        for word, nearest in neighbors.items()
    ]
    size = f"{len(vectors):,}"
    title = translate(
        f"{name}: {size} words, {vectors.dimensions} dimensions", f"{name}：{size} 个词，{vectors.dimensions} 维"
    )
    text = format_table(head, rows, right=frozenset({1}) if has_counts else frozenset())
    lines = "".join(
        f"{word}\t{neighbor.word}\t{neighbor.score:.6f}\n"
        for word, nearest in neighbors.items()
        for neighbor in nearest
    )
    return View("neighbors", data, f"{title}\n\n{text}", save(out, "neighbors.tsv", lines))


def _pick_words_by_rank(vectors: VectorTable) -> list[str]:
    """Return words from frequent to rare, evenly spaced in the logarithm of the rank."""
    order = _sort_by_frequency(vectors)
    first = SKIPPED_WORDS if len(vectors) > 4 * SKIPPED_WORDS else 0
    ranks = np.unique(np.geomspace(first + 1, len(vectors), min(TABLE_WORDS, len(vectors))).astype(np.int64)) - 1
    return [vectors.words[at] for at in order[ranks].tolist()]


def _get_count(vectors: VectorTable, word: str) -> int | None:
    """Return a word's count, or None if the table has no counts."""
    return None if vectors.counts is None else int(vectors.counts[vectors.row(word)])


def _format_neighbors(nearest: Sequence[Neighbor], k: int) -> list[str]:
    """Return neighbors as table cells, padded to ``k``."""
    cells = [f"{neighbor.word} {neighbor.score:.2f}" for neighbor in nearest]
    return cells + [""] * (k - len(cells))


# -- map ---------------------------------------------------------------------------------------------------------------


class MapWords(NamedTuple):
    """The words of a map: their rows and groups, both (n,), and the groups' names; no names for a single group."""

    rows: Ids
    groups: Ids
    names: tuple[str, ...]


def view_map(
    vectors: VectorTable,
    *,
    name: str,
    words: Sequence[str] = (),
    count: int = 0,
    lang: Lang = "en",
    out: Path | None = None,
) -> View:
    """Return a t-SNE map of ``words`` with their nearest neighbors, a color for each word.

    Without ``words``, maps the most frequent words except the first fifty. ``count`` is the total number of words (0:
    the default, 150 for frequent words). Writes ``words.svg``.

    Raises `UsageError` for a word without a vector and for more than 1,000 words; `DataError` for fewer than eight.
    """
    if count > MAX_MAP_WORDS:
        raise UsageError(
            "the map takes too long for so many words", expected=f"at most {MAX_MAP_WORDS:,}", received=f"{count}"
        )
    chosen = _pick_neighbors(vectors, words, count) if words else _pick_frequent(vectors, count or MAP_WORDS)
    if len(chosen.rows) < MIN_MAP_WORDS:
        raise DataError("a map needs more words", expected=f"at least {MIN_MAP_WORDS}", received=f"{len(chosen.rows)}")
    x = vectors.unit[chosen.rows].astype(np.float64)
    positions = tsne(x, pca(x)[0])
    nearest = find_neighbors(x)
    overlap = compute_neighbor_overlap(nearest, find_neighbors(positions))
    map_words = [vectors.words[at] for at in chosen.rows.tolist()]
    data: Json = {
        "vectors": name,
        "words": len(map_words),
        "groups": list(chosen.names),
        "neighbors": nearest.shape[1],
        "kept": overlap,
        "points": [
            {"word": word, "group": int(group), "place": position.tolist()}
            for word, group, position in zip(map_words, chosen.groups, positions, strict=True)
        ],
    }
    translate = _make_translator(lang)
    title = translate(
        f"{name}: t-SNE of {len(map_words)} words, {overlap:.0%} of their neighbors kept",
        f"{name}：{len(map_words)} 个词的 t-SNE，保留近邻 {overlap:.0%}",
    )
    from layerwise.plotting.words import plot_word_map

    groups = []
    for n, group in enumerate(chosen.names):
        members = (word for word, index in zip(map_words, chosen.groups, strict=True) if index == n)
        groups.append(f"{group}: " + ", ".join(word for word in members if word != group))
    text = "\n".join(
        [
            title,
            "",
            translate(
                "t-SNE keeps neighbors, not distances: gaps and sizes of groups mean nothing.",
                "t-SNE 保留的是近邻而不是距离：各群之间的间隔与大小没有意义。",
            ),
            *groups,
        ]
    )
    return View(
        "map",
        data,
        text,
        save(out, "words.svg", plot_word_map(title, positions, map_words, chosen.groups, chosen.names)) if out else [],
    )


def _pick_neighbors(vectors: VectorTable, words: Sequence[str], count: int) -> MapWords:
    """Return words with their nearest neighbors; a neighbor of several words belongs to the nearest."""
    each = max(1, count // len(words) - 1) if count else MAP_NEIGHBORS
    seeds = [vectors.row(word) for word in dict.fromkeys(words)]
    best: dict[int, tuple[float, int]] = {row: (2.0, group) for group, row in enumerate(seeds)}
    for group, seed in enumerate(seeds):
        for neighbor in find_nearest_words(vectors, [vectors.words[seed]], k=each):
            row = vectors.row(neighbor.word)
            if row not in best or neighbor.score > best[row][0]:
                best[row] = (neighbor.score, group)
    rows = np.array(list(best), dtype=np.int64)
    return MapWords(rows, np.array([group for _, group in best.values()]), tuple(vectors.words[row] for row in seeds))


def _pick_frequent(vectors: VectorTable, count: int) -> MapWords:
    """Return the most frequent words; from a large table, without the first fifty."""
    order = _sort_by_frequency(vectors)
    first = SKIPPED_WORDS if len(order) >= SKIPPED_WORDS + count else 0
    rows = order[first : first + count]
    return MapWords(rows, np.zeros(len(rows), dtype=np.int64), ())


# -- norms -------------------------------------------------------------------------------------------------------------


def view_norms(vectors: VectorTable, *, name: str, lang: Lang = "en", out: Path | None = None) -> View:
    """Return the norms of the vectors by word frequency, in bands of equal width on a logarithmic scale.

    Frequency is the count, or without counts the rank, with the first word as the most frequent. Writes ``norms.svg``.
    """
    translate, has_counts = _make_translator(lang), vectors.counts is not None
    norms = np.sqrt(np.einsum("vd,vd->v", vectors.matrix, vectors.matrix, dtype=np.float64))
    x = (
        np.maximum(vectors.counts, 1).astype(np.float64)
        if vectors.counts is not None
        else np.arange(1.0, len(vectors) + 1)
    )
    bands = _compute_bands(x, norms)
    order = np.argsort(norms, kind="stable")
    ends = {"longest": order[::-1][:EXTREMES], "shortest": order[:EXTREMES]}
    data: Json = {
        "vectors": name,
        "words": len(vectors),
        "by": "count" if has_counts else "rank",
        "bands": bands,
    }
    for what, ranks in ends.items():
        data[what] = [{"word": vectors.words[at], "norm": float(norms[at]), "at": float(x[at])} for at in ranks]
    axis = translate("count", "词频") if has_counts else translate("rank (1 is the first word)", "名次（1 为第一个词）")
    rows = [
        [f"{b['low']:,.0f}–{b['high']:,.0f}", f"{b['words']:,}", f"{b['mean']:.3f}", f"{b['deviation']:.3f}"]
        for b in bands
    ]
    head = [axis, translate("words", "词数"), translate("mean norm", "平均范数"), translate("deviation", "标准差")]
    listed = []
    for what, label in (("longest", translate("longest", "最长")), ("shortest", translate("shortest", "最短"))):
        listed.append(f"{label}: " + ", ".join(f"{word['word']} {word['norm']:.2f}" for word in data[what]))
    text = f"{name}\n\n{format_table(head, rows, right=frozenset({0, 1, 2, 3}))}\n\n" + "\n".join(listed)
    if out is None:
        return View("norms", data, text)
    from layerwise.plotting.words import plot_norms

    marked = np.concatenate([ends["longest"], ends["shortest"], _sort_by_frequency(vectors)[:3]])
    labels = (
        axis,
        translate("norm of the vector", "词向量的范数"),
        translate("mean of a band", "各频段均值"),
        translate("a word", "词"),
    )
    means = [(band["middle"], band["mean"]) for band in bands]
    svg = plot_norms(x, norms, means, {int(at): vectors.words[at] for at in marked}, labels=labels)
    return View("norms", data, text, save(out, "norms.svg", svg))


def _compute_bands(x: NDArray[np.float64], norms: NDArray[np.float64]) -> list[Json]:
    """Return statistics of the norms by band of frequency, without empty bands."""
    edges = np.geomspace(x.min(), x.max() * (1 + 1e-9), BANDS + 1)
    band = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, BANDS - 1)
    masks = [band == n for n in range(BANDS)]
    return [
        {
            "low": float(x[mask].min()),
            "high": float(x[mask].max()),
            "middle": float(np.exp(np.log(x[mask]).mean())),
            "words": int(mask.sum()),
            "mean": float(norms[mask].mean()),
            "deviation": float(norms[mask].std()),
        }
        for mask in masks
        if mask.any()
    ]
