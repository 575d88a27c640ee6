"""The index of passages: search against brute force, ranks, what is read as a passage, damage; SIF against its
algorithm in loops."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from layerwise.cli import main
from layerwise.embeddings import index as index_
from layerwise.embeddings.embedders import WordEmbedder
from layerwise.embeddings.index import Hit, Index, build_index
from layerwise.embeddings.passages import Passages
from layerwise.errors import DamagedError, DataError, LayerwiseError, UsageError
from layerwise.weights.vector_files import write_vectors
from layerwise.weights.vectors import VectorTable

WORDS = "the of and ark king wine silver bread water son daughter house".split()


def table(counts: bool = False) -> VectorTable:
    """Return vectors of twelve words."""
    matrix = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    return VectorTable(list(WORDS), matrix, np.arange(len(WORDS), 0, -1) ** 2 if counts else None)


def texts(count: int) -> list[str]:
    """Return texts of two to six words, some of them equal."""
    rng = np.random.default_rng(1)
    found = [" ".join(rng.choice(WORDS, size=int(rng.integers(2, 7)))) for _ in range(count)]
    found[count // 2] = found[3]  # equally near to everything
    return found


def plain_sif(table: VectorTable, written: list[str], asked: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of texts and questions by Arora et al.'s algorithm, word by word, at length one."""
    counts = table.counts
    if counts is None:
        counts = np.array([sum(text.split().count(word) for text in written) for word in table.words])

    def mean(text: str) -> np.ndarray:
        total = np.zeros(table.dimensions)
        for word in text.split():
            at = table.words.index(word)
            total += 1e-3 / (1e-3 + counts[at] / counts.sum()) * table.matrix[at].astype(np.float64)
        return total / len(text.split())

    raw = np.stack([mean(text) for text in written])
    u = np.linalg.svd(raw)[2][0]
    sides = []
    for x in (raw, np.stack([mean(text) for text in asked])):
        x = x - np.outer(x @ u, u)
        sides.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return sides[0], sides[1]


@pytest.fixture
def made(tmp_path: Path) -> Index:
    """Return an index of a file of 50 lines, built in small pieces."""
    (tmp_path / "t.txt").write_text("\n".join(texts(50)) + "\n", encoding="utf-8")
    return build_index(Passages(str(tmp_path / "t.txt")), WordEmbedder(table()), tmp_path / "index")


@pytest.mark.parametrize("counts", [False, True])
def test_search_is_brute_force(counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, asked = texts(50), ["king of wine", "bread and water", "the the ark"]
    (tmp_path / "t.txt").write_text("\n".join(written), encoding="utf-8")
    made = build_index(Passages(str(tmp_path / "t.txt")), WordEmbedder(table(counts)), tmp_path / "index")
    monkeypatch.setattr(index_, "CHUNK_BYTES", 4 * 8 * 7)  # seven passages at a time
    rows, questions = plain_sif(table(counts), written, asked)
    opened = Index.open(tmp_path / "index")
    assert len(opened) == 50
    found = opened.search(asked, k=9)
    for mine, question in zip(found, questions, strict=True):
        assert isinstance(mine, list)
        scores = rows @ question
        order = np.argsort(-np.round(scores, 5), kind="stable")[
            :9
        ]  # equal texts are equally near: the earlier comes first
        assert [hit.id for hit in mine] == [str(at + 1) for at in order]
        assert [hit.text for hit in mine] == [written[at] for at in order]
        np.testing.assert_allclose([hit.score for hit in mine], scores[order], atol=1e-5)
    again = made.search(asked, k=9)
    assert [[hit.id for hit in mine] for mine in again] == [[hit.id for hit in mine] for mine in found]  # type: ignore[union-attr]


def test_ranks_are_places_in_the_order(made: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_, "CHUNK_BYTES", 4 * 8 * 7)
    asked, wanted = ["king of wine", "silver house"], [["4", "26", "50"], ["1"]]
    order = [[hit.id for hit in mine] for mine in made.search(asked, k=50) if isinstance(mine, list)]
    found = made.ranks(asked, wanted)
    assert [mine.tolist() for mine in found] == [
        [ids.index(name) + 1 for name in names] for ids, names in zip(order, wanted, strict=True)
    ]
    with pytest.raises(DataError, match=r"no passage '51' in .*index\n  expected: names like 1, 2, 3"):
        made.ranks(asked[:1], [["51"]])


def test_a_question_that_is_not_understood_fails_alone(made: Index) -> None:
    found = made.search(["qqq", "the KING"], k=2)
    assert isinstance(found[0], LayerwiseError)
    assert "nothing is known of the question 'qqq'" in str(found[0])
    assert isinstance(found[1], list)
    assert isinstance(found[1][0], Hit)
    with pytest.raises(UsageError, match="-k 1 or more"):
        made.search(["king"], k=0)


@pytest.mark.parametrize("name", [*index_.FILES, index_.INDEX_FILE])
def test_damage_is_refused_by_name(name: str, made: Index) -> None:
    path = made.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=rf"(?s){name} is damaged: .*build the index again"):
        Index.open(made.path)
    path.unlink()
    with pytest.raises(
        (DamagedError, UsageError), match=rf"{name}( is damaged: it is missing|, as `layerwise index` makes it)"
    ):
        Index.open(made.path)


