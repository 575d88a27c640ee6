"""``layerwise search``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from layerwise.cli.common import Json, put_json
from layerwise.errors import LayerwiseError, UsageError
from layerwise.text_display import write_line, write_note

if TYPE_CHECKING:
    from layerwise.embeddings.index import Hit, Index

DEPTHS = (1, 5, 10)


def search_(
    index: Path,
    *questions: str,
    k: Annotated[int, Parameter(name="-k", help="how many passages answer a question")] = 5,
    labeled: Path | None = None,
    json: Json = False,
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

    opened = Index.open(index)
    if labeled:
        return _measured(opened, labeled, json=json)
    asked = [
        text
        for given in questions
        for text in (sys.stdin.read().splitlines() if given == "-" else [given])
        if text.strip()
    ]
    found = opened.search(asked, k=k)
    failed = [(text, one) for text, one in zip(asked, found, strict=True) if isinstance(one, LayerwiseError)]
    answered = [(text, one) for text, one in zip(asked, found, strict=True) if not isinstance(one, LayerwiseError)]
    if json:
        put_json(
            results=[{"question": text, "hits": [hit._asdict() for hit in hits]} for text, hits in answered],
            failed=[{"question": text, "error": str(error)} for text, error in failed],
        )
    else:
        _show(answered, several=len(asked) > 1)
        for _, error in failed:
            write_note(error)
    return 2 if failed else 0


def _show(answered: Sequence[tuple[str, Sequence[Hit]]], *, several: bool) -> None:
    """Print what was found, one passage a line."""
    for number, (text, hits) in enumerate(answered):
        if several:
            write_line(("\n" if number else "") + text)
        for hit in hits:
            write_line(f"{hit.score:.3f}\t{hit.id}\t{hit.text}")


def _measured(opened: Index, labeled: Path, *, json: bool) -> int:
    """Measure an index by questions whose answers are known."""
    from layerwise.embeddings.labeled import read
    from layerwise.functional.retrieval_metrics import mean_reciprocal_rank, recall_at

    questions, wanted = read(labeled)
    ranks = opened.ranks(questions, wanted)
    metrics = {**{f"recall@{k}": recall_at(ranks, k) for k in DEPTHS}, "mrr": mean_reciprocal_rank(ranks)}
    if json:
        put_json(
            index=str(opened.path),
            labeled=str(labeled),
            questions=len(questions),
            passages=len(opened),
            metrics=metrics,
        )
        return 0
    write_line(f"questions\t{len(questions):,}\npassages\t{len(opened):,}")
    for name, value in metrics.items():
        write_line(f"{name}\t{value:.4f}")
    return 0
