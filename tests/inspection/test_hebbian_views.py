"""The views on Hebb's networks: recall by counting again, capacity against the theory, components against
scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from layerwise import registry
from layerwise.data.source import ArraySource, Schema, Splits
from layerwise.errors import UsageError
from layerwise.inspection import base, render_view
from layerwise.inspection.views.recall import corrupt_patterns
from layerwise.models.hebbian import hopfield, oja
from layerwise.recipe import Recipe, Stage
from layerwise.tasks.reconstruction import Reconstruction


def target(spec: str, model: torch.nn.Module, *, examples: int = 0, lang: base.Lang = "en") -> base.Target:
    """Return a run of six images of 4×4 pixels as a view sees it."""
    inputs = np.random.default_rng(0).choice(np.array([0, 255], dtype=np.uint8), (6, 4, 4, 1))
    source = ArraySource(Schema("image", (4, 4, 1), "class", ("a", "b")), inputs, np.arange(6) % 2, "p")
    recipe = Recipe(model={"name": spec}, data={}, task={}, stages=(Stage(examples=examples),))
    return base.Target(
        spec=registry.find(spec),
        model=model,
        task=Reconstruction.prepare(source, Reconstruction.Options()),
        splits=Splits(source, source, source, "p"),
        recipe=recipe,
        lang=lang,
    )


def pixels(given: base.Target) -> np.ndarray:
    assert given.splits is not None
    return np.stack([given.splits.train[i].input for i in range(6)]).reshape(6, -1) / 255


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_recall_counts_exact_recalls(lang: base.Lang, tmp_path: Path) -> None:
    """A net that stores the first image alone recalls it and its negative only: the others never."""
    net = hopfield(features=16)
    given = target("hopfield", net, lang=lang)
    first = torch.from_numpy(pixels(given)[0] * 2 - 1).float()
    with torch.no_grad():
        net.weight.copy_(torch.outer(first, first).fill_diagonal_(0))  # type: ignore[operator, union-attr]
    view = render_view("recall", given, out=tmp_path)
    assert [one["exact"] for one in view.data["each"]] == [1.0, 0, 0, 0, 0, 0]
    assert view.data["exact"] == pytest.approx(1 / 6)
    assert (view.data["flipped"], view.data["trials"]) == (3, 50)
    assert "16.7%" in view.text
    assert [path.name for path in view.figures] == ["recall.svg"]
    assert ("存入的图像" in view.figures[0].read_text(encoding="utf-8")) is (lang == "zh")
    json.dumps(view.data)


def test_recall_looks_at_what_was_stored() -> None:
    """Of a stage that took two examples, one of each class, two are looked at."""
    names = [
        one["name"] for one in render_view("recall", target("hopfield", hopfield(features=16), examples=2)).data["each"]
    ]
    assert sorted(int(name[2:-1]) % 2 for name in names) == [0, 1]


def test_corruption_flips_so_many_units_of_each() -> None:
    draw = torch.Generator().manual_seed(0)
    flipped = corrupt_patterns(torch.ones(500, 10), 0.2, draw) < 0
    assert flipped.sum(1).eq(2).all()
    assert flipped.double().mean(0).sub(0.2).abs().max() < 0.08


def test_capacity_shows_the_theorys_collapse(tmp_path: Path) -> None:
    """Hebb's rule recalls below α = 0.138 and no more well above; at the same load the projection rule still does."""
    spec = registry.find("hopfield")
    view = render_view("capacity", base.Target(spec=spec, arguments={"features": 100}), out=tmp_path)
    assert (
        len(render_view("capacity", base.Target(spec=spec, arguments={"features": 4})).text.splitlines()) == 19
    )  # loads that round alike
    overlap = {(row["rule"], round(row["load"], 2)): row["overlap"] for row in view.data["measured"]}
    assert view.data["critical"] == pytest.approx(0.138, abs=5e-4)
    assert overlap["hebb", 0.05] > 0.97
    assert overlap["hebb", 0.3] < 0.6
    assert overlap["projection", 0.3] > 0.97
    assert overlap["projection", 0.8] < 0.9
    assert [path.name for path in view.figures] == ["capacity.svg"]


def test_components_are_those_of_scikit_learn(tmp_path: Path) -> None:
    net = oja(features=16, units=2)
    given = target("oja", net)
    pca = PCA(2).fit(pixels(given))
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(np.stack([-2 * pca.components_[0], pca.components_[0]])))  # type: ignore[operator, union-attr]
    view = render_view("components", given, out=tmp_path)
    one, two = view.data["units"]
    assert one["cosine"] == pytest.approx(1, abs=1e-6)
    assert one["length"] == pytest.approx(2)
    assert two["cosine"] == pytest.approx(0, abs=1e-6)
    assert one["explained"] == pytest.approx(pca.explained_variance_ratio_[0])
    assert two["component_explained"] == pytest.approx(pca.explained_variance_ratio_[1])
    assert [path.name for path in view.figures] == ["components.svg"]


@pytest.mark.parametrize(
    ("view", "says"), [("recall", "stores no patterns"), ("components", "no Hebbian units"), ("capacity", "hopfield")]
)
def test_other_networks_are_refused(view: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        render_view(view, target("mlp", torch.nn.Linear(16, 2)))
