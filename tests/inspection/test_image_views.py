"""Filters, features, Grad-CAM, embedding and confusions, each against a way of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from layerwise import registry
from layerwise.cli import main
from layerwise.data.source import ArraySource, Schema, Splits
from layerwise.errors import DataError, UsageError
from layerwise.inspection import VIEWS, inspect_target, render_view
from layerwise.inspection.base import Target
from layerwise.inspection.effective_receptive_field import measure_effective_fields
from layerwise.inspection.feature_maps import find_feature_layers, find_layer, group_stages
from layerwise.inspection.views.embedding import compute_neighbor_overlap, find_neighbors, pca
from layerwise.inspection.views.features import scale_maps
from layerwise.inspection.views.grad_cam import compute_grad_cam, pick_top_two, upsample
from layerwise.models.convolutional import cnn
from layerwise.models.feedforward import mlp
from layerwise.plotting.embedding import get_marker, spread_labels
from layerwise.plotting.images import enlarge, overlay_heatmap
from layerwise.tasks.classification import Classification

CLASSES = ("一", "二", "三")
NEW = ("filters", "features", "grad-cam", "embedding", "confusions")


class Pooled(nn.Module):
    """Two convolutions, the second over a residual sum that is rectified in place, under global average pooling and one
    linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 3)."""
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) + x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def colors(count: int = 24) -> ArraySource:
    inputs = np.random.default_rng(3).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return ArraySource(Schema("image", (8, 8, 3), "class", CLASSES), inputs, np.arange(count) % 3, "p")


@pytest.fixture
def target() -> Target:
    """A small convolutional network over colored images, untrained."""
    torch.manual_seed(1)
    source = colors()
    task = Classification.prepare(source, Classification.Options())
    model = cnn(outputs=3, channels=3, size=(8, 8), widths=(4, 6), dense=(5,), batch_norm=True).eval()
    splits = Splits(source, source, source, "p")
    arguments = {"outputs": 3, "channels": 3, "size": [8, 8], "widths": [4, 6], "dense": [5], "batch_norm": True}
    return Target(spec=registry.find("cnn"), model=model, task=task, splits=splits, arguments=arguments)


def inputs_of(target: Target) -> Tensor:
    assert target.task is not None
    return target.task.inputs.tensor(colors().inputs)


# -- Grad-CAM
# ------------------------------------------------------------------------------------------------------------


def naive(above: Callable[[Tensor], Tensor], maps: np.ndarray, label: int) -> np.ndarray:
    """ReLU(Σ αₖ Aᵏ) of one image's maps (C, H, W), every derivative by finite differences, in loops."""
    count, height, width = maps.shape
    step, out = 1e-6, np.zeros((height, width))
    for k in range(count):
        alpha = 0.0
        for i in range(height):
            for j in range(width):
                up, down = maps.copy(), maps.copy()
                up[k, i, j] += step
                down[k, i, j] -= step
                ends = [float(above(torch.from_numpy(m)[None])[0, label]) for m in (up, down)]
                alpha += (ends[0] - ends[1]) / (2 * step) / (height * width)
        out += alpha * maps[k]
    return np.maximum(out, 0)


def test_grad_cam_is_the_naive_loop() -> None:
    torch.manual_seed(0)
    model = cnn(outputs=3, channels=3, size=(8, 8), widths=(2, 3), dense=(5,), activation="tanh").double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layer = [stage for stage in group_stages(find_feature_layers(model, x)) if stage.has_convolution][-1]
    assert (layer.name, layer.shape) == ("features.4", (3, 4, 4))  # the activation over the second convolution
    found = compute_grad_cam(model, x, layer, pick_top_two)
    below, rest = model.features[:5], model.features[5:]
    for n in range(2):
        maps = below(x[n : n + 1])[0].detach().numpy()
        best = model(x)[n].argsort(descending=True)[:2]
        assert found.classes[n].tolist() == best.tolist()
        for m, label in enumerate(best.tolist()):
            want = naive(lambda a: model.classifier(rest(a).flatten(1)).detach(), maps, label)
            np.testing.assert_allclose(found.maps[n, m].numpy(), want, atol=1e-7)


