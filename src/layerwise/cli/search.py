"""``layerwise search``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from layerwise.cli.common import Json, print_json
from layerwise.errors import LayerwiseError, UsageError
from layerwise.text_display import write_line, write_note

if TYPE_CHECKING:
    from layerwise.embeddings.index import Hit, Index

DEPTHS = (1, 5, 10)


def run_search(
    index: Path,
    *questions: str,
    k: Annotated[int, Parameter(name="-k", help="how many passages answer a question")] = 5,
    labeled: Path | None = None,
    as_json: Json = False,
) -> int:
    """Find the passages nearest to each question. Exit code 2 if nothing is known of one; the others are answered all
    the same.

    Parameters
    ----------
    index
        a folder that `layerwise index` made
    questions
        texts; - for a question a line on standard input
    labeled
        measure the index instead: a table of two columns, a question and the name of a passage that answers it
    """
    if bool(questions) == bool(labeled):
        raise UsageError(
            "a search needs questions, or a file of them with their answers", expected="QUESTION… or --labeled FILE"
        )
    from layerwise.embeddings.index import Index

    passage_index = Index.open(index)
    if labeled:
        return _measure_index(passage_index, labeled, as_json=as_json)
    texts = [
        text
        for given in questions
        for text in (sys.stdin.read().splitlines() if given == "-" else [given])
        if text.strip()
    ]
    results = passage_index.search(texts, k=k)
    failed = [(text, one) for text, one in zip(texts, results, strict=True) if isinstance(one, LayerwiseError)]
    found_hits = [(text, one) for text, one in zip(texts, results, strict=True) if not isinstance(one, LayerwiseError)]
    if as_json:
        print_json(
            results=[{"question": text, "hits": [hit._asdict() for hit in hits]} for text, hits in found_hits],
            failed=[{"question": text, "error": str(error)} for text, error in failed],
        )
    else:
        _print_hits(found_hits, several=len(texts) > 1)
        for _, error in failed:
            write_note(error)
    return 2 if failed else 0


def _print_hits(found_hits: Sequence[tuple[str, Sequence[Hit]]], *, several: bool) -> None:
    """Print the passages found, one per line."""
    for number, (text, hits) in enumerate(found_hits):
        if several:
            write_line(("\n" if number else "") + text)
        for hit in hits:
            write_line(f"{hit.score:.3f}\t{hit.id}\t{hit.text}")


def _measure_index(index: Index, labeled: Path, *, as_json: bool) -> int:
    """Measure an index by questions whose answers are known."""
    from layerwise.embeddings.sources import read_labeled_queries
    from layerwise.functional.retrieval_metrics import mean_reciprocal_rank, recall_at_k

    questions, wanted = read_labeled_queries(labeled)
    ranks = index.ranks(questions, wanted)
    metrics = {**{f"recall@{k}": recall_at_k(ranks, k) for k in DEPTHS}, "mrr": mean_reciprocal_rank(ranks)}
    if as_json:
        print_json(
            index=str(index.path),
            labeled=str(labeled),
            questions=len(questions),
            passages=len(index),
            metrics=metrics,
        )
        return 0
    write_line(f"questions\t{len(questions):,}\npassages\t{len(index):,}")
    for name, value in metrics.items():
        write_line(f"{name}\t{value:.4f}")
    return 0
