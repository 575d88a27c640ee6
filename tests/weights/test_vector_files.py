"""Word vectors in files: every form against gensim's and the C program's, whatever the numbers; what is damaged is
refused in words."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import layerwise as lw
from layerwise.errors import DamagedError, DataError, UsageError
from layerwise.weights import vector_files
from layerwise.weights.embedding_layer import embedding
from layerwise.weights.vector_files import KINDS, detect_kind, read_vectors, write_vectors
from layerwise.weights.vectors import VectorTable

WORDS = st.text(st.characters(exclude_characters=" \n", exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tables(draw: st.DrawFn, words: st.SearchStrategy[str] = WORDS) -> VectorTable:
    """Draw any table: up to eight words of up to six numbers, with counts or without."""
    chosen = draw(st.lists(words, min_size=1, max_size=8, unique=True))
    matrix = draw(arrays.arrays(np.float32, (len(chosen), draw(st.integers(2, 6))), elements=NUMBERS))
    counts = draw(st.none() | arrays.arrays(np.int64, len(chosen), elements=st.integers(0, 2**60)))
    return VectorTable(chosen, matrix, counts)


def bits(matrix: np.ndarray) -> bytes:
    """Return a matrix's bytes: −0 is another number than 0."""
    return np.ascontiguousarray(matrix).tobytes()


def small() -> VectorTable:
    """Return three words of four numbers."""
    rng = np.random.default_rng(0)
    return VectorTable(["the", "神", "ark_of_god"], rng.normal(size=(3, 4)).astype(np.float32), np.array([9, 5, 2]))


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(table=tables())
def test_what_is_written_is_read_bit_for_bit(kind: vector_files.Kind, table: VectorTable, tmp_path: Path) -> None:
    path = write_vectors(table, tmp_path / "a", kind=kind, overwrite=True)
    assert detect_kind(path) == kind
    found = read_vectors(path)
    assert found.words == table.words
    assert bits(found.matrix) == bits(table.matrix)
    if kind == "safetensors" and table.counts is not None:
        assert found.counts is not None
        assert found.counts.tolist() == table.counts.tolist()
    else:
        assert found.counts is None


@QUICK
@given(table=tables(st.text("a \n神", max_size=4)))
def test_safetensors_hold_any_word(table: VectorTable, tmp_path: Path) -> None:
    assert read_vectors(write_vectors(table, tmp_path / "a.safetensors", overwrite=True)).words == table.words


def gensims(table: VectorTable):
    """Return the same vectors as gensim has them."""
    from gensim.models import KeyedVectors

    theirs = KeyedVectors(table.dimensions)
    theirs.add_vectors(table.words, table.matrix)
    return theirs