def test_under_global_pooling_grad_cam_is_zhous_map() -> None:
    """CAM of Zhou et al.: Σₖ w(c, k) Aᵏ; αₖ is w(c, k) / HW. The maps are those after the sum and the ReLU in place."""
    torch.manual_seed(2)
    model, x = Pooled().double().eval(), torch.randn(3, 3, 6, 5, dtype=torch.float64)
    layer = [stage for stage in group_stages(find_feature_layers(model, x)) if stage.has_convolution][-1]
    assert (layer.name, layer.call_index) == ("relu", 1)
    found = compute_grad_cam(model, x, layer, lambda logits: torch.tensor([[0, 1, 2]]).expand(3, 3))
    with torch.no_grad():
        a = torch.relu(model.first(x))
        a = torch.relu(model.second(a) + a)
    cam = torch.einsum("ck,nkhw->nchw", model.head.weight, a).relu() / 30
    torch.testing.assert_close(found.maps, cam.detach())
    first = compute_grad_cam(
        model, x, find_layer(find_feature_layers(model, x), "first"), pick_top_two
    )  # the maps before the ReLU that overwrites them
    assert first.maps.shape == (3, 2, 6, 5)


def test_grad_cam_writes_maps_of_the_chosen_class(target: Target, tmp_path: Path) -> None:
    view = render_view("grad-cam", replace(target, class_name="二", examples=5), out=tmp_path)
    assert [p.name for p in view.figures] == ["grad-cam.svg", "grad-cam.safetensors"]
    saved = safetensors.torch.load_file(tmp_path / "grad-cam.safetensors")
    assert saved["maps"].shape == (5, 1, 4, 4)
    assert saved["classes"].flatten().tolist() == [1] * 5
    assert target.model is not None
    probabilities = torch.softmax(target.model(inputs_of(target)).detach().double(), 1)
    for at, image in zip(np.linspace(0, 23, 5).astype(int), view.data["images"], strict=True):
        assert (image["name"], image["true"]) == (f"p[{at}]", CLASSES[at % 3])
        assert image["classes"][0]["score"] == pytest.approx(float(probabilities[at, 1]), abs=1e-5)
    assert not target.model.training
    assert "maps of features.6, 6 of 4×4" in view.text
    assert "图" in render_view("grad-cam", replace(target, lang="zh")).text


def test_maps_grow_to_the_image() -> None:
    grown = upsample(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), (4, 4))
    np.testing.assert_allclose(grown, [[0, 0.25, 0.75, 1]] * 4)  # half-pixel centers: at −¼, ¼, ¾, 1¼ of the way
    assert not upsample(torch.zeros(2, 2), (4, 4)).any()
    white = overlay_heatmap(np.ones((3, 1, 2)), np.array([[0.0, 1.0]]))
    assert white[:, 0, 0] == pytest.approx([0.4] * 3, abs=0.02)
    assert white[0, 0, 1] > white[2, 0, 1]  # dark where nothing is, yellow where most is


# -- features, filters
# ---------------------------------------------------------------------------------------------------


