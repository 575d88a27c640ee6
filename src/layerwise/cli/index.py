"""``layerwise index``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from layerwise.cli.common import Json, print_json
from layerwise.text_display import write_line

Flag = Annotated[bool, Parameter(negative="")]


def run_index(
    source: str,
    *,
    vectors: Annotated[str, Parameter(help="a run of word vectors, or a file of them")],
    out: Path,
    by: Literal["line", "paragraph", "file", ""] = "",
    column: str = "",
    id_column: Annotated[str, Parameter(name="--id")] = "",
    encoding: str = "utf-8",
    smoothing: Annotated[
        float, Parameter(help="a in SIF's weight a/(a + p(w)); a smaller value gives frequent words less weight")
    ] = 1e-3,
    overwrite: Flag = False,
    as_json: Json = False,
) -> int:
    """Make texts searchable: each passage becomes the mean of its words' vectors, weighted by SIF.

    Parameters
    ----------
    source
        a text file, a folder of them, or a table with --column
    out
        the index, a folder
    by
        what is one passage: line (the default for a file), paragraph, or file (the default for a folder)
    column
        the column of a table that holds the texts
    id_column
        the column of a table that names the passages (default: the rows are numbered)
    encoding
        of text files
    overwrite
        replace an index that is there
    """
    from layerwise.embeddings.embedders import WordEmbedder
    from layerwise.embeddings.index import build_index
    from layerwise.embeddings.passages import Passages
    from layerwise.embeddings.sources import load_vectors

    start = time.perf_counter()
    passages = Passages(source, by, column, id_column, encoding)
    index = build_index(
        passages, WordEmbedder(load_vectors(vectors), a=smoothing, origin=vectors), out, overwrite=overwrite
    )
    about, seconds = index.about, time.perf_counter() - start
    if as_json:
        print_json(
            index=str(out),
            source=source,
            passages=about["passages"],
            left_out=about["left_out"],
            dimensions=about["dimensions"],
            embedder=about["embedder"],
            seconds=round(seconds, 3),
        )
        return 0
    without = f", {about['left_out']:,} skipped without a known word" if about["left_out"] else ""
    write_line(f"passages\t{about['passages']:,}{without}")
    write_line(f"dimensions\t{about['dimensions']}")
    write_line(f"vectors\t{about['embedder']['words']:,} words of {vectors}, weighted by SIF")
    write_line(f"index\t{out}\t{seconds:.1f} s")
    return 0
