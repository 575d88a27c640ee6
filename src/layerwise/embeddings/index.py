"""An index of passages by their vectors, and exact search in it.

``N`` passages, ``D`` dimensions, ``Q`` questions, ``k`` hits. A folder of four files: ``index.json`` (metadata, with
checksums of the others), ``vectors.safetensors`` (rows of length one), ``texts.safetensors`` (the passages and their
names), ``embedder.safetensors`` (the model that embeds a question). All cosines are one product with the table, which
is mapped into memory and read in chunks, so that the search is exact and memory stays bounded.
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

from layerwise.embeddings.embedders import Embedder, Json, WordEmbedder, restore_embedder
from layerwise.embeddings.index_records import (
    EMBEDDER,
    FILES,
    INDEX_FILE,
    KIND,
    REBUILD,
    TEXTS,
    VECTORS,
    check_tensors,
    make_damaged_error,
    read_record,
)
from layerwise.embeddings.passages import Passages
from layerwise.errors import DamagedError, DataError, LayerwiseError, UsageError
from layerwise.functional import similarity
from layerwise.functional.similarity import Floats, Ids
from layerwise.run_records import read_bounded
from layerwise.runtime.checksums import digest_file, dump_checksummed, load_checksummed
from layerwise.runtime.folder_io import build_folder
from layerwise.runtime.in_place_io import open_in_place, write_durably
from layerwise.runtime.owned_folders import make_owned, remove_owned
from layerwise.runtime.write_checks import is_plain_file
from layerwise.weights.vector_files import pack_texts, save_arrays, unpack_texts

CHUNK_BYTES = 1 << 25  # of vectors, and of scores, at a time
MAX_SHOWN = 5


class Hit(NamedTuple):
    """A passage in a search result: its name, its cosine with the question, its text."""

    id: str
    score: float
    text: str


# -- building ----------------------------------------------------------------------------------------------------------


def build_index(passages: Passages, embedder: Embedder, out: str | Path, *, overwrite: bool = False) -> Index:
    """Build an index of passages in a folder, and return it. Apart from the names, memory does not grow with the
    passages.

    Passages without known words cannot be found and are left out; `Index.about` has their number.

    Raises `UsageError` for a folder that exists or lies inside the texts, `DataError` where nothing can be indexed,
    and what `Passages.chunks` does. A failure leaves no files behind.
    """
    path = Path(out)
    _refuse_inside(path, Path(passages.source).expanduser())
    with build_folder(path, KIND, replace=overwrite) as new:
        _write_index(passages, embedder, new)
    return Index.open(path)


def _refuse_inside(path: Path, source: Path) -> None:
    """Raise `UsageError` for an index inside the folder of its texts: the next index would include its files."""
    if source.is_dir() and (path.resolve() == source.resolve() or source.resolve() in path.resolve().parents):
        raise UsageError(
            f"{path} lies inside {source}, whose texts are indexed",
            expected="a place outside the texts",
            do="choose another --out",
        )


def _write_index(passages: Passages, embedder: Embedder, folder: Path) -> None:
    """Write the files of an index."""
    embedder = embedder.fit(lambda: ([passage.text for passage in chunk] for chunk in passages.chunks()))
    temporary = folder / "passing"
    make_owned(temporary, KIND, durable=False)
    raw_files = [temporary / name for name in ("vectors", "texts")]
    names: dict[str, int] = {}
    with open_in_place(raw_files[0], root=folder) as vectors, open_in_place(raw_files[1], root=folder) as texts:
        ends, left_out = _write_passages(passages, embedder, names, (vectors, texts))
    if not names:
        raise DataError(
            f"{passages.source} has no passage of which anything is known",
            received=f"{left_out:,} passages",
            do="choose vectors of these texts' language",
        )
    rows, text_bytes = (
        np.memmap(raw_files[0], dtype=np.float32, mode="r"),
        np.memmap(raw_files[1], dtype=np.uint8, mode="r"),
    )
    data, name_ends = pack_texts(names)
    save_arrays({"vectors": rows.reshape(len(names), -1)}, folder / VECTORS)
    save_arrays(
        {"texts": text_bytes, "texts_ends": np.array(ends, dtype=np.int64), "names": data, "names_ends": name_ends},
        folder / TEXTS,
    )
    arrays, embedder_info = embedder.get_state()
    save_arrays(arrays, folder / EMBEDDER)
    del rows, text_bytes  # Windows cannot remove a mapped file
    remove_owned(temporary, KIND)
    about = {
        "kind": KIND,
        "passages": len(names),
        "left_out": left_out,
        "dimensions": embedder.dimensions,
        "source": passages.source,
        "by": passages.by,
        "column": passages.column,
        "id": passages.id,
        "embedder": embedder_info,
        "files": {name: digest_file(folder / name) for name in FILES},
    }
    write_durably(folder / INDEX_FILE, dump_checksummed(about), root=folder)


def _write_passages(
    passages: Passages, embedder: Embedder, names: dict[str, int], files: tuple[IO[bytes], IO[bytes]]
) -> tuple[list[int], int]:
    """Append vectors and texts to the files; return the end of each text, and the number of passages left out."""
    ends: list[int] = []
    left_out = end = 0
    for chunk in passages.chunks():
        embeddings = similarity.normalize_rows(embedder.embed([passage.text for passage in chunk]))
        known = np.linalg.norm(embeddings, axis=1) > 0
        left_out += int((~known).sum())
        files[0].write(embeddings[known].tobytes())
        known_flags: list[bool] = known.tolist()
        for passage, is_known in zip(chunk, known_flags, strict=True):
            if passage.name in names:
                raise DataError(
                    f"{passages.source} has two passages of the name '{passage.name}'",
                    expected="a name of its own for each",
                )
            if is_known:
                names[passage.name] = len(names)
                data = passage.text.encode("utf-8", "replace")
                end += files[1].write(data)
                ends.append(end)
    return ends, left_out


# -- searching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Index:
    """An open index: its folder, the content of index.json, and the embedder for questions."""

    path: Path
    about: Json
    embedder: Embedder

    @staticmethod
    def open(folder: str | Path) -> Index:
        """Open an index and check every file of it.

        Raises `UsageError` for a folder that is not an index, and `DamagedError` naming a missing or changed file.
        """
        path = Path(folder)
        if not (path / INDEX_FILE).is_file():
            raise UsageError(
                f"{path} is no index", expected=f"a folder with {INDEX_FILE}, as `layerwise index` makes it"
            )
        try:
            about = load_checksummed(read_bounded(path / INDEX_FILE, root=path), path / INDEX_FILE)
        except DamagedError as error:
            raise DamagedError(error.what, expected=error.expected, received=error.received, do=REBUILD) from error
        if about.get("kind") != KIND:
            raise UsageError(
                f"{path} is no index",
                expected=f"a folder whose {INDEX_FILE} is of a {KIND}",
                received=str(about.get("kind"))[:60],
            )
        record = read_record(about, path / INDEX_FILE)
        for name in FILES:
            try:
                if not is_plain_file(path / name, root=path):
                    raise make_damaged_error(
                        path / name, "it is not a regular file" if (path / name).exists() else "it is missing"
                    )
                fine = digest_file(path / name) == about["files"][name]
            except OSError as error:
                raise make_damaged_error(path / name, f"it cannot be read ({error.strerror})") from error
            if not fine:
                raise make_damaged_error(path / name, "its checksum is wrong")
        if record.embedder.kind == WordEmbedder.kind:  # `restore_embedder` raises an error for others
            check_tensors(record, path)
        return Index(
            path,
            about,
            restore_embedder(safetensors.numpy.load_file(path / EMBEDDER), about["embedder"], path / EMBEDDER),
        )

    def __len__(self) -> int:
        return int(self.about["passages"])

    def search(self, questions: Sequence[str], *, k: int = 10) -> list[list[Hit] | LayerwiseError]:
        """Return the k passages nearest to each question, nearest first; of equals the earlier one first.

        A question without known words has an error in its place, so that it fails alone. Raises `UsageError` for
        k below 1.
        """
        if k < 1:
            raise UsageError("a search answers with one passage or more", expected="-k 1 or more", received=str(k))
        vectors = similarity.normalize_rows(self.embedder.embed(list(questions)))
        ids, scores = self._nearest(vectors, k)
        is_question_known = (np.linalg.norm(vectors, axis=1) > 0).tolist()
        results: list[list[Hit] | LayerwiseError] = []
        for text, is_known, positions, cosines in zip(questions, is_question_known, ids.tolist(), scores, strict=True):
            if not is_known:
                results.append(_make_unknown_error(text))
                continue
            pairs = zip(positions, cosines, strict=True)
            results.append([Hit(self.name(at), float(score), self.text(at)) for at, score in pairs])
        return results

    def _nearest(self, vectors: Floats, k: int) -> tuple[Ids, Floats]:
        """Return the positions and cosines of the k passages nearest to vectors of length one (Q, D), both (Q, k)."""
        ids = np.zeros((len(vectors), 0), dtype=np.int64)
        scores = np.zeros((len(vectors), 0), dtype=np.float32)
        for start, chunk_scores in self._scores(vectors):
            chunk_positions, best = similarity.top_k(chunk_scores, k)
            ids, scores = np.concatenate([ids, chunk_positions + start], 1), np.concatenate([scores, best], 1)
            order, scores = similarity.top_k(scores, k)
            ids = np.take_along_axis(ids, order, 1)
        return ids, scores

    def _scores(self, vectors: Floats) -> Iterator[tuple[int, Floats]]:
        """Yield the position of the first passage of each chunk, and the cosines (Q, chunk)."""
        step = max(1, CHUNK_BYTES // (4 * max(vectors.shape[1], len(vectors))))
        with safetensors.safe_open(self.path / VECTORS, framework="np") as file:  # mapped into memory
            table = file.get_slice("vectors")
            for start in range(0, len(self), step):
                with np.errstate(all="ignore"):  # vectors that are not finite raise an error below
                    scores = vectors @ table[start : min(start + step, len(self))].T
                if not np.abs(scores).max(initial=0) < 1.01:  # true for NaN too
                    raise make_damaged_error(
                        self.path / VECTORS, f"a vector of the passages from {start:,} on is not of length one"
                    )
                yield start, scores

    def ranks(self, questions: Sequence[str], relevant: Sequence[Sequence[str]]) -> list[Ids]:
        """Return the ranks, from 1, of the relevant passages of each question
        (`layerwise.functional.retrieval_metrics`); of equals the earlier one ranks first.

        Raises `DataError` for a passage that is not in the index, and for a question without known words.
        """
        vectors = similarity.normalize_rows(self.embedder.embed(list(questions)))
        for text, vector in zip(questions, vectors, strict=True):
            if not vector.any():
                raise _make_unknown_error(text)
        row = np.array([n for n, names in enumerate(relevant) for _ in names], dtype=np.int64)
        positions = np.array([self.position(name) for names in relevant for name in names], dtype=np.int64)
        cosines = np.zeros(len(positions), dtype=np.float32)
        for start, scores in self._scores(vectors):
            in_chunk = (positions >= start) & (positions < start + scores.shape[1])
            cosines[in_chunk] = scores[row[in_chunk], positions[in_chunk] - start]
        ranks = np.ones(len(positions), dtype=np.int64)
        for start, scores in self._scores(vectors):  # the same products again
            for n in range(len(positions)):
                line = scores[row[n]]
                before = positions[n] - start
                ranks[n] += int((line > cosines[n]).sum()) + int((line[: max(0, before)] == cosines[n]).sum())
        return [ranks[row == n] for n in range(len(relevant))]

    # -- texts ---------------------------------------------------------------------------------------------------------

    def text(self, position: int) -> str:
        """Return the text of a passage."""
        return self._piece("texts", position)

    def name(self, position: int) -> str:
        """Return the name of a passage."""
        return self._piece("names", position)

    def position(self, name: str) -> int:
        """Return the position of a passage by its name. Raises `DataError` if it is not in the index."""
        position = self._positions.get(name)
        if position is None:
            raise DataError(
                f"there is no passage '{name}' in {self.path}",
                expected=f"names like {', '.join(list(self._positions)[:MAX_SHOWN])}",
            )
        return position

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Each passage's position by its name."""
        names = unpack_texts(self._texts.get_tensor("names"), self._ends["names"], self.path / TEXTS)
        return {name: position for position, name in enumerate(names)}

    @cached_property
    def _texts(self) -> Any:
        """The texts' file, mapped into memory."""
        return safetensors.safe_open(self.path / TEXTS, framework="np")

    @cached_property
    def _ends(self) -> dict[str, Ids]:
        """The ends of texts and names."""
        return {kind: self._texts.get_tensor(f"{kind}_ends") for kind in ("texts", "names")}

    def _piece(self, kind: str, position: int) -> str:
        """Return one of the texts or names."""
        ends = self._ends[kind]
        data: NDArray[np.uint8] = self._texts.get_slice(kind)[
            int(ends[position - 1]) if position else 0 : int(ends[position])
        ]
        return data.tobytes().decode("utf-8", "replace")


def _make_unknown_error(text: str) -> DataError:
    """Return the error for a question without known words."""
    return DataError(f"nothing is known of the question '{text}'", expected="one word at least that has a vector")