def test_features_are_what_hooks_see(target: Target, tmp_path: Path) -> None:
    view = render_view("features", target, out=tmp_path)
    model, x = target.model, inputs_of(target)[:1]
    assert isinstance(model, nn.Module)
    seen: dict[str, Tensor] = {}
    for name in ("features.2", "features.3", "features.6", "features.7"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.detach().double()})
        )
    model(x)
    layers = view.data["images"][0]["layers"]
    assert [(la["name"], la["began"]) for la in layers] == [
        ("features.2", "Conv2d"),
        ("features.3", "MaxPool2d"),
        ("features.6", "Conv2d"),
        ("features.7", "MaxPool2d"),
    ]
    for la in layers:
        maps = seen[la["name"]][0]
        assert la["maps"] == list(maps.shape)
        assert [la["mean"], la["largest"], la["zeros"]] == pytest.approx(
            [float(maps.mean()), float(maps.max()), float((maps == 0).double().mean())]
        )
        sums = [float(m.sum()) for m in maps.abs()]
        assert la["strongest"] == sorted(range(len(sums)), key=lambda k: -sums[k])
    assert (tmp_path / "features.svg").read_text().count("<image") == 1 + 4 + 4 + 6 + 6
    one = render_view("features", replace(target, layer="features.0", examples=2), out=tmp_path)
    assert [p.name for p in one.figures] == ["features-1.svg", "features-2.svg"]
    assert one.data["images"][0]["layers"][0]["least"] < 0


def test_maps_share_a_scale() -> None:
    shades, signed = scale_maps(torch.tensor([[[1.0, 0.0]], [[-4.0, 2.0]]]))
    assert signed
    np.testing.assert_allclose(shades, [[[0.625, 0.5]], [[0.0, 0.75]]])
    shades, signed = scale_maps(torch.tensor([[[1.0, 0.0]], [[4.0, 2.0]]]))
    assert not signed
    np.testing.assert_allclose(shades, [[[0.25, 0.0]], [[1.0, 0.5]]])


def test_filters_are_drawn_on_one_scale(target: Target, tmp_path: Path) -> None:
    view = render_view("filters", target, out=tmp_path)
    assert target.model is not None
    weight = target.model.get_submodule("features.0").weight.detach().double().numpy()
    norms = np.sqrt((weight**2).sum((1, 2, 3)))
    order = np.argsort(-norms, kind="stable")
    assert [one["number"] for one in view.data["filters"]] == order.tolist()
    assert view.data["scale"] == pytest.approx(abs(weight).max())
    first = (tmp_path / "filters.svg").read_text().split("base64,")[1].split('"')[0]
    import base64
    import io

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))
    want = np.round(255 * (0.5 + 0.5 * weight[order[0]] / abs(weight).max())).astype(int).transpose(1, 2, 0)
    assert pixels.shape == (48, 48, 3)
    np.testing.assert_array_equal(pixels[::16, ::16], want)
    assert np.shape(enlarge(np.zeros((1, 50, 20)))) == (1, 50, 20)


def test_filters_of_a_dense_layer_and_of_rows() -> None:
    task = Classification.prepare(colors(), Classification.Options())
    view = render_view(
        "filters", Target(spec=registry.find("mlp"), model=mlp(features=192, outputs=3, hidden=(5,)), task=task)
    )
    assert (view.data["shape"], view.data["convolution"]) == ([5, 3, 8, 8], False)
    with pytest.raises(UsageError, match="does not look at images"):
        inspect_target("filters", "mlp")


# -- embedding, confusions
# -----------------------------------------------------------------------------------------------


def test_embedding_is_the_singular_value_decomposition(target: Target, tmp_path: Path) -> None:
    view = render_view("embedding", target, out=tmp_path)
    assert view.data == render_view("embedding", target).data  # the same seed, the same map
    model = target.model
    assert isinstance(model, nn.Module)
    seen = model.classifier[:-1](model.features(inputs_of(target)).flatten(1)).detach().double().numpy()
    centered = seen - seen.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    found = np.array([point["pca"] for point in view.data["points"]])
    np.testing.assert_allclose(abs(found), abs(u[:, :2] * s[:2]), atol=1e-5)
    np.testing.assert_allclose(view.data["share"], (s**2 / (s**2).sum())[:2], rtol=1e-5)
    assert (view.data["layer"], view.data["units"], view.data["examples"]) == ("classifier.2", 5, 24)
    assert [p["true"] for p in view.data["points"]] == [CLASSES[n % 3] for n in range(24)]
    svg = (tmp_path / "embedding.svg").read_text()
    assert all(name in svg for name in CLASSES)
    assert "保留方差" in render_view("embedding", replace(target, lang="zh")).text


