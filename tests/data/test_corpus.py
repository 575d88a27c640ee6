"""Text as a source, against a plain tokenizer."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pty
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from layerwise.cli import main
from layerwise.data.cache_folders import INDEX
from layerwise.data.load import Options, load_splits
from layerwise.data.source import Splits, fetch
from layerwise.data.text import corpus_build, text_files
from layerwise.data.text.corpus import SMALL, Recoded, count_words, find_corpus
from layerwise.data.text.corpus_build import TokenizerOptions
from layerwise.data.text.text_files import TextFiles
from layerwise.errors import DamagedError, DataError, UsageError
from layerwise.kernels.text import END, GAP

LINES = [f"The cat no. {k % 7} sat on the mat, didn't it? Yes: {k}." for k in range(600)]


def open_text(source: str | Path, **more: object) -> Splits:
    """Open a text with its tokens kept in the test's own folder."""
    return load_splits(Options(source=str(source), cache="cache", **more), seed=0)  # type: ignore[arg-type]


def split_words(lines: list[str]) -> list[list[str]]:
    """Cut English text as `words` does."""
    return [re.findall(r"[a-z0-9]+(?:'[a-z0-9]+)*", line.lower()) for line in lines]


@pytest.fixture
def path() -> Path:
    Path("text.txt").write_text("\n".join(LINES), encoding="utf-8")
    return Path("text.txt")


def test_blocks_are_the_text_in_order(path: Path) -> None:
    splits = open_text(path)
    corpus = find_corpus(splits.train)
    assert corpus is not None
    stream = np.concatenate([corpus[i].input for i in range(len(corpus))])
    wanted = [word for line in split_words(LINES) for word in (*line, "\n")]
    assert [corpus.words[t] if t >= 0 else "\n" for t in stream[: len(wanted)]] == wanted
    assert (stream[len(wanted) :] == END).all()
    assert len(stream) == len(corpus) * corpus.schema.shape[0]
    assert list(corpus.words) == list(dict.fromkeys(w for w in wanted if w != "\n"))
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == Counter(w for w in wanted if w != "\n")


def test_parts_are_blocks_that_meet_nowhere_and_are_counted_alone(path: Path) -> None:
    splits = open_text(path)
    ids = [set(splits.part(p).indices.tolist()) for p in ("train", "val", "test")]  # type: ignore[attr-defined]
    assert sum(map(len, ids)) == len(set().union(*ids))
    assert [len(i) for i in ids] == [6, 1, 1]
    for part in ("train", "val", "test"):
        tokens = np.asarray(fetch(splits.part(part), np.arange(len(splits.part(part)))).inputs)
        np.testing.assert_array_equal(
            count_words(splits.part(part)), np.bincount(tokens[tokens >= 0], minlength=len(count_words(splits.train)))
        )


def test_recoded_sends_ids_through_a_mapping_and_leaves_the_corpus_as_it_is(path: Path) -> None:
    splits = open_text(path)
    counts = count_words(splits.train)
    mapping = np.where(counts > 100, np.arange(len(counts)) + 7, GAP).astype(np.int32)
    recoded, before = Recoded(splits.train, mapping), np.array(splits.train[2].input)
    np.testing.assert_array_equal(recoded[2].input, [END if t == END else mapping[t] for t in before])
    np.testing.assert_array_equal(splits.train[2].input, before)
    other = pickle.loads(pickle.dumps(recoded))
    assert other.fingerprint() == recoded.fingerprint() != splits.train.fingerprint()
    np.testing.assert_array_equal(other.fetch([1, 0]).inputs, recoded.fetch([1, 0]).inputs)


def read_stream(splits: Splits) -> list[str]:
    """Return the whole text of a corpus as words, line feeds for sentence ends."""
    corpus = find_corpus(splits.train)
    assert corpus is not None
    tokens = np.asarray(corpus.fetch(np.arange(len(corpus))).inputs).ravel()[: corpus.index.tokens]
    names = {END: "\n", GAP: "?"} | dict(enumerate(corpus.words))
    return [names[token] for token in tokens.tolist()]


