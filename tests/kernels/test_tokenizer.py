"""The compiled tokenizer and the counting of pairs, against plain Python with `unicodedata`."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layerwise.data.tables.table_options import Tokens
from layerwise.data.text import char_classes
from layerwise.kernels.text import END, GAP
from layerwise.kernels.text.bigrams import PairCounter, PairCounts, PairMerger
from layerwise.kernels.text.tokenizer import InvalidUtf8Error, Tokenizer, WordTable, index_words
from layerwise.kernels.text.tokenizer_loops import MAX_TOKEN_BYTES, Ids, recode, tally

LINE = re.compile("[\n\r\u2028\u2029]")
PLAIN = settings(max_examples=60, deadline=None)


class Held:
    """A sink that holds what it is given."""

    def __init__(self) -> None:
        self.tokens = np.empty(0, dtype=np.int32)

    def write(self, tokens: Ids) -> None:
        self.tokens = np.concatenate([self.tokens, tokens])

    def renumber(self, mapping: Ids) -> None:
        recode(self.tokens, mapping)


def read(
    pieces: list[bytes], tokens: Tokens = "words", *, lower: bool = True, most: int = 1 << 20
) -> tuple[list[str], WordTable]:
    """Tokenize; return the tokens as text, line feeds for sentence ends, ``?`` for gaps."""
    held, table = Held(), WordTable(max_words=most)
    tokenizer = Tokenizer(
        char_classes.compute_char_classes(tokens), char_classes.compute_char_folds(tokens, lower), table, held
    )
    for piece in pieces:
        tokenizer.feed(piece)
    tokenizer.feed(b"", last=True)
    names = {END: "\n", GAP: "?"} | {k: table.word(k).decode() for k in range(len(table))}
    return [names[t] for t in held.tokens.tolist()], table


@cache
def is_alone(c: str) -> bool:
    """Whether a letter is written without blanks between words, by its name."""
    name = unicodedata.name(c, "")
    kinds = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO")
    return (
        name.startswith(kinds)
        or c in "々〆〇ー〻〼ｰﾞﾟ\u309f\u30ff"
        or name.startswith(("HENTAIGANA", "HANGZHOU", "VERTICAL KANA"))
    )


def letters(c: str) -> str:
    """Return a letter for the kind of a character: Word, Mark, Single, Inner, Hidden, Line or a blank."""
    if LINE.match(c):
        return "L"
    if c == "\u00ad":
        return "H"
    if c in "'\u2019\u200c\u200d":
        return "I"
    kind = unicodedata.category(c)[0]
    return "M" if kind == "M" else " " if kind not in "LN" else "S" if is_alone(c) else "W"


def simple_lower(c: str) -> str:
    """Return the simple lower case of a character."""
    return "i" if c == "İ" else c.lower()


def plain(text: str, *, lower: bool = True) -> list[str]:
    """Cut text as `words` does, by a regular expression over the kinds of its characters."""
    shown = [(letters(c), c) for c in text if letters(c) != "H"]
    kinds, kept = "".join(kind for kind, _ in shown), "".join(c for _, c in shown)
    out: list[str] = []
    for found in re.finditer(r"SM*|[WM][WM]*(?:IW[WM]*)*|L", kinds):
        word = kept[found.start() : found.end()]
        if found[0] == "L":
            out += ["\n"] * (bool(out) and out[-1] != "\n")
        else:
            word = word.replace("\u2019", "'")
            out.append("".join(map(simple_lower, word)) if lower else word)
    return [*out, "\n"] if out and out[-1] != "\n" else out


WRITTEN = st.text(
    st.one_of(
        st.characters(exclude_categories=("Cs",)),
        st.sampled_from("abzABZ09 '’\n\r.,-_ÄßİΣς́中文かカー々ｶﾞ한국\u200d\u00ad\u3099\u2028💡\U00020000\U0001d400"),
    ),
    max_size=40,
)


@PLAIN
@given(WRITTEN, st.booleans())
@example("don't 'quoted' rock’n’roll’ l''eau O'\u0301x", True)
@example("我爱北京, I love か\u3099き", True)
@example("soft\u00adhyphen \u00adat \u00ad\u0301 end\u00ad", True)
def test_words_are_those_of_the_plain_tokenizer(text: str, lower: bool) -> None:
    found, table = read([text.encode()], lower=lower)
    assert found == plain(text, lower=lower)
    assert {table.word(k).decode(): n for k, n in enumerate(table.counts)} == Counter(w for w in found if w != "\n")


@PLAIN
@given(WRITTEN)
def test_whitespace_is_as_str_split(text: str) -> None:
    found, _ = read([text.encode()], "whitespace", lower=False)
    lines = [line.split() for line in LINE.split(text)]
    assert found == [token for line in lines if line for token in (*line, "\n")]


@PLAIN
@given(WRITTEN)
def test_characters_are_all_but_blanks_and_controls_with_their_marks(text: str) -> None:
    found, _ = read([text.encode()], "characters", lower=False)
    out: list[str] = []
    open_ = False
    for c in text:
        if LINE.match(c):
            out += ["\n"] * (bool(out) and out[-1] != "\n")
        elif unicodedata.category(c) in ("Cc", "Cf") or c.isspace():
            pass
        elif unicodedata.category(c)[0] == "M" and open_:
            out[-1] += c
        else:
            out.append(c)
        open_ = not (LINE.match(c) or unicodedata.category(c) in ("Cc", "Cf") or c.isspace())
    assert found == ([*out, "\n"] if out and out[-1] != "\n" else out)


@PLAIN
@given(WRITTEN, st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_pieces_may_end_within_words_and_characters(text: str, sizes: list[int]) -> None:
    data, pieces = text.encode(), []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    assert read([*pieces, data])[0] == read([text.encode()])[0]


@PLAIN
@given(st.lists(st.one_of(st.binary(max_size=5), st.text(max_size=5).map(str.encode)), max_size=5), st.integers(1, 4))
@example([b"ok \xed\xa0\x80"], 1)  # a surrogate
@example([b"\xc0\xaf"], 2)  # too long a form
@example([b"\xf4\x90\x80\x80"], 3)  # beyond the last
@example([b"cut \xe4\xb8"], 4)
def test_bytes_that_are_no_utf8_are_found_where_python_finds_them(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    wrong = None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong is None:
        read(pieces)
        return
    with pytest.raises(InvalidUtf8Error) as caught:
        read(pieces)
    assert (caught.value.at, caught.value.byte) == (wrong, data[wrong])


def test_many_words_of_many_lengths() -> None:
    """The tables grow many times, in the middle of pieces."""
    words = [f"{k * 7919 % 40_009:x}" * (1 + k % 9) for k in range(40_000)]
    found, table = read([" ".join(words).encode()], "whitespace")
    assert found == [*words, "\n"]
    assert [table.word(k).decode() for k in range(len(table))] == list(dict.fromkeys(words))
    assert index_words(table, [b"not-there", words[5].encode()]).tolist() == [len(set(words)), 5]


def test_a_long_word_is_cut_wherever_pieces_end() -> None:
    text = b"x" * (2 * MAX_TOKEN_BYTES + 5) + b" " + "é".encode() * MAX_TOKEN_BYTES
    whole, _ = read([text])
    assert [len(word.encode()) for word in whole] == [
        MAX_TOKEN_BYTES,
        MAX_TOKEN_BYTES,
        5,
        MAX_TOKEN_BYTES,
        MAX_TOKEN_BYTES,
        1,
    ]
    assert read([text[at : at + 300] for at in range(0, len(text), 300)])[0] == whole


def test_the_rarest_words_are_forgotten_when_there_are_too_many() -> None:
    """Frequent words are kept and counted exactly; forgotten ones are gaps; every number is that of the word that stood
    there."""
    rng = np.random.default_rng(0)
    words = [f"w{k}" for k in np.minimum(rng.zipf(1.3, 20_000), 5000)]
    found, table = read([" ".join(words).encode()], "whitespace", most=500)
    assert len(found) == len(words) + 1
    assert all(have in (want, "?") for have, want in zip(found, words, strict=False))
    assert len(table) <= 500 < len(set(words))
    assert table.forgotten >= 1
    counts, kept = Counter(words), {table.word(k).decode(): int(n) for k, n in enumerate(table.counts)}
    assert kept == {word: n for word, n in Counter(found).items() if word not in ("?", "\n")}
    top = [word for word, _ in counts.most_common(50)]
    assert {word: kept[word] for word in top} == {word: counts[word] for word in top}


def test_tally_and_recode_leave_marks_alone() -> None:
    tokens = np.array([[0, 2, END], [GAP, 2, 1]], dtype=np.int32)
    counts = np.array([10, 0, 0], dtype=np.int64)
    tally(tokens, counts)
    recode(tokens, np.array([5, GAP, 0], dtype=np.int32))
    assert (counts.tolist(), tokens.tolist()) == ([11, 1, 2], [[5, 0, END], [GAP, 0, GAP]])


STREAM = st.lists(st.integers(-2, 6), max_size=60)


def split(stream: list[int], size: int) -> list[Ids]:
    """Return a stream in pieces."""
    return [np.array(stream[at : at + size], dtype=np.int32) for at in range(0, len(stream), size)]


@PLAIN
@given(STREAM, st.integers(1, 9))
def test_pairs_are_counted(stream: list[int], size: int) -> None:
    pairs = PairCounter()
    for piece in split(stream, size):
        pairs.count(piece)
    naive = Counter((a, b) for a, b in pairwise(stream) if a >= 0 and b >= 0)
    found = pairs.find_frequent(1)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [
        (a, b, n) for (a, b), n in sorted(naive.items()) if n > 1
    ]


@PLAIN
@given(STREAM, st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12), st.integers(1, 9))
def test_pairs_are_joined_from_left_to_right(stream: list[int], chosen: set[tuple[int, int]], size: int) -> None:
    ids = {pair: 100 + k for k, pair in enumerate(sorted(chosen))}
    first, second, names = (
        np.array(column, dtype=np.int32) for column in ([a for a, _ in ids], [b for _, b in ids], [*ids.values()])
    )
    joiner = PairMerger(first, second, names)
    found = [joiner.merge(piece) for piece in split(stream, size)] + [joiner.merge(np.empty(0, np.int32), last=True)]
    naive, at = [], 0
    while at < len(stream):
        pair = tuple(stream[at : at + 2])
        naive.append(ids.get(pair, stream[at]))  # type: ignore[arg-type]
        at += 2 if pair in ids else 1
    assert np.concatenate(found).tolist() == naive


def test_the_rarest_pairs_are_forgotten_when_there_are_too_many() -> None:
    rng = np.random.default_rng(0)
    stream = np.minimum(rng.zipf(1.5, 20_000), 300).astype(np.int32)
    pairs, whole = PairCounter(slots=1 << 10), PairCounter()
    for k in range(0, len(stream), 1000):
        pairs.count(stream[k : k + 1000])
        whole.count(stream[k : k + 1000])
    assert pairs.forgotten >= 1
    assert len(whole.find_frequent(0).counts) > pairs.max_pairs >= len(pairs.find_frequent(0).counts)

    def often(found: PairCounts) -> dict[tuple[int, int], int]:
        return {(a, b): n for a, b, n in zip(*(column.tolist() for column in found), strict=True) if n > 100}

    assert often(pairs.find_frequent(0)) == often(whole.find_frequent(0))
