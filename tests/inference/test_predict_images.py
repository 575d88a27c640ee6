"""Images answered: with their mirror images, and a folder of many with bad ones among them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from layerwise import api
from layerwise.errors import UsageError
from layerwise.inference.evaluate import evaluate_run
from layerwise.inference.predict import Failure, FlipTTA, NamedPrediction, Predictor, read_inputs, with_tta
from layerwise.tasks.objectives import ClassLoss


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A small network of digits."""
    options: dict[str, Any] = {"model.widths": [4], "model.dense": [8], "train.threads": 1}
    return api.train(
        "cnn", data="digits", epochs=2, batch_size=64, out=tmp_path_factory.mktemp("run") / "run", options=options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits as PNG, and among them an empty file, a text and a cut-off image."""
    folder = tmp_path_factory.mktemp("folder")
    for n, pixels in enumerate(load_digits().images[:300]):
        Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / f"{n:03d}.png")
    (folder / "100.png").write_bytes(b"")
    (folder / "200.png").write_text("not an image")
    (folder / "201.png").write_bytes((folder / "202.png").read_bytes()[:60])
    return folder


def softmax(z: Tensor) -> np.ndarray[Any, Any]:
    e = np.exp(z.double().numpy() - z.double().numpy().max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_answer_is_the_mean_of_the_probabilities(run: api.Run, folder: Path) -> None:
    plain = run.predictor()
    both = Predictor(with_tta(plain.model, plain.task, "flip"), plain.task)
    path = folder / "007.png"
    mirrored = np.asarray(Image.open(path))[:, ::-1]
    (a,), (b,), (mean,) = plain(path), plain(np.ascontiguousarray(mirrored)), both(path)
    for name in map(str, range(10)):
        assert mean.scores[name] == pytest.approx((a.scores[name] + b.scores[name]) / 2, abs=2e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "columns"), [("cross-entropy", 4), ("focal", 4), ("cross-entropy", 1), ("binary-cross-entropy", 4)]
)
def test_outputs_of_the_mean_are_finite_and_exact(kind: Any, columns: int) -> None:
    a, b = torch.randn(5, columns).double() * 3, torch.randn(5, columns).double() * 3
    loss = ClassLoss(kind)
    want = (loss.probabilities(a) + loss.probabilities(b)) / 2
    torch.testing.assert_close(loss.probabilities(loss.average_outputs([a, b])), want)
    assert bool(loss.average_outputs([a * 1000, b * 1000]).isfinite().all())


def test_eval_measures_the_mean(run: api.Run) -> None:
    """Accuracy and loss beside NumPy's, from the network's own outputs."""
    found = evaluate_run(run.path, tta="flip").metrics
    from layerwise.data.load import Options, load_splits
    from layerwise.recipe import check_table

    test = load_splits(check_table(Options, run.recipe.data, where="test"), seed=0).test
    predictor = run.predictor()
    batch = predictor.task.collate(test.fetch(range(len(test))))  # type: ignore[attr-defined]
    with torch.inference_mode():
        p = (softmax(predictor.model(batch.inputs)) + softmax(predictor.model(batch.inputs.flip(3)))) / 2
    right = batch.targets.numpy()
    assert found["accuracy"] == pytest.approx(float((p.argmax(1) == right).mean()), abs=1e-9)
    assert found["loss"] == pytest.approx(float(-np.log(p[np.arange(len(p)), right]).mean()), rel=1e-4)
    assert found["loss"] != evaluate_run(run.path).metrics["loss"]


def test_rows_have_no_mirror_image_and_reconstructions_no_mean(tmp_path: Path) -> None:
    rows = api.train("mlp", data="iris", epochs=1, out=tmp_path / "rows")
    with pytest.raises(UsageError, match="rows have no mirror image"):
        evaluate_run(rows.path, tta="flip")
    rbm = api.train("rbm", data="digits", epochs=1, out=tmp_path / "rbm", options={"examples": 50})
    predictor = rbm.predictor()
    with pytest.raises(UsageError, match="have no mean"):
        with_tta(predictor.model, predictor.task, "flip")


def test_json_says_that_mirror_images_were_looked_at(run: api.Run, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "layerwise",
        "predict",
        str(run.path),
        str(folder / "000.png"),
        "--tta",
        "flip",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tta"] == "flip"


def test_a_folder_is_answered_in_order_and_bad_files_fail_alone(run: api.Run, folder: Path) -> None:
    predictor = run.predictor()
    found = list(predictor.stream(read_inputs([str(folder)], predictor.task)))
    assert [Path(one.input).name for one in found] == [f"{n:03d}.png" for n in range(300)]
    bad = {Path(one.input).name: one.error for one in found if isinstance(one, Failure)}
    assert sorted(bad) == ["100.png", "200.png", "201.png"]
    assert "is empty" in bad["100.png"]
    good = [one for one in found if isinstance(one, NamedPrediction)]
    alone = predictor(*[one.input for one in good[150:170]])
    for one, same in zip(good[150:170], alone, strict=True):
        assert one.prediction.label == same.label  # type: ignore[attr-defined]
        assert math.isclose(one.prediction.score, same.score, abs_tol=1e-5)  # type: ignore[attr-defined]


def test_only_two_pieces_are_held(run: api.Run, folder: Path) -> None:
    """Files are asked for as they are needed: when the first answer comes, no more than two pieces were."""
    asked = []

    def pieces() -> Any:
        for piece in read_inputs([str(folder)], run.predictor().task):
            asked.append(len(piece.names))
            yield piece

    predictor = run.predictor()
    next(predictor.stream(pieces()))
    assert asked == [64, 64]


class Sum(nn.Module):
    """Says how bright the left half of an image is."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :, :2].sum((1, 2, 3))[:, None]


def test_mirroring_is_left_to_right(tmp_path: Path) -> None:
    class Plain:
        def average_outputs(self, outputs: list[Tensor]) -> Tensor:
            return torch.stack(outputs).mean(0)

    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert float(FlipTTA(Sum(), Plain())(x)) == pytest.approx((float(x[..., :2].sum()) + float(x[..., 2:].sum())) / 2)  # type: ignore[arg-type]
