"""An index of passages by their vectors, and exact search in it.

``N`` passages, ``D`` dimensions, ``Q`` questions, ``k`` answers. A folder of four files: ``index.json`` (what it is,
with checksums of the others), ``vectors.safetensors`` (rows of length one), ``texts.safetensors`` (the passages and
their names), ``embedder.safetensors`` (what turns a question into a vector). The one idea: every cosine is an entry of
a product with the table, which is mapped into memory and gone through in pieces, so that the answer is exact and memory
stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from layerwise.embeddings.embedders import Embedder, Json, WordEmbedder, restored
from layerwise.embeddings.index_records import (
    ABOUT,
    AGAIN,
    EMBEDDER,
    FILES,
    KIND,
    TEXTS,
    VECTORS,
    check_tensors,
    index_damaged,
    read_record,
)
from layerwise.embeddings.passages import Passages
from layerwise.errors import DamagedError, DataError, LayerwiseError, UsageError
from layerwise.functional import similarity
from layerwise.functional.similarity import Floats, Ids
from layerwise.run_records import read_bounded
from layerwise.runtime.atomic_io import is_plain_file, open_own, write_own
from layerwise.runtime.checksums import digest_of, sealed, unsealed
from layerwise.runtime.folder_io import build_folder
from layerwise.runtime.owned_folders import make_owned, remove_owned
from layerwise.weights.vector_files import packed, save_arrays, unpacked

AT_ONCE = 1 << 25  # bytes of vectors, and scores, that are looked at together
SHOWN = 5


class Hit(NamedTuple):
    """A passage that was found: its name, its cosine with the question, its text."""

    id: str
    score: float
    text: str


# -- building ----------------------------------------------------------------------------------------------------------


def build(passages: Passages, embedder: Embedder, out: str | Path, *, overwrite: bool = False) -> Index:
    """Build an index of passages into a folder, and return it. Memory does not grow with the passages, but for their
    names.

    Passages of which the embedder knows nothing cannot be found and are left out; `Index.about` says how many.

    Raises `UsageError` for a folder that is there or lies inside the texts, `DataError` where nothing can be indexed,
    and what `Passages.chunks` does. Nothing is left behind a failure.
    """
    path = Path(out)
    _refuse_inside(path, Path(passages.source).expanduser())
    with build_folder(path, KIND, replace=overwrite) as new:
        _write(passages, embedder, new)
    return Index.open(path)


def _refuse_inside(path: Path, source: Path) -> None:
    """Raise `UsageError` for an index inside the folder whose texts it would hold: the next one would find its files
    among them."""
    if source.is_dir() and (path.resolve() == source.resolve() or source.resolve() in path.resolve().parents):
        raise UsageError(
            f"{path} lies inside {source}, whose texts are indexed",
            expected="a place outside the texts",
            do="choose another --out",
        )


def _write(passages: Passages, embedder: Embedder, folder: Path) -> None:
    """Write the files of an index."""
    embedder = embedder.prepared(lambda: ([passage.text for passage in chunk] for chunk in passages.chunks()))
    passing = folder / "passing"
    make_owned(passing, KIND, durable=False)
    raw = [passing / name for name in ("vectors", "texts")]
    names: dict[str, int] = {}
    with open_own(raw[0], root=folder) as vectors, open_own(raw[1], root=folder) as texts:
        ends, left_out = _gather(passages, embedder, names, (vectors, texts))
    if not names:
        raise DataError(
            f"{passages.source} has no passage of which anything is known",
            received=f"{left_out:,} passages",
            do="choose vectors of these texts' language",
        )
    rows, written = np.memmap(raw[0], dtype=np.float32, mode="r"), np.memmap(raw[1], dtype=np.uint8, mode="r")
    data, name_ends = packed(names)
    save_arrays({"vectors": rows.reshape(len(names), -1)}, folder / VECTORS)
    save_arrays(
        {"texts": written, "texts_ends": np.array(ends, dtype=np.int64), "names": data, "names_ends": name_ends},
        folder / TEXTS,
    )
    arrays, told = embedder.state()
    save_arrays(arrays, folder / EMBEDDER)
    del rows, written  # Windows removes no file that is mapped
    remove_owned(passing, KIND)
    about = {
        "kind": KIND,
        "passages": len(names),
        "left_out": left_out,
        "dimensions": embedder.dimensions,
        "source": passages.source,
        "by": passages.by,
        "column": passages.column,
        "id": passages.id,
        "embedder": told,
        "files": {name: digest_of(folder / name) for name in FILES},
    }
    write_own(folder / ABOUT, sealed(about), root=folder)


def _gather(
    passages: Passages, embedder: Embedder, names: dict[str, int], into: tuple[IO[bytes], IO[bytes]]
) -> tuple[list[int], int]:
    """Write vectors and texts one after the other; return where each text ends, and how many passages were left out."""
    ends: list[int] = []
    left_out = end = 0
    for chunk in passages.chunks():
        found = similarity.normalized(embedder.embed([passage.text for passage in chunk]))
        known = np.linalg.norm(found, axis=1) > 0
        left_out += int((~known).sum())
        into[0].write(found[known].tobytes())
        kept: list[bool] = known.tolist()
        for passage, there in zip(chunk, kept, strict=True):
            if passage.name in names:
                raise DataError(
                    f"{passages.source} has two passages of the name '{passage.name}'",
                    expected="a name of its own for each",
                )
            if there:
                names[passage.name] = len(names)
                data = passage.text.encode("utf-8", "replace")
                end += into[1].write(data)
                ends.append(end)
    return ends, left_out


# -- searching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Index:
    """An index that was opened: its folder, what index.json says, and the embedder for questions."""

    path: Path
    about: Json
    embedder: Embedder

    @staticmethod
    def open(place: str | Path) -> Index:
        """Open an index and check every file of it.

        Raises `UsageError` for a folder that is none, and `DamagedError` naming the file that is missing or not as it
        was written.
        """
        path = Path(place)
        if not (path / ABOUT).is_file():
            raise UsageError(f"{path} is no index", expected=f"a folder with {ABOUT}, as `layerwise index` makes it")
        try:
            about = unsealed(read_bounded(path / ABOUT, root=path), path / ABOUT)
        except DamagedError as error:
            raise DamagedError(error.what, expected=error.expected, received=error.received, do=AGAIN) from error
        if about.get("kind") != KIND:
            raise UsageError(
                f"{path} is no index",
                expected=f"a folder whose {ABOUT} is of a {KIND}",
                received=str(about.get("kind"))[:60],
            )
        record = read_record(about, path / ABOUT)
        for name in FILES:
            try:
                if not is_plain_file(path / name, root=path):
                    raise index_damaged(
                        path / name, "it is not a regular file" if (path / name).exists() else "it is missing"
                    )
                fine = digest_of(path / name) == about["files"][name]
            except OSError as error:
                raise index_damaged(path / name, f"it cannot be read ({error.strerror})") from error
            if not fine:
                raise index_damaged(path / name, "its checksum is wrong")
        if record.embedder.kind == WordEmbedder.kind:  # `restored` refuses others
            check_tensors(record, path)
        return Index(
            path, about, restored(safetensors.numpy.load_file(path / EMBEDDER), about["embedder"], path / EMBEDDER)
        )

    def __len__(self) -> int:
        return int(self.about["passages"])

    def search(self, questions: Sequence[str], *, k: int = 10) -> list[list[Hit] | LayerwiseError]:
        """Return the k passages nearest to each question, nearest first; of equally near ones the earlier first.

        A question of which nothing is known has an error in its place, so that it fails alone. Raises `UsageError` for
        k below 1.
        """
        if k < 1:
            raise UsageError("a search answers with one passage or more", expected="-k 1 or more", received=str(k))
        vectors = similarity.normalized(self.embedder.embed(list(questions)))
        ids, scores = self._nearest(vectors, k)
        known = (np.linalg.norm(vectors, axis=1) > 0).tolist()
        return [
            [Hit(self.name(at), float(score), self.text(at)) for at, score in zip(mine, marks, strict=True)]
            if there
            else _unknown(text)
            for text, there, mine, marks in zip(questions, known, ids.tolist(), scores, strict=True)
        ]

    def _nearest(self, vectors: Floats, k: int) -> tuple[Ids, Floats]:
        """Return the places and cosines of the k nearest passages to vectors of length one (Q, D), (Q, k)."""
        ids = np.zeros((len(vectors), 0), dtype=np.int64)
        scores = np.zeros((len(vectors), 0), dtype=np.float32)
        for start, found in self._scores(vectors):
            places, best = similarity.top(found, k)
            ids, scores = np.concatenate([ids, places + start], 1), np.concatenate([scores, best], 1)
            kept, scores = similarity.top(scores, k)
            ids = np.take_along_axis(ids, kept, 1)
        return ids, scores

    def _scores(self, vectors: Floats) -> Iterator[tuple[int, Floats]]:
        """Yield cosines (Q, piece) piece by piece, and the first passage of each."""
        step = max(1, AT_ONCE // (4 * max(vectors.shape[1], len(vectors))))
        with safetensors.safe_open(self.path / VECTORS, framework="np") as file:  # mapped into memory
            table = file.get_slice("vectors")
            for start in range(0, len(self), step):
                with np.errstate(all="ignore"):  # what is no number is refused below
                    scores = vectors @ table[start : min(start + step, len(self))].T
                if not np.abs(scores).max(initial=0) < 1.01:  # nor NaN
                    raise index_damaged(
                        self.path / VECTORS, f"a vector of the passages from {start:,} on is not of length one"
                    )
                yield start, scores

    def ranks(self, questions: Sequence[str], wanted: Sequence[Sequence[str]]) -> list[Ids]:
        """Return the ranks, from 1, of the passages that were wanted for each question
        (`layerwise.functional.retrieval_metrics`); of equals the earlier ranks first.

        Raises `DataError` for a passage that is not in the index, and for a question of which nothing is known.
        """
        vectors = similarity.normalized(self.embedder.embed(list(questions)))
        for text, vector in zip(questions, vectors, strict=True):
            if not vector.any():
                raise _unknown(text)
        row = np.array([n for n, names in enumerate(wanted) for _ in names], dtype=np.int64)
        at = np.array([self.place(name) for names in wanted for name in names], dtype=np.int64)
        marks = np.zeros(len(at), dtype=np.float32)
        for start, scores in self._scores(vectors):
            mine = (at >= start) & (at < start + scores.shape[1])
            marks[mine] = scores[row[mine], at[mine] - start]
        ranks = np.ones(len(at), dtype=np.int64)
        for start, scores in self._scores(vectors):  # the same products once more
            for n in range(len(at)):
                line = scores[row[n]]
                before = at[n] - start
                ranks[n] += int((line > marks[n]).sum()) + int((line[: max(0, before)] == marks[n]).sum())
        return [ranks[row == n] for n in range(len(wanted))]

    # -- texts ---------------------------------------------------------------------------------------------------------

    def text(self, at: int) -> str:
        """Return the text of a passage."""
        return self._piece("texts", at)

    def name(self, at: int) -> str:
        """Return the name of a passage."""
        return self._piece("names", at)

    def place(self, name: str) -> int:
        """Return the place of a passage by its name. Raises `DataError` if it is not in the index."""
        found = self._places.get(name)
        if found is None:
            raise DataError(
                f"there is no passage '{name}' in {self.path}",
                expected=f"names like {', '.join(list(self._places)[:SHOWN])}",
            )
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        """Each passage's place by its name."""
        names = unpacked(self._texts.get_tensor("names"), self._ends["names"], self.path / TEXTS)
        return {name: at for at, name in enumerate(names)}

    @cached_property
    def _texts(self) -> Any:
        """The texts' file, mapped into memory."""
        return safetensors.safe_open(self.path / TEXTS, framework="np")

    @cached_property
    def _ends(self) -> dict[str, Ids]:
        """Where texts and names end."""
        return {what: self._texts.get_tensor(f"{what}_ends") for what in ("texts", "names")}

    def _piece(self, what: str, at: int) -> str:
        """Return one of the texts or names."""
        ends = self._ends[what]
        data: NDArray[np.uint8] = self._texts.get_slice(what)[int(ends[at - 1]) if at else 0 : int(ends[at])]
        return data.tobytes().decode("utf-8", "replace")


def _unknown(text: str) -> DataError:
    """Make the error for a question of which nothing is known."""
    return DataError(f"nothing is known of the question '{text}'", expected="one word at least that has a vector")
