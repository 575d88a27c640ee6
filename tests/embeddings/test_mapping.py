"""The map between two languages: a turned cloud is turned back, chance is chance; pairs from sentences against a
loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from layerwise.cli import main
from layerwise.embeddings import lexicon, mapping
from layerwise.errors import DataError, UsageError
from layerwise.weights.vector_files import read_vectors, write_vectors
from layerwise.weights.vectors import VectorTable


def two_languages(
    noise: float, words: int = 120, dimensions: int = 10
) -> tuple[VectorTable, VectorTable, list[tuple[str, str]]]:
    """Return vectors, the same turned, in another order and with noise, and which word is which."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(words, dimensions))
    turned = x @ scipy.stats.ortho_group.rvs(dimensions, random_state=3) + noise * rng.normal(size=x.shape)
    order = rng.permutation(words)
    source = VectorTable([f"e{n}" for n in range(words)], x.astype(np.float32))
    target = VectorTable([f"d{n}" for n in order], turned[order].astype(np.float32))
    return source, target, [(f"e{n}", f"d{n}") for n in range(words)]


def test_a_turn_is_undone() -> None:
    source, target, pairs = two_languages(0.0)
    both = mapping.BilingualTables(source, target)
    learn, test = mapping.split_pairs(pairs, seed=1)
    assert len(test) == 24
    assert not {a for a, _ in learn} & {a for a, _ in test}
    turn, found = mapping.evaluate_map(both, learn, test)
    np.testing.assert_allclose(turn @ turn.T, np.eye(10), atol=1e-12)
    assert found.precision == {1: 1.0, 5: 1.0}
    assert found.mrr == 1.0
    assert found.chance[1] < 0.05
    mapped = both.map_vectors(turn)
    for a, b in test:
        np.testing.assert_allclose(mapped.vector(a), target.unit[target.row(b)], atol=1e-5)


def test_ranks_and_chance_against_loops() -> None:
    source, target, pairs = two_languages(1.5)
    both = mapping.BilingualTables(source, target)
    pairs = [*pairs, ("e0", "d77"), ("e1", "nothing")]
    turn, found = mapping.evaluate_map(both, pairs[:80], pairs[80:], draws=3, seed=4)
    assert (found.learned, found.tested, found.words, found.without) == (80, 41, 41, 1)
    rows = both.rows([*pairs[80:], ("e90", "d3")])
    ranks = both.rank_translations(turn, rows)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    x, y = (unit(one.matrix.astype(np.float64)) for one in (source, target))
    x, y = x - x.mean(0), unit(y - y.mean(0))
    firsts = []
    for mine, word in zip(ranks, np.unique(rows[:, 0]), strict=True):
        order = np.argsort(-(y @ unit(x[word] @ turn)))
        wanted = rows[rows[:, 0] == word, 1]
        assert mine.tolist() == [order.tolist().index(at) + 1 for at in wanted]
        firsts.append(min(mine))
    assert 0.1 < np.mean(np.array(firsts) == 1) < 1
    assert 0 <= found.chance[1] <= found.luckiest[1] < found.precision[1]


def test_what_cannot_be_mapped() -> None:
    source, target, pairs = two_languages(0.1)
    both = mapping.BilingualTables(source, target)
    with pytest.raises(DataError, match=r"too few pairs to learn from\n  expected: 10 or more .*\n  received: 9 of 10"):
        mapping.evaluate_map(both, [*pairs[:9], ("x", "y")], pairs[20:])
    with pytest.raises(UsageError, match=r"of the same length are mapped.*\n  expected: 10 dimensions\n  received: 3"):
        mapping.BilingualTables(source, VectorTable(["a"], np.ones((1, 3), dtype=np.float32)))
    with pytest.raises(UsageError, match="between 0 and 1"):
        mapping.split_pairs(pairs, held_out=1.5)


def test_pairs_from_sentences_against_a_loop(tmp_path: Path) -> None:
    """Dice's coefficients of all pairs, one by one."""
    rng = np.random.default_rng(5)
    english, german = [f"e{n}" for n in range(15)], [f"d{n}" for n in range(15)]
    lines: list[tuple[str, str]] = []
    for _ in range(80):
        ids = rng.integers(0, 15, 4)
        there = [english[at] for at in ids]
        here = [german[at] for at in ids if rng.random() < 0.8] + [german[int(rng.integers(15))]]
        lines.append((" ".join(there), " ".join(rng.permutation(here))))
    lines.insert(7, ("", ""))
    files = (tmp_path / "en", tmp_path / "de")
    for side, path in enumerate(files):
        path.write_text("\n".join(line[side] for line in lines) + "\n", encoding="utf-8")
    tables = [VectorTable(words, np.eye(15, dtype=np.float32)) for words in (english, german)]

    def dice(e: str, d: str) -> float:
        both = sum(e in a.split() and d in b.split() for a, b in lines)
        return 2 * both / (sum(e in a.split() for a, _ in lines) + sum(d in b.split() for _, b in lines))

    marks = {(e, d): dice(e, d) for e in english for d in german}
    best = {
        (e, d)
        for (e, d), mark in marks.items()
        if mark >= 0.3
        and mark == max(marks[e, other] for other in german)
        and mark == max(marks[other, d] for other in english)
    }
    found = lexicon.learn_pairs(files, *tables)
    assert set(found) == best
    assert len(found) > 10
    counts = [sum(a in line.split() for line, _ in lines) for a, _ in found]
    assert counts == sorted(counts, reverse=True)
    files[1].write_text("d1\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"no translations of each other line by line\n  expected: as many lines\n  received: 81 and 1"
    ):
        lexicon.learn_pairs(files, *tables)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, pairs = two_languages(0.0)
    write_vectors(source, tmp_path / "en.bin")
    write_vectors(target, tmp_path / "de.vec")
    lexicon.write_pairs(pairs, tmp_path / "pairs.tsv")
    arguments = ["map", "en.bin", "de.vec", "--pairs", "pairs.tsv"]
    assert main([*arguments, "--out", "mapped.safetensors", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"] == {"precision@1": 1.0, "precision@5": 1.0, "mrr": 1.0}
    assert told["chance"]["precision@1"] < 0.05
    assert (told["pairs"], told["learned"], told["tested"]) == (120, 96, 24)
    mapped = read_vectors(tmp_path / "mapped.safetensors")
    np.testing.assert_allclose(mapped.vector("e7"), target.unit[target.row("d7")], atol=1e-5)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("precision@1\t1.000\t0.0")
    assert main(["map", "en.bin", "de.vec"]) == 2
    assert "--pairs FILE, or --sentences FILE FILE" in capsys.readouterr().err
    assert main([*arguments, "--out", "one.vec", "--pairs-out", "./one.vec"]) == 2
    assert "--out and --pairs-out are the same file, one.vec" in capsys.readouterr().err
    assert not (tmp_path / "one.vec").exists()
