"""Text as a source, against a plain tokeniser."""

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
from layerwise.data import corpus_build, texts
from layerwise.data.cache_folders import INDEX
from layerwise.data.corpus import SMALL, Recoded, corpus_of, counted
from layerwise.data.corpus_build import Cutting
from layerwise.data.open import Options, open_data
from layerwise.data.source import Splits, fetch
from layerwise.data.texts import Texts
from layerwise.errors import DamagedError, DataError, UsageError
from layerwise.kernels.tokens import END, GAP

LINES = [f"The cat no. {k % 7} sat on the mat, didn't it? Yes: {k}." for k in range(600)]


def opened(source: str | Path, **more: object) -> Splits:
    """Open a text with its tokens kept in the test's own folder."""
    return open_data(Options(source=str(source), cache="cache", **more), seed=0)  # type: ignore[arg-type]


def plain(lines: list[str]) -> list[list[str]]:
    """Cut English text as `words` does."""
    return [re.findall(r"[a-z0-9]+(?:'[a-z0-9]+)*", line.lower()) for line in lines]


@pytest.fixture
def path() -> Path:
    Path("text.txt").write_text("\n".join(LINES), encoding="utf-8")
    return Path("text.txt")


def test_blocks_are_the_text_in_order(path: Path) -> None:
    found = opened(path)
    corpus = corpus_of(found.train)
    assert corpus is not None
    stream = np.concatenate([corpus[i].input for i in range(len(corpus))])
    wanted = [word for line in plain(LINES) for word in (*line, "\n")]
    assert [corpus.words[t] if t >= 0 else "\n" for t in stream[: len(wanted)]] == wanted
    assert (stream[len(wanted) :] == END).all()
    assert len(stream) == len(corpus) * corpus.schema.shape[0]
    assert list(corpus.words) == list(dict.fromkeys(w for w in wanted if w != "\n"))
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == Counter(w for w in wanted if w != "\n")


def test_parts_are_blocks_that_meet_nowhere_and_are_counted_alone(path: Path) -> None:
    found = opened(path)
    ids = [set(found.part(p).indices.tolist()) for p in ("train", "val", "test")]  # type: ignore[attr-defined]
    assert sum(map(len, ids)) == len(set().union(*ids))
    assert [len(i) for i in ids] == [6, 1, 1]
    for part in ("train", "val", "test"):
        tokens = np.asarray(fetch(found.part(part), np.arange(len(found.part(part)))).inputs)
        np.testing.assert_array_equal(counted(found.part(part)), np.bincount(tokens[tokens >= 0], minlength=len(counted(found.train))))


def test_recoded_sends_ids_through_a_mapping_and_leaves_the_corpus_as_it_is(path: Path) -> None:
    found = opened(path)
    counts = counted(found.train)
    mapping = np.where(counts > 100, np.arange(len(counts)) + 7, GAP).astype(np.int32)
    recoded, before = Recoded(found.train, mapping), np.array(found.train[2].input)
    np.testing.assert_array_equal(recoded[2].input, [END if t == END else mapping[t] for t in before])
    np.testing.assert_array_equal(found.train[2].input, before)
    other = pickle.loads(pickle.dumps(recoded))
    assert other.fingerprint() == recoded.fingerprint() != found.train.fingerprint()
    np.testing.assert_array_equal(other.fetch([1, 0]).inputs, recoded.fetch([1, 0]).inputs)


def stream_of(found: Splits) -> list[str]:
    """Return the whole text of a corpus as words, line feeds for sentence ends."""
    corpus = corpus_of(found.train)
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
    whole, piped = stream_of(opened(path)), opened("-")
    assert stream_of(piped) == whole
    assert all(stream_of(opened(source)) == whole for source in ("text.txt.gz", "text.zst", "folder"))
    assert stream_of(opened("gbk.txt", encoding="gbk")) == whole
    assert stream_of(opened("folder", files="c.*")) == [word for line in plain(LINES[250:]) for word in (*line, "\n")]
    kept = piped.notes[-1].split()[5].rstrip(":")  # where standard input can be read again
    assert stream_of(open_data(Options(source=kept), seed=0)) == whole