def test_many_units_take_the_short_way_to_the_same_plane() -> None:
    x = np.random.default_rng(0).normal(size=(300, 290)) * np.linspace(3, 1, 290)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    places, share = pca(x)
    np.testing.assert_allclose(abs(places), abs(u[:, :2] * s[:2]), atol=1e-6)
    np.testing.assert_allclose(share, (s**2 / (s**2).sum())[:2])


def test_neighbors_by_hand() -> None:
    x = np.random.default_rng(1).normal(size=(30, 4))
    distances = np.linalg.norm(x[:, None] - x[None], axis=2) + 1e9 * np.eye(30)
    assert [set(row) for row in find_neighbors(x)] == [set(row[:10]) for row in distances.argsort(1)]
    assert compute_neighbor_overlap(np.array([[1, 2], [0, 2]]), np.array([[2, 3], [2, 0]])) == 0.75


def test_embedding_refuses_too_many_and_too_few(target: Target) -> None:
    with pytest.raises(UsageError, match=r"at most 2,000"):
        render_view("embedding", replace(target, examples=2001))
    with pytest.raises(DataError, match="at least 8"):
        render_view("embedding", replace(target, examples=4))


def test_names_on_the_map_lie_apart_and_signs_differ() -> None:
    found = spread_labels(np.array([[100.0, 100.0], [105.0, 101.0], [300.0, 100.0]]), [50.0, 50.0, 50.0])
    assert found[1, 1] - found[0, 1] >= 11
    assert found[2].tolist() == [300.0, 100.0]
    assert len({get_marker(k) for k in range(36)}) == 36


def test_confusions_are_counted_by_hand(target: Target, tmp_path: Path) -> None:
    view = render_view("confusions", replace(target, examples=2), out=tmp_path)
    assert target.model is not None
    logits = target.model(inputs_of(target)).detach().double()
    counts: dict[tuple[int, int], list[int]] = {}
    for n in range(24):
        if int(logits[n].argmax()) != n % 3:
            counts.setdefault((n % 3, int(logits[n].argmax())), []).append(n)
    ordered = sorted(counts, key=lambda pair: (-len(counts[pair]), pair))
    assert len(ordered) >= 2
    assert view.data["wrong"] == sum(map(len, counts.values()))
    assert [(p["true"], p["predicted"], p["count"], p["of"]) for p in view.data["pairs"]] == [
        (CLASSES[i], CLASSES[j], len(counts[i, j]), 8) for i, j in ordered
    ]
    for pair, (i, j) in zip(view.data["pairs"], ordered, strict=True):
        losses = torch.log_softmax(logits, 1)[:, i]
        assert [e["index"] for e in pair["examples"]] == sorted(counts[i, j], key=lambda n: float(losses[n]))[:2]
    assert [p.name for p in view.figures] == ["confusions.svg"]
    assert "反向" in render_view("confusions", replace(target, lang="zh")).text


# -- the field that counts
# -----------------------------------------------------------------------------------------------


def test_the_effective_field_of_one_kernel_is_its_square() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2)).double()
    (found,) = measure_effective_fields(model, torch.randn(3, 1, 9, 9, dtype=torch.float64), ["0"])
    square = model[0].weight.detach()[0, 0] ** 2
    want = torch.zeros(9, 9, dtype=torch.float64)
    want[2:7, 2:7] = square / square.sum()
    torch.testing.assert_close(found.shares, want)
    at = torch.arange(9, dtype=torch.float64)
    variances = [float((want.sum(axis) * at**2).sum() - (want.sum(axis) * at).sum() ** 2) for axis in (0, 1)]
    assert found.side == pytest.approx((1 + 6 * sum(variances)) ** 0.5)


