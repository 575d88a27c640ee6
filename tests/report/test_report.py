"""The report page: self-contained, escaped, repeatable, right."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.data.loader import BatchSampler, MemoryBatches, collate_source
from layerwise.data.source import ArraySource, Schema
from layerwise.errors import UsageError
from layerwise.inspection.predictions import compute_predictions
from layerwise.models.boltzmann import rbm
from layerwise.plotting import charts, images
from layerwise.plotting.svg import estimate_width, inline_svg, shorten
from layerwise.report.page import wilson_interval, write_report
from layerwise.run_directory import RunDirectory
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression
from small_runs import make_run_info

HOSTILE = "<script>alert('x')</script>\"onload=\"$x^$"
CHINESE = ("猫", "狗", HOSTILE)


pytestmark = pytest.mark.usefixtures("one_thread")


def make_image_source(classes: tuple[str, ...] = CHINESE, count: int = 30, target: str = "class") -> ArraySource:
    generator = np.random.default_rng(0)
    inputs = generator.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    targets = np.arange(count) % max(1, len(classes))
    schema = Schema("image", (8, 8, 1), target, classes if target == "class" else ())  # type: ignore[arg-type]
    return ArraySource(schema, inputs, targets if target == "class" else None, "图像<b>")


def make_row_source(target: str) -> ArraySource:
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(40, 3))
    targets = inputs @ [1.0, -2.0, 0.5] if target == "number" else (inputs[:, 0] > 0).astype(np.int64)
    classes = ("no", "yes") if target == "class" else ()
    return ArraySource(Schema("row", (3,), target, classes, ("a", "b<i>", "c"), "价格"), inputs, targets, "t.csv")  # type: ignore[arg-type]


def write_page(path: Path, model: nn.Module, task: Task, source: ArraySource, *, lang: str = "en") -> str:
    directory = RunDirectory.create(path)
    directory.write("recipe.toml", b"[model]\nname = '<mlp>'\n")
    history = [
        {"stage": stage, "epoch": e, "train/loss": 1 / e, "val/loss": 2 / e, f"val/{task.goal.metric}": 0.1 * e}
        for stage in ("one", "two </svg>")
        for e in (1, 2, 3)
    ]
    directory.write_info(
        {
            **make_run_info(),
            "layerwise": "0",
            "torch": "0",
            "python": "0",
            "host": {"system": "x"},
            "data": "d<u>",
            "fingerprint": "f",
            "examples": {"train": 1, "val": 1, "test": len(source)},
            "notes": ["skipped <a.png>"],
            "model": {"name": "mlp", "arguments": {"features": 3}},
            "seconds": 3.0,
            "epochs": 2,
            "history": history,
            "metrics": {"val/loss": 1.0, "test/loss": 2.0},
            "flags": {"threads": 1},
            "verdicts": [["done", "完成"]],
        },
        new_files=("recipe.toml",),
    )
    batches = MemoryBatches(collate_source(source, task.collate, 1), BatchSampler(len(source), 16))
    write_report(
        directory, model, task, predictions=compute_predictions(model, task, batches), source=source, lang=lang
    )
    return (path / "report.html").read_text("utf-8")


def build_network(task: Task, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(task.model_args()["features"], outputs))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = make_image_source()
    task = Classification.prepare(source, Classification.Options())
    return write_page(tmp_path_factory.mktemp("a") / "run", build_network(task, 3), task, source, lang="zh")


class Tags(HTMLParser):
    """Gathers tags with attributes, and unclosed ones."""

    void = frozenset({"meta", "img", "br", "rect", "image", "use", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.void:
            return
        assert self.open.pop() == tag


def find_tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    return parser.seen


def test_page_has_no_external_reference_and_no_script(page: str) -> None:
    seen = find_tags(page)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in seen}
    for tag, attributes in seen:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,"))
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_page_escapes_class_names_and_holds_chinese(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "猫" in page
    assert "图像&lt;b&gt;" in page
    assert "skipped &lt;a.png&gt;" in page
    assert 'lang="zh-Hans"' in page
    assert "混淆矩阵" in page
    assert "完成" in page


def test_page_ids_are_unique_and_viewport_is_set(page: str) -> None:
    ids = [attributes["id"] for _, attributes in find_tags(page) if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_the_same_run_gives_the_same_bytes_and_leaves_the_model(tmp_path: Path) -> None:
    source = make_image_source()
    task = Classification.prepare(source, Classification.Options())
    model = build_network(task, 3).train()
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    one = write_page(tmp_path / "x" / "run", model, task, source)
    two = write_page(tmp_path / "y" / "run", model, task, source)
    assert one.replace("/x/", "/y/") == two
    figures = [sorted((tmp_path / name / "run" / "figures").iterdir()) for name in "xy"]
    assert [p.read_bytes() for p in figures[0]] == [p.read_bytes() for p in figures[1]]
    assert len(figures[0]) == 7  # two stages of two drawings, confusion, calibration, mistakes
    for path in figures[0]:
        ET.fromstring(path.read_text("utf-8"))  # well-formed, names and all
        assert b"<dc:date>" not in path.read_bytes()
    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_confusion_counts_and_worst_mistakes_match_naive_loops(tmp_path: Path) -> None:
    source = make_row_source("class")
    task = Classification.prepare(source, Classification.Options())
    model = build_network(task, 2)
    page = write_page(tmp_path / "run", model, task, source)
    logits = model(task.inputs.tensor(source.inputs)).detach()
    assert source.targets is not None
    counts = [[0, 0], [0, 0]]
    wrong = []
    for i in range(len(source)):
        true, said = int(source.targets[i]), int(logits[i].argmax())
        counts[true][said] += 1
        if true != said:
            wrong.append((-float(torch.log_softmax(logits[i].double(), 0)[true]), source.name_of(i)))
    cells = [int(c or 0) for c in re.findall(r'<td class="[rw](?: loud)?" style="--a: [\d.]+">(\d*)</td>', page)]
    assert cells == [*counts[0], *counts[1]]
    table = page[page.index("Worst mistakes") :]
    assert (
        re.findall(r"<bdi>(t\.csv\[\d+\])</bdi>", table)[:24] == [name for _, name in sorted(wrong, reverse=True)][:24]
    )
    assert "b&lt;i&gt;" in table


def test_regression_reconstruction_and_samples_have_their_sections(tmp_path: Path) -> None:
    numbers = make_row_source("number")
    regression = Regression.prepare(numbers, Regression.Options())
    page = write_page(tmp_path / "a", build_network(regression, 1), regression, numbers)
    assert "Predicted against true" in page
    assert "true 价格" in page
    bare = make_image_source((), 20, target="none")
    rebuilt = Reconstruction.prepare(bare, Reconstruction.Options())
    torch.manual_seed(0)
    page = write_page(tmp_path / "b", rbm(features=64, hidden=8), rebuilt, bare)
    assert "Reconstructions" in page
    assert "Samples" in page
    find_tags(page)


def test_an_unknown_language_is_refused_by_name(tmp_path: Path) -> None:
    source = make_row_source("class")
    task = Classification.prepare(source, Classification.Options())
    with pytest.raises(UsageError, match="there is no language 'fr'"):
        write_page(tmp_path / "run", build_network(task, 2), task, source, lang="fr")


def test_many_classes_become_a_drawing(tmp_path: Path) -> None:
    source = make_image_source(tuple(f"类{i}" for i in range(40)), 80)
    task = Classification.prepare(source, Classification.Options())
    page = write_page(tmp_path / "run", build_network(task, 40), task, source)
    assert 'class="matrix"' not in page
    assert "Most often confused" in page


def test_wilson_interval_solves_its_equation() -> None:
    low, high = wilson_interval(0.9, 50)
    for p in (low, high):  # the interval's ends are where |p̂ − p| = z √(p(1−p)/n)
        assert abs(0.9 - p) == pytest.approx(1.959964 * (p * (1 - p) / 50) ** 0.5, abs=1e-9)


def test_images_keep_their_pixels() -> None:
    import io

    from PIL import Image

    image = np.arange(12).reshape(1, 3, 4) / 11
    read = np.asarray(Image.open(io.BytesIO(images.encode_png(image))))
    assert np.array_equal(read, np.round(image[0] * 255).astype(np.uint8))


def test_texts_are_measured_and_cut_by_their_glyphs() -> None:
    assert estimate_width("猫", 10) == 10
    cut = shorten("非常非常长的类别名称", 50, 10)
    assert estimate_width(cut, 10) <= 50
    assert "…" in cut


def test_charts_take_values_that_are_not_finite_and_mathematical_names() -> None:
    drawn = charts.plot_curves({"$x^": [(1, float("nan")), (2, 1.0)]}, x="$\\bad", y="<y>", best=1, best_label="b")
    ET.fromstring(drawn)
    assert "&lt;y&gt;" in drawn
    assert "<?xml" not in inline_svg(drawn, "p")