def test_parts_that_are_given_are_kept(path: Path) -> None:
    for name, lines in (("train.txt", LINES), ("valid.txt", LINES[:30]), ("test.txt", LINES[30:90])):
        Path("parts").mkdir(exist_ok=True)
        Path("parts", name).write_text("\n".join(lines), encoding="utf-8")
    found = opened("parts")
    assert [len(found.part(p)) for p in ("train", "val", "test")] == [8, 1, 1]
    assert counted(found.val).sum() == sum(map(len, plain(LINES[:30])))
    Path("parts/train.txt").unlink()
    with pytest.raises(DataError, match="parts has no training part"):
        opened("parts")


def test_too_little_text_is_refused() -> None:
    Path("short.txt").write_text("To be, or not to be.\n" * 100, encoding="utf-8")
    with pytest.raises(DataError, match="nothing is left for the val and test part") as caught:
        opened("short.txt")
    assert "at least 3 blocks of 1024 tokens" in str(caught.value)
    Path("empty.txt").write_text("... --- ...\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.txt has no words"):
        opened("empty.txt")


def test_a_corpus_is_found_again_until_the_text_or_the_cutting_changes(path: Path) -> None:
    first = corpus_of(opened(path).train)
    assert first is not None
    made = Path(first.folder, "tokens.bin").stat().st_mtime_ns
    again = corpus_of(opened(path).train)
    assert again == first
    assert Path(first.folder, "tokens.bin").stat().st_mtime_ns == made
    other = opened(path, lower=False)
    assert other.fingerprint() != opened(path).fingerprint()
    assert "The" in stream_of(other)
    path.write_text("\n".join(LINES[::-1]), encoding="utf-8")
    assert stream_of(opened(path))[:5] == plain(LINES[-1:])[0][:5]
    Path("copy.txt").write_text("\n".join(LINES), encoding="utf-8")
    copy = corpus_of(opened("copy.txt").train)
    assert copy is not None
    assert (copy.folder != first.folder, copy.fingerprint()) == (True, first.fingerprint())  # contents count, not places


