"""The views of word vectors: neighbors and norms against plain loops, a map whose words lie over nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.errors import DataError, UsageError
from layerwise.inspection.word_views import view_map, view_neighbors, view_norms
from layerwise.plotting.svg import estimate_width
from layerwise.plotting.words import DOT, MAP, TEXT, place_labels
from layerwise.weights.vectors import VectorTable


def table(counts: bool = True, words: int = 60) -> VectorTable:
    """Return vectors in three clouds, the first words the most frequent."""
    rng = np.random.default_rng(0)
    middles = 4 * rng.normal(size=(3, 6))
    matrix = np.stack([middles[n % 3] + rng.normal(size=6) for n in range(words)]).astype(np.float32)
    return VectorTable(
        [f"w{n}" for n in range(words)], matrix, (10_000 / np.arange(1, words + 1)).astype(np.int64) if counts else None
    )


def test_neighbors(tmp_path: Path) -> None:
    vectors = table()
    found = view_neighbors(vectors, name="v", words=["w5", "w0"], k=4, out=tmp_path)
    x = vectors.matrix.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for one, at in zip(found.data["neighbors"], (5, 0), strict=True):
        order = [n for n in np.argsort(-(x @ x[at])) if n != at][:4]
        assert [near["word"] for near in one["nearest"]] == [f"w{n}" for n in order]
        np.testing.assert_allclose([near["score"] for near in one["nearest"]], x[order] @ x[at], atol=1e-6)
        assert one["count"] == 10_000 // (at + 1)
    assert (tmp_path / "neighbors.tsv").read_text().count("\n") == 8
    assert re.search(r"^w5 +1,666  w\d+ \d\.\d\d  ", found.text, re.MULTILINE)
    chosen = [one["word"] for one in view_neighbors(table(counts=False), name="v", lang="zh").data["neighbors"]]
    assert (chosen[0], chosen[-1]) == ("w0", "w59")
    with pytest.raises(UsageError, match="no vector of 'x'"):
        view_neighbors(vectors, name="v", words=["x"])


def test_a_map_of_groups(tmp_path: Path) -> None:
    found = view_map(table(), name="v", words=["w0", "w1", "w2"], count=33, out=tmp_path)
    points = found.data["points"]
    assert found.data["groups"] == ["w0", "w1", "w2"]
    assert len({point["word"] for point in points}) == len(points) == 33
    assert all(int(point["word"][1:]) % 3 == point["group"] for point in points)  # the clouds do not touch
    drawing = (tmp_path / "words.svg").read_text(encoding="utf-8")
    assert ">w0<" in drawing
    plain = view_map(table(counts=False), name="v", count=20, lang="zh")
    assert {point["word"] for point in plain.data["points"]} == {f"w{n}" for n in range(20)}
    assert plain.figures == []
    assert "20 个词" in plain.text
    with pytest.raises(UsageError, match=r"at most 1,000\n  received: 1001"):
        view_map(table(), name="v", count=1001)
    with pytest.raises(DataError, match=r"at least 8\n  received: 4"):
        view_map(table(words=4), name="v")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, MAP[0]), st.floats(0, MAP[1]), st.text("abm词", min_size=1, max_size=12)),
        min_size=1,
        max_size=40,
    )
)
def test_no_word_lies_over_another_or_over_a_point(given: list[tuple[float, float, str]]) -> None:
    points, words = np.array([[x, y] for x, y, _ in given]), [word for _, _, word in given]
    boxes = []
    for spot, word in zip(place_labels(points, words, MAP), words, strict=True):
        if spot is not None:
            wide = estimate_width(word, TEXT)
            left = spot.x - {"left": 0, "right": wide, "center": wide / 2}[spot.align]
            boxes.append((left, left + wide, spot.y - 0.55 * TEXT, spot.y + 0.55 * TEXT))
    small = 1e-6
    for n, (left, right, low, high) in enumerate(boxes):
        assert left >= -small
        assert right <= MAP[0] + small
        for other in boxes[:n]:
            assert (
                right <= other[0] + small
                or other[1] <= left + small
                or high <= other[2] + small
                or other[3] <= low + small
            )
        for x, y in points.tolist():
            assert not (left < x - small and x + small < right and low < y - small and y + small < high)
    assert boxes or len(given) > 1
    assert DOT > 0


@pytest.mark.parametrize("counts", [True, False])
def test_norms(counts: bool, tmp_path: Path) -> None:
    vectors = table(counts)
    found = view_norms(vectors, name="v", out=tmp_path, lang="en" if counts else "zh").data
    norms = np.linalg.norm(vectors.matrix.astype(np.float64), axis=1)
    x = vectors.counts if vectors.counts is not None else np.arange(1, 61)
    assert sum(band["words"] for band in found["bands"]) == 60
    for band in found["bands"]:
        computed = (x >= band["low"]) & (x <= band["high"])
        assert band["words"] == computed.sum()
        assert band["mean"] == pytest.approx(norms[computed].mean())
        assert band["deviation"] == pytest.approx(norms[computed].std())
    assert [one["word"] for one in found["longest"]] == [f"w{n}" for n in np.argsort(-norms)[:5]]
    assert [one["word"] for one in found["shortest"]] == [f"w{n}" for n in np.argsort(norms)[:5]]
    assert found["by"] == ("count" if counts else "rank")
    assert ("norm of the vector" if counts else "词向量的范数") in (tmp_path / "norms.svg").read_text(encoding="utf-8")
