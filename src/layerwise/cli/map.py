"""``layerwise map``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerwise.cli.common import Json, put_json, put_table
from layerwise.errors import UsageError
from layerwise.text_display import write_line


def map_(
    source: str,
    target: str,
    *,
    pairs: Path | None = None,
    sentences: tuple[Path, Path] | None = None,
    held_out: Annotated[float, Parameter(help="share of the source words that are kept for the test")] = 0.2,
    seed: int = 0,
    pairs_out: Annotated[
        Path | None, Parameter(help="write the pairs of words that the sentences tell, as a table")
    ] = None,
    out: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Map one language's word vectors to another's by an orthogonal map, and measure the translation of words it did
    not learn from.

    Parameters
    ----------
    source
        a run of word vectors, or a file of them
    target
        the other language's, of the same length
    pairs
        a table of two columns: a word, its translation
    sentences
        two files instead, line by line translations of each other, that tell the pairs: words that are each other's
        best by Dice's coefficient over sentences
    seed
        of the division, and of the shuffles that chance is measured by
    out
        write the source's words with their vectors in the target's space, in the form that the ending says
    overwrite
        replace files that are there
    """
    from layerwise.embeddings import lexicon, mapping
    from layerwise.embeddings.sources import vectors_of
    from layerwise.runtime.atomic_io import check_target
    from layerwise.weights.vector_files import write_vectors

    if (pairs is None) == (sentences is None):
        raise UsageError("a map is learned from pairs of words", expected="--pairs FILE, or --sentences FILE FILE")
    for place in filter(None, (pairs_out, out)):
        check_target(place, overwrite=overwrite)
    if out and pairs_out and out.resolve() == pairs_out.resolve():
        raise UsageError(
            f"--out and --pairs-out are the same file, {out}", expected="two files", do="give one of them another name"
        )
    both = mapping.Bilingual(vectors_of(source), vectors_of(target))
    known = (
        lexicon.from_sentences(sentences, both.source, both.target)
        if sentences
        else lexicon.from_table(pairs or Path())
    )
    learn, test = mapping.divided(known, held_out=held_out, seed=seed)
    turn, found = mapping.measure(both, learn, test, seed=seed)
    if out:  # first: words that do not go into the form of the file are refused
        write_vectors(both.mapped(turn), out, overwrite=overwrite)
    if pairs_out:
        lexicon.write(known, pairs_out, overwrite=overwrite)
    if json:
        metrics = {f"precision@{k}": value for k, value in found.precision.items()} | {"mrr": found.mrr}
        chance = {f"precision@{k}": value for k, value in found.chance.items()}
        put_json(
            source=source,
            target=target,
            pairs=len(known),
            learned=found.learned,
            tested=found.tested,
            words=found.words,
            without_vectors=found.without,
            metrics=metrics,
            chance=chance,
            draws=found.draws,
            out=str(out) if out else None,
        )
        return 0
    rows = [
        [f"precision@{k}", f"{found.precision[k]:.3f}", f"{found.chance[k]:.4f}", f"{found.luckiest[k]:.4f}"]
        for k in found.precision
    ]
    put_table(("", "map", f"chance, mean of {found.draws}", "largest"), rows)
    without = f", {found.without:,} without vectors left out" if found.without else ""
    write_line(
        f"pairs\t{found.learned:,} learned from, {found.tested:,} of {found.words:,} other words tested{without}"
    )
    write_line(f"among\t{len(both.target):,} words")
    if out:
        write_line(f"vectors\t{out}")
    return 0