def test_a_damaged_corpus_is_refused_and_built_anew(path: Path) -> None:
    found = opened(path)
    corpus = corpus_of(found.train)
    assert corpus is not None
    whole = stream_of(found)
    with Path(corpus.folder, "tokens.bin").open("r+b") as stream:
        stream.seek(1024 * 4 + 8)
        stream.write(b"\x07")
    fetch(corpus, [0, 2])  # blocks are checked one by one
    with pytest.raises(DamagedError, match=r"tokens\.bin is not what was written"):
        fetch(corpus, [1])
    assert stream_of(opened(path)) == whole
    with Path(corpus.folder, "counts.npy").open("r+b") as stream:
        stream.truncate(200)
    assert stream_of(opened(path)) == whole
    Path(corpus.folder, "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError, match="is not whole"):
        open_data(Options(source=corpus.folder), seed=0)


@pytest.mark.parametrize("name", [*SMALL[:4], "phrases.json", INDEX])
def test_one_flipped_bit_in_any_small_file_of_a_corpus_is_found_and_mended(
    name: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Words, places, counts, sums and phrases decide the vocabulary: they carry checksums, and what differs is made again, with a note."""
    found = corpus_of(opened(path, phrases=1).train)
    assert found is not None
    words, counts, pairs = list(found.words), found.counts.tolist(), found.phrases
    file = Path(found.folder, name)
    good = file.read_bytes()
    for place in {0, len(good) // 2, len(good) - 2}:
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        caplog.clear()
        with caplog.at_level("WARNING", "layerwise"):
            again = corpus_of(opened(path, phrases=1).train)
        assert again is not None
        assert (list(again.words), again.counts.tolist(), again.phrases) == (words, counts, pairs)
        assert f"{file} is not as it was written: the folder is made again" in caplog.text
        assert file.read_bytes() == good


def test_what_is_not_ours_in_the_cache_stays(path: Path) -> None:
    """A novel's folder with a name of ours, files with names of ours, and no room at all: only corpora of ours make room."""
    novel = Path("cache/novel.part")
    mine = Path("cache/mycorp")
    for folder in (novel, mine):
        folder.mkdir(parents=True)
        (folder / "tokens.bin").write_bytes(bytes(10_000))
        (folder / INDEX).write_text("{}")
    for gib in (1e-5, 10):
        with suppress(DataError):
            opened(path, cache_gib=gib)
    for folder in (novel, mine):
        assert sorted(p.name for p in folder.iterdir()) == [INDEX, "tokens.bin"]


def test_a_folder_of_the_users_in_the_place_of_a_corpus_is_refused(path: Path) -> None:
    found = corpus_of(opened(path).train)
    assert found is not None
    (Path(found.folder) / ".layerwise").unlink()
    (Path(found.folder) / "chapter").write_text("mine")
    with pytest.raises(UsageError, match="Layerwise did not make it; it stays as it is"):
        opened(path)
    assert (Path(found.folder) / "chapter").read_text() == "mine"


def test_corpora_are_bounded_together(path: Path) -> None:
    size = 2 * 4 * 1024 * 8 + 100  # two of these
    made = []
    for k in range(3):
        Path(f"{k}.txt").write_text("\n".join([f"text {k}", *LINES]), encoding="utf-8")
        made.append(corpus_of(opened(f"{k}.txt", cache_gib=size / 2**30).train))
        time.sleep(0.02)  # their times tell which was used last
    assert [Path(one.folder).exists() for one in made if one] == [False, True, True]
    with pytest.raises(DataError, match=r"there is no room for the tokens of text\.txt") as caught:
        opened(path, cache_gib=1e-5)
    assert "data.cache_gib allows" in str(caught.value)
    Path("parts").mkdir()
    for name in ("train", "val", "test"):
        Path("parts", f"{name}.txt").write_text("\n".join([name, *LINES]), encoding="utf-8")
    with pytest.raises(DataError, match="no room for the tokens of all parts"):
        opened("parts", cache_gib=size / 2**30)


def test_data_and_standard_input_from_the_command_line(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["data", "text.txt", "--set", "data.cache=cache", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    counts = counted(opened(path).train)
    assert (text["words"], text["different"]) == (counts.sum(), (counts > 0).sum())
    assert [count for _, count in text["often"]] == sorted(counts, reverse=True)[:10]
    assert main(["data", "text.txt", "--set", "data.cache=cache"]) == 0
    assert "parts\ttrain 6, val 1, test 1 (blocks of 1,024 tokens)" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"... ---")))
    assert main(["train", "mlp", "--data", "-", "--set", "data.cache=cache"]) == 2
    assert "standard input has no words" in capsys.readouterr().err


def test_bytes_that_are_no_utf8_are_named() -> None:
    Path("wrong.txt").write_bytes(("word\n" * 70_000).encode() + b"caf\xe9 noir\n")
    with pytest.raises(DataError, match=r"wrong\.txt is not written in utf-8") as caught:
        opened("wrong.txt")
    assert "the byte 0xe9 at 350003; it is probably cp1252" in str(caught.value)


def test_a_folder_in_another_encoding_says_so() -> None:
    Path("folder").mkdir()
    for name in ("a.txt", "b.txt"):
        Path("folder", name).write_bytes("我来到北京清华大学。\n".encode("gbk") * 500)
    with pytest.raises(DataError, match=r"a\.txt is not written in utf-8") as caught:
        opened("folder")
    assert "it is probably gbk" in str(caught.value)


def test_a_terminal_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with open(leader, "rb"), open(follower, encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        with pytest.raises(UsageError, match="nothing is piped in"):
            opened("-")


def test_a_packed_file_that_breaks_off_is_refused(path: Path) -> None:
    packed = gzip.compress(path.read_bytes())
    Path("cut.txt.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cut\.txt\.gz cannot be unpacked"):
        opened("cut.txt.gz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad": "skip"}, "data.on_bad has no meaning for text"),
        ({"positive": "x"}, "data.positive has no meaning for text"),
        ({"files": "*.txt"}, "data.files has no meaning for a single file"),
    ],
)
def test_options_of_other_sources_are_refused(path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(path, **options)


def test_options_of_text_are_refused_for_tables_and_named_sets() -> None:
    Path("table.csv").write_text("a,b\n" + "1,x\n2,y\n" * 9, encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.tokens has no meaning for tables"):
        open_data(Options(source="table.csv", tokens="characters"), seed=0)
    with pytest.raises(UsageError, match=r"data\.phrases has no meaning for the data set digits"):
        open_data(Options(source="digits", phrases=1), seed=0)


def test_a_target_makes_a_table_of_it(path: Path) -> None:
    with pytest.raises(UsageError, match="there is no column 'x'"):
        open_data(Options(source=str(path), target="x"), seed=0)


def test_tables_without_an_ending_stay_tables_and_lists_of_words_stay_text() -> None:
    Path("numbers.txt").write_text("a,b,kind\n" + "1,2,x\n2,2.5,y\n" * 20, encoding="utf-8")
    assert open_data(Options(source="numbers.txt"), seed=0).train.schema.kind == "row"
    Path("lines.txt").write_text("roses are red,\nviolets are blue,\nsugar is sweet,\n" * 400, encoding="utf-8")
    assert opened("lines.txt").train.schema.kind == "text"


def test_words_that_are_too_many_are_noted(path: Path) -> None:
    place, text = Path("cache"), Texts("text.txt", (str(path),))
    corpus = corpus_build.opened(place, text, Cutting(most=50), limit=1 << 30)
    assert "text.txt has more than 50 different words: the rarest were left out on the way" in corpus.index.notes[0]
    tokens = np.asarray(corpus.fetch(np.arange(len(corpus))).inputs)
    assert (tokens == GAP).any()
    np.testing.assert_array_equal(np.bincount(tokens[tokens >= 0]), corpus.counts)
    assert {"the", "cat", "didn't"} <= set(corpus.words)


def joined(sentences: list[list[str]], threshold: float, discount: float) -> list[list[str]]:
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
    found = opened(path, tokens="whitespace", phrases=2, phrase_threshold=3.0, phrase_discount=2.0)
    naive = [line.split() for line in lines]
    for _ in range(2):
        naive = joined(naive, 3.0, 2.0)
    wanted = [word for line in naive for word in (*line, "\n")]
    assert stream_of(found) == wanted
    assert "new_york_times" in wanted
    corpus = corpus_of(found.train)
    assert corpus is not None
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == Counter(w for w in wanted if w != "\n")


def test_given_parts_have_the_phrases_of_training() -> None:
    Path("parts").mkdir()
    texts = {"train": "ice cream melts in new york\nnew ice york cream in\n" * 400, "val": "new york has ice cream\n", "test": "x\n"}
    for name, text in texts.items():
        Path("parts", f"{name}.txt").write_text(text, encoding="utf-8")
    found = opened("parts", phrases=1, phrase_threshold=1.0)
    corpus = corpus_of(found.val)
    assert corpus is not None
    assert [*corpus.words] == ["has", "ice_cream", "new_york"]  # what was joined comes last, in training's order


def test_words_of_chinese_text_are_found_by_jieba(monkeypatch: pytest.MonkeyPatch) -> None:
    import jieba

    Path("small.txt").write_text("来到 9 v\n北京 9 ns\n清华 3 nz\n大学 3 n\n清华大学 9 nt\n", encoding="utf-8")
    monkeypatch.setattr(jieba.dt, "dictionary", str(Path("small.txt").resolve()))  # its own takes seconds to read
    monkeypatch.setattr(jieba.dt, "initialized", False)
    monkeypatch.setattr(jieba.dt, "tmp_dir", ".")
    Path("chinese.txt").write_text("我来到北京清华大学，Tom 也来了。\n" * 500, encoding="utf-8")
    found = opened("chinese.txt", tokens="jieba")
    assert stream_of(found)[:8] == ["我", "来到", "北京", "清华大学", "tom", "也", "来", "了"]
    assert stream_of(opened("chinese.txt"))[:11] == [*"我来到北京清华大学", "tom", "也"]


def test_without_jieba_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    Path("chinese.txt").write_text("我来到北京清华大学。\n" * 500, encoding="utf-8")
    with pytest.raises(UsageError, match="package jieba, which is not installed"):
        opened("chinese.txt", tokens="jieba")


@pytest.mark.parametrize("spoil", [lambda data: data[:-6], lambda data: data[:20] + b"\xff" * 9 + data[29:]], ids=["cut", "changed"])
def test_refused_packed_texts_leave_no_memory_behind(spoil: Callable[[bytes], bytes]) -> None:
    """A program that is offered bad files all day does not grow."""
    Path("t.gz").write_bytes(spoil(gzip.compress(b"some words\n" * 20)))

    def refuse(times: int) -> int:
        for _ in range(times):
            with pytest.raises(DataError, match=r"t\.gz cannot be unpacked"):
                list(texts.pieces("t.gz"))
        return psutil.Process().memory_info().rss

    before = refuse(500)  # what was free in the heap before is in use again
    assert refuse(2000) - before < 8 << 20
