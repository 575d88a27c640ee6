"""Weights from files: every form in which people save them is read, everything that differs is listed, and nothing is
loaded half-way."""

from __future__ import annotations

import argparse
import json
import logging
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from layerwise import api, registry
from layerwise.cli import main
from layerwise.errors import DamagedError, UsageError
from layerwise.nn.modes import eval_mode, train_mode
from layerwise.planning.transfer import find_head
from layerwise.run_check import verify
from layerwise.weights.loading import load_weights
from layerwise.weights.weight_files import read_weights
from processes import patch_report

State = dict[str, Tensor]
SHAPE: dict[str, Any] = {"channels": 1, "size": [8, 8], "width": 4, "blocks": 1}


def net(outputs: int = 10, seed: int = 0) -> nn.Module:
    """Return a small residual network whose batch norms hold statistics of their own."""
    torch.manual_seed(seed)
    model = api.build("resnet20", outputs=outputs, **SHAPE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    return model.eval()


def averaged(model: nn.Module) -> State:
    """Return what torch's running average of a model saves."""
    return dict(torch.optim.swa_utils.AveragedModel(model).state_dict())


def trained_beside(model: nn.Module) -> dict[str, Any]:
    """Return what training scripts save beside a model: optimizer, schedule, options, NumPy's numbers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    plan = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    return {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": plan.state_dict(),
        "epoch": 7,
        "args": argparse.Namespace(lr=0.1, name="x"),
        "best_acc": np.float64(93.5),
        "best_epoch": np.int64(5),
        "history": [{"loss": 0.5}],
    }


def under(prefix: str, state: State) -> State:
    """Return tensors under a prefix."""
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


FORMS: dict[str, Callable[[nn.Module, State], Any]] = {
    "plain": lambda m, s: s,
    "DataParallel": lambda m, s: nn.DataParallel(m).state_dict(),
    "the published CIFAR networks": lambda m, s: {"state_dict": under("module.", s), "best_prec1": 91.78},
    "state_dict": lambda m, s: {"state_dict": s, **trained_beside(net())},
    "model": lambda m, s: {"model": s, **trained_beside(net())},
    "model_state_dict": lambda m, s: {
        "epoch": 3,
        "model_state_dict": s,
        "optimizer_state_dict": trained_beside(net())["optimizer"],
    },
    "net": lambda m, s: {"net": under("module.", s), "acc": 92.1, "epoch": 199},
    "one table deeper": lambda m, s: {"ema": {"module": s, "decay": 0.999}, "epoch": 3},
    "averaged before raw": lambda m, s: {"model": net(seed=1).state_dict(), "model_ema": averaged(m)},
    "compiled": lambda m, s: under("_orig_mod.", s),
    "compiled in DataParallel": lambda m, s: {"model": under("module._orig_mod.", s)},
    "Lightning": lambda m, s: {
        "state_dict": under("model.", s),
        "hyper_parameters": {"lr": 0.1},
        "global_step": 5,
        "loops": {},
    },
    "an unknown name": lambda m, s: {"student": s, "epoch": 3},
    "before torch 0.4.1": lambda m, s: {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_and_gives_the_same_answers(form: str, legacy: bool, tmp_path: Path) -> None:
    model = net()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    path = tmp_path / "w.th"
    torch.save(FORMS[form](model, state), path, _use_new_zipfile_serialization=not legacy)
    model.load_state_dict(state)
    loaded = api.build("resnet20", outputs=10, weights=path, **SHAPE).eval()
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert not torch.equal(net(seed=2)(x), model(x))


@pytest.mark.parametrize("form", ["plain", "DataParallel", "compiled", "before torch 0.4.1"])
def test_the_same_in_safetensors(form: str, tmp_path: Path) -> None:
    model = net()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    safetensors.torch.save_file(dict(FORMS[form](model, state)), tmp_path / "w.safetensors")
    loaded = api.build("resnet20", classes=10, weights=tmp_path / "w.safetensors", **SHAPE).eval()
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))


def test_half_precision_is_taken_as_what_it_says(tmp_path: Path) -> None:
    torch.save({n: t.half() if t.is_floating_point() else t for n, t in net().state_dict().items()}, tmp_path / "w.pt")
    loaded = api.build("resnet20", outputs=10, weights=tmp_path / "w.pt", **SHAPE).state_dict()
    for name, tensor in net().state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-6)


def test_what_was_understood_is_told(tmp_path: Path) -> None:
    torch.save(FORMS["the published CIFAR networks"](net(), dict(net().state_dict())), tmp_path / "w.pth")
    found = load_weights(net(seed=1), tmp_path / "w.pth")
    assert found.note == (
        f"weights of {tmp_path / 'w.pth'}: 44 of 44 tensors taken (under 'state_dict', beside best_prec1, "
        "names without 'module.')"
    )
    assert read_weights(tmp_path / "w.pth").assets.keys() == {"sha256", "place", "prefix", "beside"}


# -- another head ------------------------------------------------------------------------------------------------------


def test_only_another_head_leaves_it_fresh_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    donor = net(outputs=7)
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    torch.manual_seed(5)
    bare = api.build("resnet20", outputs=10, **SHAPE).state_dict()
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING, "layerwise"):
        made = api.build("resnet20", outputs=10, weights=tmp_path / "w.pth", **SHAPE).state_dict()
    assert "the head (linear.weight, linear.bias) is new: 7 outputs there, 10 here" in caplog.text
    for name, tensor in made.items():
        assert torch.equal(tensor, (bare if name.startswith("linear.") else donor.state_dict())[name]), name


def test_a_file_without_a_head_leaves_it_fresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({n: t for n, t in net().state_dict().items() if not n.startswith("linear.")}, tmp_path / "w.pth")
    api.build("resnet20", outputs=10, weights=tmp_path / "w.pth", **SHAPE)
    assert "is new: the file has none" in caplog.text


HEADS = {
    "resnet18": "fc",
    "resnet50": "fc",
    "vgg11": "classifier.6",
    "alexnet": "classifier.6",
    "resnet110": "linear",
    "mlp": "4",
    "lenet5": "classifier.4",
    "dbn": "head",
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_found_by_the_structure(name: str) -> None:
    """In the model's small form: the names that torchvision and the papers' code give to the last layer."""
    spec = registry.find(name)
    builder = registry.get_builder(spec)
    found = find_head(builder, api.recipe.resolve_arguments(builder, spec.small, {}, name))
    if name == "mlp":  # nameless layers: the last linear one
        layers = [n for n, m in builder(**spec.small).named_modules() if isinstance(m, nn.Linear)]
        assert found == (f"{layers[-1]}.weight", f"{layers[-1]}.bias")
    else:
        assert found == (f"{HEADS[name]}.weight", f"{HEADS[name]}.bias")


def test_a_network_without_outputs_has_no_head() -> None:
    assert find_head(registry.get_builder(registry.find("rbm")), {"features": 8, "hidden": 4}) == ()


def edited(change: Callable[[State], None]) -> State:
    """Return a network's tensors for 7 classes, changed."""
    state = {n: t.clone() for n, t in net(outputs=7).state_dict().items()}
    change(state)
    return state


def wider(state: State) -> None:
    """Give the head other columns too."""
    state["linear.weight"] = torch.zeros(7, 5)


WRONG: dict[str, tuple[Callable[[State], Any], list[str]]] = {
    "another layer too": (
        lambda s: s.update({"conv1.weight": torch.zeros(4, 3, 3, 3)}),
        [
            "conv1.weight: expected (4, 1, 3, 3), received (4, 3, 3, 3)",
            "linear.weight: expected (10, 16), received (7, 16)",
        ],
    ),
    "columns of the head": (wider, ["linear.weight: expected (10, 16), received (7, 5)"]),
    "half of a head": (lambda s: s.pop("linear.bias"), ["linear.bias: missing (expected (10,))"]),
    "a key missing": (lambda s: s.pop("bn1.running_var"), ["bn1.running_var: missing (expected (4,))"]),
    "a key left over": (lambda s: s.update({"fc.bias": torch.zeros(3)}), ["fc.bias: not in the model (received (3,))"]),
    "another kind of number": (
        lambda s: s.update({"bn1.weight": torch.ones(4, dtype=torch.int8)}),
        ["bn1.weight: expected float32, received int8"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_an_error_and_nothing_is_loaded(name: str, tmp_path: Path) -> None:
    change, texts = WRONG[name]
    torch.save(edited(change), tmp_path / "w.pth")
    model = net(seed=3)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(UsageError, match=r"does not fit this network: \d+ key\(s\) differ") as caught:
        load_weights(model, tmp_path / "w.pth", head=("linear.weight", "linear.bias"))
    assert all(text in str(caught.value) for text in texts), caught.value
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_hundreds_of_keys_are_counted_by_kind(tmp_path: Path) -> None:
    """A network of 56 layers into one of 20: 36 layers of 7 tensors (a convolution, a batch norm with its counter …)
    are too many."""
    torch.save(api.build("resnet56", outputs=10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        api.build("resnet20", outputs=10, weights=tmp_path / "w.pth")
    lines = str(caught.value).splitlines()
    assert f"{36 * 6} key(s) differ" in lines[0]
    assert f"    … and {36 * 6 - 10} more that are not in the model" in lines
    assert len(lines) < 20


def test_a_network_that_is_all_head_does_not_load_nothing(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="does not fit"):
        load_weights(nn.Linear(4, 3), tmp_path / "w.pth", head=("weight", "bias"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"epoch": 3, "optimizer": {"state": {}}}, "received: epoch, optimizer"),
        ({"a": {"w": torch.zeros(2)}, "b": {"w": torch.zeros(2)}}, "received: a, b"),
        ([torch.zeros(2)], "received: list"),
        ({}, "received: nothing"),
    ],
)
def test_files_without_a_table_of_tensors_say_what_they_hold(content: Any, text: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DamagedError, match="holds no tensors by name") as caught:
        read_weights(tmp_path / "w.pt")
    assert text in str(caught.value)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 KiB, which torch's reader would unpack (F02)."""
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    tracemalloc.start()
    with pytest.raises(DamagedError, match="was not opened"):
        read_weights(tmp_path / "w.pt")
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


# -- training that begins with weights
# -----------------------------------------------------------------------------------

DIGITS: dict[str, Any] = {"model.width": 4, "model.blocks": 1, "task.size": 8, "train.threads": 1}


def test_no_epochs_evaluate_the_weights_as_they_are(tmp_path: Path) -> None:
    """The run's metrics are the network's own, with the images scaled as it was said; nothing is trained; the run is
    whole."""
    from sklearn.datasets import load_digits

    model = net()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    options = {**DIGITS, "task.mean": [0.25], "task.std": [0.5]}
    with patch_report(True):
        run = api.train("resnet20", data="digits", weights="w.pth", epochs=0, out="run", options=options)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in run.model().state_dict().items())
    images = np.rint(load_digits().images[:50] * 255 / 16).astype(np.uint8)
    answers = run.predictor()(*images)
    with torch.no_grad():
        wanted = model((torch.from_numpy(images)[:, None].float() / 255 - 0.25) / 0.5).softmax(1)
    assert [a.label for a in answers] == [str(i) for i in wanted.argmax(1).tolist()]
    np.testing.assert_allclose([a.score for a in answers], wanted.amax(1), atol=2e-6)
    assert verify(api.RunDirectory(run.path)).keys() >= {"checkpoints/best/model.safetensors", "report.html"}
    assert not any(verify(api.RunDirectory(run.path)).values())
    assert run.info["weights"]["tensors"] == 44  # 7 convolutions and 7 batch norms of 5 tensors, and the head
    assert main(["eval", "run", "--json"]) == 0


def test_resuming_an_evaluation_is_finished_already_and_its_recipe_repeats_it(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "w.pth")
    first = api.train("resnet20", data="digits", weights="w.pth", epochs=0, out="run", options=DIGITS)
    (again := tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    assert api.train("run/recipe.toml", resume=True).metrics == first.metrics
    with pytest.raises(UsageError, match=r"there is no file w\.pth"):
        api.train("run/recipe.toml", out="again")
    assert not Path("again").exists()
    (tmp_path / "moved.pth").rename(again)
    assert api.train("run/recipe.toml", out="again").metrics == first.metrics


def test_a_new_head_is_told_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    donor = net(outputs=7)
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    keys = [word for key, value in DIGITS.items() for word in ("--set", f"{key}={value}")]
    assert (
        main(
            [
                "train",
                "resnet20",
                "--data",
                "digits",
                "--epochs",
                "0",
                "--weights",
                "w.pth",
                "--out",
                "run",
                "--json",
                *keys,
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    assert "the head (linear.weight, linear.bias) is new: 7 outputs there, 10 here" in told.err
    assert "no stage trains the new head" in told.err
    assert json.loads(told.out)["epochs"] == 0
    run = api.open("run")
    assert run.info["weights"]["fresh"] == ["linear.weight", "linear.bias"]
    assert any("is new: 7 outputs there" in note for note in run.info["notes"])
    bare = api.train("resnet20", data="digits", epochs=0, out="bare", options=DIGITS).model().state_dict()
    for name, tensor in (
        run.model().state_dict().items()
    ):  # the head is the one that the seed draws, the rest is the donor's
        assert torch.equal(tensor, (bare if name.startswith("linear.") else donor.state_dict())[name]), name


def test_weights_that_do_not_fit_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(net().state_dict(), tmp_path / "w.pth")
    assert main(["train", "lenet5", "--data", "digits", "--epochs", "1", "--weights", "w.pth", "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert "w.pth does not fit this network" in told
    assert "choose the network that the weights belong to" in told
    assert not Path("run").exists()


def table(path: str, labels: str, seed: int) -> str:
    """Write a table of two numbers and a class."""
    draw = np.random.default_rng(seed)
    rows = [f"{draw.normal():.3f},{draw.normal():.3f},{labels[i % len(labels)]}" for i in range(60)]
    Path(path).write_text("a,b,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("labels", "fresh"), [("pq", False), ("xy", True)])
def test_a_runs_head_for_other_classes_stays_fresh(labels: str, fresh: bool) -> None:
    """As many classes by other names: the shapes fit, and what the rows stand for does not."""
    options = {"model.hidden": [4], "train.threads": 1}
    first = api.train("mlp", data=table("one.csv", "pq", 0), epochs=1, out="one", options=options)
    second = api.train("mlp", data=table("two.csv", labels, 1), weights="one", epochs=0, out="two", options=options)
    same = {n: torch.equal(t, first.model().state_dict()[n]) for n, t in second.model().state_dict().items()}
    head = second.info["weights"]["fresh"]
    assert bool(head) == fresh
    assert [name for name, alike in same.items() if not alike] == head
    assert fresh == any("its classes were others" in note for note in second.info["notes"])


def test_a_runs_scaling_of_images_comes_along() -> None:
    """Another seed splits otherwise, so statistics fitted anew would differ; given ones win over both."""
    first = api.train("resnet20", data="digits", epochs=0, seed=1, out="one", options=DIGITS)
    second = api.train("resnet20", data="digits", epochs=0, seed=2, out="two", weights="one", options=DIGITS)
    fresh = api.train("resnet20", data="digits", epochs=0, seed=2, out="three", options=DIGITS)
    own = {**DIGITS, "task.mean": [0.5], "task.std": [1]}
    given = api.train("resnet20", data="digits", epochs=0, out="four", weights="one", options=own)

    def scale(run: api.Run) -> tuple[Any, Any]:
        inputs = api.RunDirectory(run.path).read_task()["inputs"]
        return inputs["mean"], inputs["std"]

    assert scale(first) == scale(second) != scale(fresh)
    assert scale(given) == ([0.5], [1.0])


@pytest.mark.parametrize(
    ("data", "settings", "text"),
    [
        ("digits", {"task.mean": [0.5]}, r"task.mean and task.std with 1 number\(s\) each"),
        ("digits", {"task.scale": "imagenet"}, r"images of 1 channel\(s\) are scaled by as many"),
        ("digits", {"task.mean": [0.5], "task.std": [0.0]}, "a wrong value"),
        ("digits", {"task.mean": [0.5], "task.std": [1.0], "task.scale": "unit"}, "a scale of their own"),
        ("iris", {"task.mean": [0.5], "task.std": [1.0]}, "these data are rows"),
    ],
)
def test_means_and_deviations_that_cannot_be_are_refused(data: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        api.train("lenet5" if data == "digits" else "mlp", data=data, out="run", options=settings)
    assert not Path("run").exists()


# -- modes
# ---------------------------------------------------------------------------------------------------------------


def test_batch_norms_that_are_held_still_stay_in_evaluation() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False))
    model = nn.Sequential(plain, nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(2, 2))
    train_mode(model.eval())
    assert all(m.training for m in model.modules())
    for part in (plain, model[1]):
        part.requires_grad_(False)
    train_mode(model)
    still = {plain[1], model[1]}
    assert all(m.training == (m not in still) for m in model.modules())
    with eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert all(m.training == (m not in still) for m in model.modules())