def test_packed_piped_and_in_a_folder_it_is_the_same_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = path.read_bytes()
    Path("text.txt.gz").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    with pa.CompressedOutputStream(pa.OSFile("text.zst", "w"), "zstd") as packed:
        packed.write(data)
    lines = data.decode().splitlines(keepends=True)
    Path("folder/b").mkdir(parents=True)
    Path("folder/a.txt").write_text("\ufeff" + "".join(lines[:250]), encoding="utf-8")
    Path("folder/b/c.txt").write_text("".join(lines[250:]), encoding="utf-8")
    Path("folder/a2.txt").write_text("", encoding="utf-8")
    Path("gbk.txt").write_bytes(data.decode().encode("gbk"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    expected_words, piped = read_stream(open_text(path)), open_text("-")
    assert read_stream(piped) == expected_words
    assert all(read_stream(open_text(source)) == expected_words for source in ("text.txt.gz", "text.zst", "folder"))
    assert read_stream(open_text("gbk.txt", encoding="gbk")) == expected_words
    assert read_stream(open_text("folder", files="c.*")) == [
        word for line in split_words(LINES[250:]) for word in (*line, "\n")
    ]
    folder = piped.notes[-1].split()[5].rstrip(":")  # where standard input can be read again
    assert read_stream(load_splits(Options(source=folder), seed=0)) == expected_words


def test_parts_that_are_given_are_kept(path: Path) -> None:
    for name, lines in (("train.txt", LINES), ("valid.txt", LINES[:30]), ("test.txt", LINES[30:90])):
        Path("parts").mkdir(exist_ok=True)
        Path("parts", name).write_text("\n".join(lines), encoding="utf-8")
    splits = open_text("parts")
    assert [len(splits.part(p)) for p in ("train", "val", "test")] == [8, 1, 1]
    assert count_words(splits.val).sum() == sum(map(len, split_words(LINES[:30])))
    Path("parts/train.txt").unlink()
    with pytest.raises(DataError, match="parts has no training part"):
        open_text("parts")


def test_too_little_text_is_refused() -> None:
    Path("short.txt").write_text("To be, or not to be.\n" * 100, encoding="utf-8")
    with pytest.raises(DataError, match="nothing is left for the val and test part") as caught:
        open_text("short.txt")
    assert "at least 3 blocks of 1024 tokens" in str(caught.value)
    Path("empty.txt").write_text("... --- ...\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.txt has no words"):
        open_text("empty.txt")


def test_a_corpus_is_found_again_until_the_text_or_the_cutting_changes(path: Path) -> None:
    first = find_corpus(open_text(path).train)
    assert first is not None
    modified = Path(first.folder, "tokens.bin").stat().st_mtime_ns
    again = find_corpus(open_text(path).train)
    assert again == first
    assert Path(first.folder, "tokens.bin").stat().st_mtime_ns == modified
    other = open_text(path, lower=False)
    assert other.fingerprint() != open_text(path).fingerprint()
    assert "The" in read_stream(other)
    path.write_text("\n".join(LINES[::-1]), encoding="utf-8")
    assert read_stream(open_text(path))[:5] == split_words(LINES[-1:])[0][:5]
    Path("copy.txt").write_text("\n".join(LINES), encoding="utf-8")
    copy = find_corpus(open_text("copy.txt").train)
    assert copy is not None
    assert (copy.folder != first.folder, copy.fingerprint()) == (
        True,
        first.fingerprint(),
    )  # contents count, not places


def test_a_damaged_corpus_is_refused_and_built_anew(path: Path) -> None:
    splits = open_text(path)
    corpus = find_corpus(splits.train)
    assert corpus is not None
    expected_words = read_stream(splits)
    with Path(corpus.folder, "tokens.bin").open("r+b") as stream:
        stream.seek(1024 * 4 + 8)
        stream.write(b"\x07")
    fetch(corpus, [0, 2])  # blocks are checked one by one
    with pytest.raises(DamagedError, match=r"tokens\.bin is not what was written"):
        fetch(corpus, [1])
    assert read_stream(open_text(path)) == expected_words
    with Path(corpus.folder, "counts.npy").open("r+b") as stream:
        stream.truncate(200)
    assert read_stream(open_text(path)) == expected_words
    Path(corpus.folder, "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError, match="is not whole"):
        load_splits(Options(source=corpus.folder), seed=0)


@pytest.mark.parametrize("name", [*SMALL[:4], "phrases.json", INDEX])
def test_one_flipped_bit_in_any_small_file_of_a_corpus_is_found_and_mended(
    name: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Words, places, counts, sums and phrases decide the vocabulary: they carry checksums, and what differs is made
    again, with a note."""
    splits = find_corpus(open_text(path, phrases=1).train)
    assert splits is not None
    words, counts, pairs = list(splits.words), splits.counts.tolist(), splits.phrases
    file = Path(splits.folder, name)
    good = file.read_bytes()
    for place in {0, len(good) // 2, len(good) - 2}:
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        caplog.clear()
        with caplog.at_level("WARNING", "layerwise"):
            again = find_corpus(open_text(path, phrases=1).train)
        assert again is not None
        assert (list(again.words), again.counts.tolist(), again.phrases) == (words, counts, pairs)
        assert f"{file} is not as it was written: the folder is made again" in caplog.text
        assert file.read_bytes() == good


def test_what_is_not_ours_in_the_cache_stays(path: Path) -> None:
    """A novel's folder with a name of ours, files with names of ours, and no room at all: only corpora of ours make
    room."""
    novel = Path("cache/novel.part")
    mine = Path("cache/mycorp")
    for folder in (novel, mine):
        folder.mkdir(parents=True)
        (folder / "tokens.bin").write_bytes(bytes(10_000))
        (folder / INDEX).write_text("{}")
    for gib in (1e-5, 10):
        with suppress(DataError):
            open_text(path, cache_gib=gib)
    for folder in (novel, mine):
        assert sorted(p.name for p in folder.iterdir()) == [INDEX, "tokens.bin"]


def test_a_folder_of_the_users_in_the_place_of_a_corpus_is_refused(path: Path) -> None:
    splits = find_corpus(open_text(path).train)
    assert splits is not None
    (Path(splits.folder) / ".layerwise").unlink()
    (Path(splits.folder) / "chapter").write_text("mine")
    with pytest.raises(UsageError, match="Layerwise did not make it; it stays as it is"):
        open_text(path)
    assert (Path(splits.folder) / "chapter").read_text() == "mine"


def test_corpora_are_bounded_together(path: Path) -> None:
    size = 2 * 4 * 1024 * 8 + 100  # two of these
    corpora = []
    for k in range(3):
        Path(f"{k}.txt").write_text("\n".join([f"text {k}", *LINES]), encoding="utf-8")
        corpora.append(find_corpus(open_text(f"{k}.txt", cache_gib=size / 2**30).train))
        time.sleep(0.02)  # their times tell which was used last
    assert [Path(one.folder).exists() for one in corpora if one] == [False, True, True]
    with pytest.raises(DataError, match=r"there is no room for the tokens of text\.txt") as caught:
        open_text(path, cache_gib=1e-5)
    assert "data.cache_gib allows" in str(caught.value)
    Path("parts").mkdir()
    for name in ("train", "val", "test"):
        Path("parts", f"{name}.txt").write_text("\n".join([name, *LINES]), encoding="utf-8")
    with pytest.raises(DataError, match="the cache is too small for the tokens of all splits"):
        open_text("parts", cache_gib=size / 2**30)


def test_data_and_standard_input_from_the_command_line(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["data", "text.txt", "--set", "data.cache=cache", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    counts = count_words(open_text(path).train)
    assert (text["words"], text["different"]) == (counts.sum(), (counts > 0).sum())
    assert [count for _, count in text["often"]] == sorted(counts, reverse=True)[:10]
    assert main(["data", "text.txt", "--set", "data.cache=cache"]) == 0
    assert "parts\ttrain 6, val 1, test 1 (blocks of 1,024 tokens)" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"... ---")))
    assert main(["train", "mlp", "--data", "-", "--set", "data.cache=cache"]) == 2
    assert "standard input has no words" in capsys.readouterr().err


def test_bytes_that_are_no_utf8_are_named() -> None:
    Path("wrong.txt").write_bytes(("word\n" * 70_000).encode() + b"caf\xe9 noir\n")
    with pytest.raises(DataError, match=r"wrong\.txt is not valid UTF-8") as caught:
        open_text("wrong.txt")
    assert "the byte 0xe9 at 350003; it is probably cp1252" in str(caught.value)


def test_a_folder_in_another_encoding_says_so() -> None:
    Path("folder").mkdir()
    for name in ("a.txt", "b.txt"):
        Path("folder", name).write_bytes("我来到北京清华大学。\n".encode("gbk") * 500)
    with pytest.raises(DataError, match=r"a\.txt is not valid UTF-8") as caught:
        open_text("folder")
    assert "it is probably gbk" in str(caught.value)


def test_a_terminal_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with open(leader, "rb"), open(follower, encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(UsageError, match="nothing is piped in"):
            open_text("-")


def test_a_packed_file_that_breaks_off_is_refused(path: Path) -> None:
    packed = gzip.compress(path.read_bytes())
    Path("cut.txt.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cut\.txt\.gz cannot be decompressed"):
        open_text("cut.txt.gz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "skip"}, "data.on_error has no meaning for text"),
        ({"positive": "x"}, "data.positive has no meaning for text"),
        ({"files": "*.txt"}, "data.files has no meaning for a single file"),
    ],
)
def test_options_of_other_sources_are_refused(path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_text(path, **options)


def test_options_of_text_are_refused_for_tables_and_named_sets() -> None:
    Path("table.csv").write_text("a,b\n" + "1,x\n2,y\n" * 9, encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.tokens has no meaning for tables"):
        load_splits(Options(source="table.csv", tokens="characters"), seed=0)
    with pytest.raises(UsageError, match=r"data\.phrases has no meaning for the data set digits"):
        load_splits(Options(source="digits", phrases=1), seed=0)


def test_a_target_makes_a_table_of_it(path: Path) -> None:
    with pytest.raises(UsageError, match="there is no column 'x'"):
        load_splits(Options(source=str(path), target="x"), seed=0)


def test_tables_without_an_ending_stay_tables_and_lists_of_words_stay_text() -> None:
    Path("numbers.txt").write_text("a,b,kind\n" + "1,2,x\n2,2.5,y\n" * 20, encoding="utf-8")
    assert load_splits(Options(source="numbers.txt"), seed=0).train.schema.kind == "row"
    Path("lines.txt").write_text("roses are red,\nviolets are blue,\nsugar is sweet,\n" * 400, encoding="utf-8")
    assert open_text("lines.txt").train.schema.kind == "text"


def test_words_that_are_too_many_are_noted(path: Path) -> None:
    place, text = Path("cache"), TextFiles("text.txt", (str(path),))
    corpus = corpus_build.open_corpus(place, text, TokenizerOptions(max_words=50), limit=1 << 30)
    assert "text.txt has more than 50 different words: the rarest were left out on the way" in corpus.index.notes[0]
    tokens = np.asarray(corpus.fetch(np.arange(len(corpus))).inputs)
    assert (tokens == GAP).any()
    np.testing.assert_array_equal(np.bincount(tokens[tokens >= 0]), corpus.counts)
    assert {"the", "cat", "didn't"} <= set(corpus.words)


def join_naively(sentences: list[list[str]], threshold: float, discount: float) -> list[list[str]]:
    """Join phrases as word2phrase does, naively."""
    single = Counter(word for sentence in sentences for word in sentence)
    double = Counter(pair for sentence in sentences for pair in pairwise(sentence))
    total, out = sum(single.values()), []
    for sentence in sentences:
        at, new = 0, []
        while at < len(sentence):
            a, b = sentence[at], sentence[at + 1] if at + 1 < len(sentence) else ""
            if b and (double[a, b] - discount) * total / (single[a] * single[b]) > threshold:
                new.append(f"{a}_{b}")
                at += 1
            else:
                new.append(a)
            at += 1
        out.append(new)
    return out


def test_phrases_are_those_of_a_naive_count(path: Path) -> None:
    rng = np.random.default_rng(3)
    cities = ["new york times", "new york", "new delhi", "los angeles", "angeles new", "a_b"]
    lines = [" ".join(rng.choice([*cities, *"abcdefghijkl"], size=9).tolist()) for _ in range(900)]
    path.write_text("\n".join(lines), encoding="utf-8")
    splits = open_text(path, tokens="whitespace", phrases=2, phrase_threshold=3.0, phrase_discount=2.0)
    naive = [line.split() for line in lines]
    for _ in range(2):
        naive = join_naively(naive, 3.0, 2.0)
    wanted = [word for line in naive for word in (*line, "\n")]
    assert read_stream(splits) == wanted
    assert "new_york_times" in wanted
    corpus = find_corpus(splits.train)
    assert corpus is not None
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == Counter(w for w in wanted if w != "\n")


def test_given_parts_have_the_phrases_of_training() -> None:
    Path("parts").mkdir()
    contents = {
        "train": "ice cream melts in new york\nnew ice york cream in\n" * 400,
        "val": "new york has ice cream\n",
        "test": "x\n",
    }
    for name, text in contents.items():
        Path("parts", f"{name}.txt").write_text(text, encoding="utf-8")
    splits = open_text("parts", phrases=1, phrase_threshold=1.0)
    corpus = find_corpus(splits.val)
    assert corpus is not None
    assert [*corpus.words] == ["has", "ice_cream", "new_york"]  # what was joined comes last, in training's order


def test_words_of_chinese_text_are_found_by_jieba(monkeypatch: pytest.MonkeyPatch) -> None:
    import jieba

    Path("small.txt").write_text("来到 9 v\n北京 9 ns\n清华 3 nz\n大学 3 n\n清华大学 9 nt\n", encoding="utf-8")
    monkeypatch.setattr(jieba.dt, "dictionary", str(Path("small.txt").resolve()))  # its own takes seconds to read
    monkeypatch.setattr(jieba.dt, "initialized", False)
    monkeypatch.setattr(jieba.dt, "tmp_dir", ".")
    Path("chinese.txt").write_text("我来到北京清华大学，Tom 也来了。\n" * 500, encoding="utf-8")
    splits = open_text("chinese.txt", tokens="jieba")
    assert read_stream(splits)[:8] == ["我", "来到", "北京", "清华大学", "tom", "也", "来", "了"]
    assert read_stream(open_text("chinese.txt"))[:11] == [*"我来到北京清华大学", "tom", "也"]


def test_without_jieba_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    Path("chinese.txt").write_text("我来到北京清华大学。\n" * 500, encoding="utf-8")
    with pytest.raises(UsageError, match="package jieba, which is not installed"):
        open_text("chinese.txt", tokens="jieba")


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-6], lambda data: data[:20] + b"\xff" * 9 + data[29:]], ids=["cut", "changed"]
)
def test_refused_packed_texts_leave_no_memory_behind(spoil: Callable[[bytes], bytes]) -> None:
    """A program that is offered bad files all day does not grow."""
    Path("t.gz").write_bytes(spoil(gzip.compress(b"some words\n" * 20)))

    def refuse(times: int) -> int:
        for _ in range(times):
            with pytest.raises(DataError, match=r"t\.gz cannot be decompressed"):
                list(text_files.read_pieces("t.gz"))
        return psutil.Process().memory_info().rss

    before = refuse(500)  # what was free in the heap before is in use again
    assert refuse(2000) - before < 8 << 20