@pytest.mark.parametrize("binary", [False, True])
@QUICK
@given(table=tables(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=9)))
def test_gensim_opens_our_files_and_we_open_gensims(binary: bool, table: VectorTable, tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_vectors(table, ours, kind="word2vec-binary" if binary else "word2vec", overwrite=True)
    gensims(table).save_word2vec_format(str(theirs), binary=binary)
    assert ours.read_bytes() == theirs.read_bytes()
    opened = KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert opened.index_to_key == table.words
    assert bits(opened.vectors) == bits(table.matrix)
    found = read_vectors(theirs)
    assert found.words == table.words
    assert bits(found.matrix) == bits(table.matrix)


def c_text(table: VectorTable) -> bytes:
    """Return what word2vec.c writes with -binary 0: fprintf(fo, "%s ", word), "%lf " for each number, then a
    newline."""
    rows = [
        f"{word} " + "".join(f"{x:f} " for x in row) + "\n"
        for word, row in zip(table.words, table.matrix.tolist(), strict=True)
    ]
    return (f"{len(table)} {table.dimensions}\n" + "".join(rows)).encode()


def c_binary(table: VectorTable) -> bytes:
    """Return what word2vec.c writes with -binary 1: the word, a space, the numbers, then a newline."""
    rows = [word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(table.words, table.matrix, strict=True)]
    return f"{len(table)} {table.dimensions}\n".encode() + b"".join(rows)


def test_the_c_programs_files_are_read(tmp_path: Path) -> None:
    table, path = small(), tmp_path / "vectors"
    path.write_bytes(c_binary(table))
    assert detect_kind(path) == "word2vec-binary"
    assert bits(read_vectors(path).matrix) == bits(table.matrix)
    path.write_bytes(c_text(table))
    assert detect_kind(path) == "word2vec"
    np.testing.assert_allclose(read_vectors(path).matrix, table.matrix, atol=5.1e-7)


def test_numbers_at_newlines_and_spaces_are_no_ends(tmp_path: Path) -> None:
    """Floats whose bytes are all newlines or spaces, in both programs' binary files."""
    odd = np.frombuffer(b"\n\n\n\n" + b"    " + b"\n \n ", dtype="<f4")
    table = VectorTable(["a", "b"], np.stack([odd, odd[::-1]]))
    for data in (c_binary(table), c_binary(table).replace(b" \n\n\n\n    \n \n \n", b" \n\n\n\n    \n \n ")):
        (tmp_path / "v").write_bytes(data)
        assert bits(read_vectors(tmp_path / "v").matrix) == bits(table.matrix)


def test_gloves_words_may_have_spaces(tmp_path: Path) -> None:
    """The vectors of 840 billion words have such rows."""
    path = tmp_path / "glove.txt"
    path.write_text("the 0.5 -1.25\n. . . 1 2e-3\nat name@domain.com 3 4\n", encoding="utf-8")
    found = read_vectors(path)
    assert found.words == ["the", ". . .", "at name@domain.com"]
    np.testing.assert_array_equal(found.matrix, np.array([[0.5, -1.25], [1, 2e-3], [3, 4]], dtype=np.float32))


def test_pieces_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files larger than what is looked at together: rows lie across the cuts."""
    rng = np.random.default_rng(1)
    table = VectorTable([f"word{n}" * (1 + n % 7) for n in range(300)], rng.normal(size=(300, 5)).astype(np.float32))
    monkeypatch.setattr(vector_files, "CHUNK_BYTES", 101)
    for kind in KINDS:
        found = read_vectors(write_vectors(table, tmp_path / kind, kind=kind))
        assert found.words == table.words
        assert bits(found.matrix) == bits(table.matrix)


# -- what is not right -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(kind: vector_files.Kind, tmp_path: Path) -> None:
    path = write_vectors(small(), tmp_path / "a", kind=kind)
    data = path.read_bytes()
    ends = (
        {at + 1 for at, byte in enumerate(data) if byte == ord("\n")} if kind == "glove" else set()
    )  # a whole row fewer: not to be seen
    for cut in sorted(set(range(0, len(data), 3)) - ends):
        path.write_bytes(data[:cut])
        with pytest.raises((DamagedError, DataError), match=r"a (is damaged|holds no word vectors)"):
            read_vectors(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_vectors_or_an_error_in_words(
    kind: vector_files.Kind, at: int, byte: int, tmp_path: Path
) -> None:
    path, whole = tmp_path / "a", tmp_path / kind
    if not whole.exists():
        write_vectors(small(), whole, kind=kind)
    data = bytearray(whole.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = read_vectors(path)
        except (DamagedError, DataError) as error:
            found, told = None, str(error)
    assert str(path) in told if found is None else np.isfinite(found.matrix).all()


BAD = {
    "more rows": (b"1 2\na 1 2\nb 3 4\n", r"more rows than it says\n  expected: 1 rows"),
    "fewer rows": (b"3 2\na 1 2\nb 3 4\n", r"cut off\n  expected: 3 .*\n  received: "),
    "fewer rows, long ones": (
        b"3 2\na 1.0000 2.0000\nb 3.0000 4.0000\n",
        r"cut off\n  expected: 3 rows\n  received: 2",
    ),
    "a short row": (
        b"2 2\na 1 2.25\nb 3\n",
        r"line 3 is no row of vectors\n  expected: a word and 2 numbers\n  received: b 3",
    ),
    "a word for a number": (b"2 2\na 1 2\nb 3 x\n", r"line 3 is no row"),
    "two numbers in one": (b"2 2\na 1 2\nb 3 4-5\n", r"line 3 is no row"),
    "NaN": (b"2 2\na 1 2\nb nan 4\n", r"the vector of 'b' \(row 2\) has a number that is not finite"),
    "too large": (b"2 2\na 1 2\nb 1e60 4\n", r"the vector of 'b' \(row 2\)|line 3 is no row"),
    "twice": (b"3 2\na 1 2\nb 3 4\na 5 6\n", r"the word 'a' comes twice: rows 1 and 3"),
    "not UTF-8": (b"2 2\na 1 2\n\xff\xfe 3 4\n", r"the word of row 3 is not UTF-8"),
    "no newline": (b"2 2\na 1.5 2.5\nb 3 4", r"its last line is not whole"),
    "too much to believe": (b"999999999999 300\na 1 2\n", r"cut off"),
    "no words": (b"0 5\n", r"holds no word vectors\n  expected: one word or more"),
    "nothing": (b"", r"holds no word vectors\n  .*\n  received: an empty file"),
    "prose": (b"In the beginning\n", r"holds no word vectors"),
    "GloVe, ragged": (b"a 1 2 3\nb 1 2\n", r"line 2 is no row"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_refused_in_words(name: str, tmp_path: Path) -> None:
    data, told = BAD[name]
    (tmp_path / "v.txt").write_bytes(data)
    with pytest.raises((DamagedError, DataError), match=told):
        read_vectors(tmp_path / "v.txt")


def test_other_safetensors_are_no_word_vectors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "net.safetensors"
    save_file({"weight": np.zeros((2, 2), dtype=np.float32)}, path)
    with pytest.raises(
        DataError, match=r"holds no word vectors\n  expected: tensors vectors, words, ends\n  received: weight"
    ):
        read_vectors(path)
    ok = {"vectors": np.zeros((2, 2), dtype=np.float32), "words": np.frombuffer(b"ab", dtype=np.uint8)}
    save_file({**ok, "ends": np.array([2, 1])}, path)
    with pytest.raises(DamagedError, match="its texts do not end where it says"):
        read_vectors(path)
    save_file({**ok, "ends": np.array([1, 2])}, path, metadata={"format": "99"})
    with pytest.raises(DamagedError, match="newer version"):
        read_vectors(path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    table = VectorTable(["a b"], np.ones((1, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"the word 'a b' cannot be written: in this form a word ends at a space"):
        write_vectors(table, tmp_path / "v.txt")
    with pytest.raises(UsageError, match=r"does not say how vectors are to be written"):
        write_vectors(table, tmp_path / "v.npy")
    write_vectors(table, tmp_path / "v.safetensors")
    with pytest.raises(UsageError, match="exists already"):
        write_vectors(table, tmp_path / "v.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]
    with pytest.raises(DataError, match=r"nothing.txt cannot be read: No such file"):
        read_vectors(tmp_path / "nothing.txt")


# -- a layer from a table ----------------------------------------------------------------------------------------------


def test_a_layer_has_the_tables_rows(tmp_path: Path) -> None:
    table = small()
    path = write_vectors(table, tmp_path / "v.bin")
    layer, coverage = lw.embedding(
        path, ["<pad>", "ark_of_god", "The", "the", "zebra"], padding="<pad>", lower=True, seed=3
    )
    weight = layer.weight.detach().numpy()
    assert layer.padding_idx == 0
    assert bits(weight[[1, 2, 3]]) == bits(table.matrix[[2, 0, 0]])
    assert not weight[0].any()
    assert weight[4].any()
    assert coverage == (4, 2, 1, ("zebra",))
    assert coverage.share == 0.75
    assert str(coverage) == "3 of 4 words have a vector (75.0%), 1 of them by their lower-case form; without: zebra"
    ids = torch.tensor([[3, 0]])
    assert torch.equal(layer(ids)[0, 0], torch.from_numpy(table.matrix[0]))
    frozen, _ = embedding(table, ["the", "zebra"], missing="zeros", trainable=False)
    assert not frozen.weight.requires_grad
    assert not frozen.weight[1].any()


def test_words_without_a_vector_begin_like_the_others() -> None:
    rng = np.random.default_rng(2)
    spread = np.array([0.1, 1.0, 5.0])
    table = VectorTable([f"w{n}" for n in range(500)], (7 + spread * rng.normal(size=(500, 3))).astype(np.float32))
    layer, _ = embedding(table, [*table.words, *(f"new{n}" for n in range(4000))])
    fresh = layer.weight.detach().numpy()[500:]
    np.testing.assert_allclose(fresh.mean(0), table.matrix.mean(0), atol=0.05 * spread.max())
    np.testing.assert_allclose(fresh.std(0), table.matrix.std(0), rtol=0.05)


def test_a_layer_for_nothing_is_refused() -> None:
    table = small()
    with pytest.raises(UsageError, match=r"(?s)no word of the vocabulary has a vector.*lower=True"):
        embedding(table, ["THE", "x"])
    with pytest.raises(UsageError, match="the vocabulary has the word 'x' twice"):
        embedding(table, ["x", "the", "x"])
    with pytest.raises(UsageError, match="is empty"):
        embedding(table, [])
    with pytest.raises(UsageError, match="the padding 'p' is not in the vocabulary"):
        embedding(table, ["the"], padding="p")
    with pytest.raises(UsageError, match=r"(?s)no vector of 'tha'.*did you mean 'the'\?"):
        table.vector("tha")