def test_nothing_is_left_behind_a_failure(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("xyz\n\nabc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no passage of which anything is known\n  received: 2 passages"):
        build_index(Passages(str(tmp_path / "t.txt")), WordEmbedder(table()), tmp_path / "index")
    (tmp_path / "t.txt").write_text("xyz\nking\n", encoding="utf-8")
    made = build_index(Passages(str(tmp_path / "t.txt")), WordEmbedder(table()), tmp_path / "index")
    assert (made.about["passages"], made.about["left_out"]) == (1, 1)
    with pytest.raises(UsageError, match=r"exists already.*\n.*\n.*or add --overwrite"):
        build_index(Passages(str(tmp_path / "t.txt")), WordEmbedder(table()), tmp_path / "index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "t.txt"]


# -- passages ----------------------------------------------------------------------------------------------------------


def all_of(passages: Passages) -> list[tuple[str, str]]:
    """Return all passages as plain pairs."""
    return [tuple(passage) for chunk in passages.chunks() for passage in chunk]


def test_passages_of_files_folders_and_tables(tmp_path: Path) -> None:
    data = b"one\n\n two  \nthree\r\n\nfour"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + data)
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
    for name in ("a.txt", "a.gz"):
        path = str(tmp_path / name)
        assert all_of(Passages(path)) == [("1", "one"), ("3", "two"), ("4", "three"), ("6", "four")]
        assert all_of(Passages(path, "paragraph")) == [("1", "one"), ("3", "two three"), ("6", "four")]
        assert all_of(Passages(path, "file")) == [("1", "one two three four")]
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "x.md").write_text("in the deep\n", encoding="utf-8")
    (folder / "b.txt").write_text("first\nsecond\n", encoding="utf-8")
    (folder / "image").write_bytes(b"\x89PNG\0\0")
    assert all_of(Passages(str(folder))) == [("b.txt", "first second"), ("deep/x.md", "in the deep")]
    assert all_of(Passages(str(folder), "line")) == [
        ("b.txt:1", "first"),
        ("b.txt:2", "second"),
        ("deep/x.md:1", "in the deep"),
    ]
    (tmp_path / "t.csv").write_text('ref,text\nGen 1,"a, b"\nGen 2,\nGen 3,c\n', encoding="utf-8")
    assert all_of(Passages(str(tmp_path / "t.csv"), column="text")) == [("1", "a, b"), ("3", "c")]
    assert all_of(Passages(str(tmp_path / "t.csv"), column="text", id="ref")) == [("Gen 1", "a, b"), ("Gen 3", "c")]


def test_passages_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ref,text\n1,a\n1,b\n", encoding="utf-8")
    (tmp_path / "gbk.txt").write_bytes("起初神创造天地地是空虚混沌渊面黑暗神的灵运行在水面上\n".encode("gbk"))
    (tmp_path / "empty").mkdir()
    for passages, told in (
        (Passages("nowhere.txt"), "there is no file or folder nowhere.txt"),
        (Passages(str(tmp_path / "t.csv"), column="txt"), r"(?s)no column 'txt' in .*did you mean 'text'"),
        (Passages(str(tmp_path / "t.csv"), "line", "text"), "--by line"),
        (Passages(str(tmp_path / "t.csv"), id="ref"), "add --column"),
        (Passages(str(tmp_path / "gbk.txt")), r"is not valid UTF-8\n.*\n.*probably gbk"),
        (Passages(str(tmp_path / "empty")), r"holds no texts\n  expected: text files in utf-8"),
    ):
        with pytest.raises((DataError, UsageError), match=told):
            all_of(passages)
    assert all_of(Passages(str(tmp_path / "gbk.txt"), encoding="gbk"))[0][1].startswith("起初神")
    named = VectorTable(["a", "b"], np.eye(2, dtype=np.float32))
    with pytest.raises(DataError, match="two passages of the name '1'"):
        build_index(Passages(str(tmp_path / "t.csv"), column="text", id="ref"), WordEmbedder(named), tmp_path / "i")


def test_words_of_texts() -> None:
    words = ["in", "New_York", "york", "don’t", "König", "人工", "智能", "人", "gpt"]
    embedder = WordEmbedder(VectorTable(words, np.eye(len(words), dtype=np.float32)))

    def known(text: str) -> list[str]:
        return [words[at] for at in embedder.rows(text)]

    assert known("In New York, don’t; York! KÖNIG") == ["in", "New_York", "don’t", "york"]
    assert known("König") == ["König"]
    assert known("人工智能是人gpt的x") == ["人工", "智能", "人", "gpt"]
    assert known("\0 … \n") == []


# -- commands ----------------------------------------------------------------------------------------------------------


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.txt").write_text("\n".join(texts(20)), encoding="utf-8")
    write_vectors(table(), tmp_path / "v.bin")
    assert main(["index", "t.txt", "--vectors", "v.bin", "--out", "i", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["passages"], told["left_out"], told["dimensions"], told["embedder"]["words"]) == (20, 0, 8, 12)
    assert main(["search", "i", "king of wine", "zzz", "-k", "2", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [one["question"] for one in told["results"]] == ["king of wine"]
    assert [set(hit) for hit in told["results"][0]["hits"]] == [{"id", "score", "text"}] * 2
    assert told["failed"][0]["question"] == "zzz"
    first = told["results"][0]["hits"][0]
    assert main(["search", "i", "king of wine"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{first['score']:.3f}\t{first['id']}\t{first['text']}"
    Path("labeled.tsv").write_text(f"question\tpassage\nking of wine\t{first['id']}\n", encoding="utf-8")
    assert main(["search", "i", "--labeled", "labeled.tsv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {
        "recall@1": 1.0,
        "recall@5": 1.0,
        "recall@10": 1.0,
        "mrr": 1.0,
    }
    assert main(["search", "i"]) == 2
    assert "a search needs questions" in capsys.readouterr().err
    Path("labeled.tsv").write_text("question\tpassage\nking of wine\t\n", encoding="utf-8")
    assert main(["search", "i", "--labeled", "labeled.tsv"]) == 2
    assert "labeled.tsv row 1 is no question with an answer" in capsys.readouterr().err
