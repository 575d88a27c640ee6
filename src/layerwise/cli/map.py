"""``layerwise map``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerwise.cli.common import Json, print_json, print_table
from layerwise.errors import UsageError
from layerwise.text_display import write_line


def run_map(
    source: str,
    target: str,
    *,
    pairs: Path | None = None,
    sentences: tuple[Path, Path] | None = None,
    held_out: Annotated[float, Parameter(help="share of the source words that are kept for the test")] = 0.2,
    seed: int = 0,
    pairs_out: Annotated[
        Path | None, Parameter(help="write the pairs of words found in the sentences as a table")
    ] = None,
    out: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
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
        two files instead, translations of each other line by line; the pairs are words that are each other's best
        match by Dice's coefficient over sentences
    seed
        of the split, and of the shuffles that measure chance
    out
        write the source's words with their vectors in the target's space, in the format of the file's ending
    overwrite
        replace files that are there
    """
    from layerwise.embeddings import lexicon, mapping
    from layerwise.embeddings.sources import load_vectors
    from layerwise.runtime.write_checks import check_target
    from layerwise.weights.vector_files import write_vectors

    if (pairs is None) == (sentences is None):
        raise UsageError("a map is learned from pairs of words", expected="--pairs FILE, or --sentences FILE FILE")
    for path in filter(None, (pairs_out, out)):
        check_target(path, overwrite=overwrite)
    if out and pairs_out and out.resolve() == pairs_out.resolve():
        raise UsageError(
            f"--out and --pairs-out are the same file, {out}", expected="two files", do="give one of them another name"
        )
    both = mapping.BilingualTables(load_vectors(source), load_vectors(target))
    known = (
        lexicon.learn_pairs(sentences, both.source, both.target) if sentences else lexicon.read_pairs(pairs or Path())
    )
    learn, test = mapping.split_pairs(known, held_out=held_out, seed=seed)
    rotation, scores = mapping.evaluate_map(both, learn, test, seed=seed)
    if out:  # first, because it refuses words that the file format cannot hold
        write_vectors(both.map_vectors(rotation), out, overwrite=overwrite)
    if pairs_out:
        lexicon.write_pairs(known, pairs_out, overwrite=overwrite)
    if as_json:
        metrics = {f"precision@{k}": value for k, value in scores.precision.items()} | {"mrr": scores.mrr}
        chance = {f"precision@{k}": value for k, value in scores.chance.items()}
        print_json(
            source=source,
            target=target,
            pairs=len(known),
            learned=scores.learned,
            tested=scores.tested,
            words=scores.words,
            without_vectors=scores.without,
            metrics=metrics,
            chance=chance,
            draws=scores.draws,
            out=str(out) if out else None,
        )
        return 0
    rows = [
        [f"precision@{k}", f"{scores.precision[k]:.3f}", f"{scores.chance[k]:.4f}", f"{scores.luckiest[k]:.4f}"]
        for k in scores.precision
    ]
    print_table(("", "map", f"chance, mean of {scores.draws}", "largest"), rows)
    without = f", {scores.without:,} without vectors left out" if scores.without else ""
    write_line(
        f"pairs\t{scores.learned:,} learned from, {scores.tested:,} of {scores.words:,} other words tested{without}"
    )
    write_line(f"among\t{len(both.target):,} words")
    if out:
        write_line(f"vectors\t{out}")
    return 0