def test_fields_are_drawn_on_a_image(target: Target, tmp_path: Path) -> None:
    view = render_view("receptive-field", target, out=tmp_path)
    sides = {la["name"]: la["effective"] for la in view.data["layers"]}
    assert 1 < sides["features.0"] <= 4
    assert sides["features.0"] < sides["features.4"]
    assert sides["classifier.2"] is None
    assert "<image" in (tmp_path / "receptive-field.svg").read_text()
    assert "有效" in render_view("receptive-field", replace(target, lang="zh")).text


# -- what is asked of them
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["features", "grad-cam"])
def test_images_of_the_users(view: str, target: Target, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, pixels in zip("ab", colors().inputs, strict=False):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "c.png").write_text("no image")
    found = render_view(view, replace(target, splits=None, images=str(folder), examples=3))
    assert [Path(p["name"]).name for p in found.data["images"]] == ["a.png", "b.png"]
    assert "c.png as an image" in found.text
    own = render_view(view, replace(target, splits=None, images=str(folder / "a.png")))
    first = render_view(view, replace(target, examples=1)).data["images"][0]
    same = "classes" if view == "grad-cam" else "layers"
    assert own.data["images"][0][same] == first[same]
    with pytest.raises(DataError, match="no file or folder"):
        render_view(view, replace(target, splits=None, images=str(folder / "z.png")))


def test_missing_parts_of_a_network_are_reported(target: Target) -> None:
    plain = replace(target, spec=registry.find("mlp"), model=mlp(features=192, outputs=3, hidden=(5,)))
    for view in ("features", "grad-cam"):
        with pytest.raises(UsageError, match="mlp has no convolution"):
            render_view(view, plain)
        with pytest.raises(UsageError, match="takes rows of numbers"):
            inspect_target(view, "mlp", data="iris")
    for view in ("grad-cam", "embedding", "confusions"):
        with pytest.raises(UsageError, match="speaks of classes"):
            inspect_target(view, "lenet5", data="digits", task="regression")
    with pytest.raises(UsageError, match=r"did you mean 'features\.0'"):
        render_view("grad-cam", replace(target, layer="feature.0"))
    with pytest.raises(UsageError, match="no class '四'"):
        render_view("grad-cam", replace(target, class_name="四"))
    with pytest.raises(UsageError, match="--layer with one of features, grad-cam"):
        inspect_target("mistakes", "lenet5", layer="features.0")


def test_a_runs_own_images_by_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--set", "epochs=1", "--out", "run"]) == 0
    Image.fromarray(np.zeros((20, 20), dtype=np.uint8)).save("own.png")
    capsys.readouterr()
    assert (
        main(["inspect", "run", "--view", "grad-cam", "--data", "own.png", "--class", "3", "--out", "cam", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["data"]["from"], len(found["figures"])) == ("own.png", 2)
    assert main(["inspect", "run", "--view", "mistakes", "--data", "own.png"]) == 2
    assert main(["inspect", "run", "--view", "receptive-field", "--data", "own.png"]) == 0


@pytest.mark.parametrize("name", ["lenet5", "cnn", "alexnet", "vgg11_bn", "resnet18", "resnet20"])
def test_every_family_of_convolutional_networks_has_every_view(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = registry.find(name)
    arguments = {"channels": 3, **spec.small}
    inputs = np.random.default_rng(0).integers(0, 256, (8, *arguments["size"], 3), dtype=np.uint8)
    source = ArraySource(Schema("image", inputs.shape[1:], "class", CLASSES), inputs, np.arange(8) % 3, "p")
    task = Classification.prepare(source, Classification.Options())
    model = registry.get_builder(spec)(**arguments).eval()
    target = Target(spec=spec, model=model, task=task, splits=Splits(source, source, source, "p"), arguments=arguments)
    for view in (*NEW, "receptive-field"):
        assert render_view(view, target, out=tmp_path).figures
        assert VIEWS[view].summary_zh
