"""A run of word vectors through the verbs: eval by benchmarks, export to the files of word2vec and GloVe, views, text
that is not held."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from layerwise import api
from layerwise.cli import main
from layerwise.embeddings import benchmarks
from layerwise.errors import UsageError
from layerwise.inference.evaluate import evaluate_run
from layerwise.inspection import inspect_target
from layerwise.nn.word_vectors import SkipGram
from layerwise.weights.vector_files import read_vectors
from processes import patch_report

OPTIONS = {"train.threads": 1, "model.dim": 8, "task.min_count": 1}


def text(path: Path) -> Path:
    """Write a text in which three groups of ten words keep to themselves."""
    draw = np.random.default_rng(0)
    groups = [[f"{letter}{number}" for number in range(10)] for letter in "abc"]
    path.write_text("\n".join(" ".join(draw.choice(groups[n % 3], size=12)) for n in range(3000)) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    place = tmp_path_factory.mktemp("words")
    with patch_report(True):
        return api.train(
            "skipgram", data=text(place / "t.txt"), out=place / "run", epochs=3, batch_size=8, options=OPTIONS
        )


def table_of(run: api.Run) -> np.ndarray:
    """Return the vectors as they were learned, (V, D)."""
    model = run.model()
    assert isinstance(model, SkipGram)
    return model.table().detach().numpy()


def unit(run: api.Run) -> dict[str, np.ndarray]:
    """Return the vectors at length one, by word, in float64."""
    words = json.loads((run.path / "task.json").read_text())["inputs"]["words"]
    table = table_of(run).astype(np.float64)
    return dict(zip(words, table / np.linalg.norm(table, axis=1, keepdims=True), strict=True))


def test_the_report_counts_blocks_of_text_and_shows_neighbors(run: api.Run) -> None:
    page = (run.path / "report.html").read_text()
    assert "(blocks of text: 1)" in page
    v = unit(run)
    rows = re.findall(r'<td><bdi>(\w+)</bdi></td><td class="n">\d+</td><td><bdi>(\w+)</bdi>', page)
    assert len(rows) > 5
    for word, nearest in rows:
        assert nearest == max((other for other in v if other != word), key=lambda other: v[other] @ v[word])


def test_eval_by_benchmarks(run: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Analogies by hand; what could not be asked is null; a plain text is no benchmark."""
    v = unit(run)
    questions = [("a0", "a1", "b0", "b1"), ("a2", "c1", "b5", "c7"), ("a3", "a4", "c3", "zz")]
    lines = [" ".join(words) for words in questions]
    (tmp_path / "q.txt").write_text(": known\n" + "\n".join(lines) + "\n: unknown\nx y z w\n")
    right = 0
    for a, b, c, d in questions[:2]:
        wanted = v[b] - v[a] + v[c]
        right += max((w for w in v if w not in (a, b, c)), key=lambda w: v[w] @ wanted) == d
    found = evaluate_run(run.path, data=str(tmp_path / "q.txt"))
    assert found.metrics == {"q/accuracy": right / 2, "q/coverage": 0.5}
    (tmp_path / "pairs.tsv").write_text("zz\tyy\t3.5\n")
    assert main(["eval", str(run.path), "--data", str(tmp_path / "pairs.tsv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {"pairs/spearman": None, "pairs/coverage": 0.0}
    assert benchmarks.is_word_benchmark("word-eval")
    assert not benchmarks.is_word_benchmark(run.path.parent / "t.txt")
    assert evaluate_run(run.path).metrics == {"loss": run.metrics["test/loss"]}
    with pytest.raises(UsageError, match="is measured by torch"):
        evaluate_run(run.path, engine="onnxruntime")


@pytest.mark.parametrize("ending", ["vec", "bin", "txt"])
def test_exported_files_hold_the_vectors_bit_for_bit(ending: str, run: api.Run, tmp_path: Path) -> None:
    path = tmp_path / f"v.{ending}"
    run.export(path)
    table, mine = table_of(run), read_vectors(path)
    assert np.array_equal(mine.matrix, table)
    assert mine.words == list(unit(run))
    if ending == "txt":  # gensim leaves such a file open
        rows = [line.split(" ") for line in path.read_text().splitlines()]
        theirs, words = np.array([row[1:] for row in rows], dtype=np.float32), [row[0] for row in rows]
    else:
        found = KeyedVectors.load_word2vec_format(path, binary=ending == "bin")
        theirs, words = found.vectors, found.index_to_key
    assert np.array_equal(theirs, table)
    assert words == mine.words


def test_other_networks_have_no_such_files(tmp_path: Path) -> None:
    other = api.train("perceptron", data="iris", out=tmp_path / "run", epochs=1)
    with pytest.raises(UsageError, match=r"perceptron has no word vectors, and \.vec holds nothing else"):
        other.export(tmp_path / "v.vec")
    with pytest.raises(UsageError, match="perceptron has no word vectors"):
        inspect_target("neighbors", str(other.path))


def test_views_of_a_run(run: api.Run, tmp_path: Path) -> None:
    v = unit(run)
    found = inspect_target("neighbors", str(run.path), words=("a0",), examples=3).data["neighbors"][0]
    order = sorted((w for w in v if w != "a0"), key=lambda w: -float(v[w] @ v["a0"]))
    assert [one["word"] for one in found["nearest"]] == order[:3]
    assert inspect_target("map", str(run.path), out=tmp_path).figures[0].is_file()
    assert inspect_target("norms", str(run.path), lang="zh").data["words"] == 30
    with pytest.raises(UsageError, match="the view 'norms' takes no words"):
        inspect_target("norms", str(run.path), words=("a0",))
    with pytest.raises(UsageError, match=r"the view 'map' needs a run, and skipgram is the name of a model"):
        inspect_target("map", "skipgram")


def test_text_that_is_not_held_is_learned_the_same(run: api.Run, tmp_path: Path) -> None:
    """Blocks read from the map give the same weights, without a loader's worker."""
    options = {**OPTIONS, "train.memory_mib": 1, "data.cache": str(tmp_path / "cache")}
    long = tmp_path / "long.txt"
    long.write_text((run.path.parent / "t.txt").read_text() * 12)
    ways = [options, {**options, "train.memory_mib": 0}]
    runs = [
        api.train("skipgram", data=long, out=tmp_path / f"run{n}", epochs=1, options=way) for n, way in enumerate(ways)
    ]
    assert runs[0].info["flags"]["workers"] == 0
    a, b = (r.model().state_dict() for r in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
