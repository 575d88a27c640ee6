"""A stranger's run, sealed with right checksums: what it asks for is compared with what it holds before memory is taken
(G, F31, F32)."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from spoiling import seal_run

from layerwise import api
from layerwise.cli import main
from layerwise.errors import DamagedError, LayerwiseError, UsageError
from layerwise.planning.resolve import Request
from layerwise.runtime.checksums import find_nonfinite
from layerwise.training.run_training import train
from small_runs import fit

ROW = "5.1,3.5,1.4,0.2"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("rows") / "run", data="iris", epochs=1).path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"model.widths": [4], "model.dense": [8], "model.dropout": 0, "examples": 100, "train.threads": 1}
    return api.train(
        "cnn", data="digits", epochs=1, seed=5, out=tmp_path_factory.mktemp("images") / "run", options=options
    ).path


def make_strange_run(run: Path, name: str, change: Any) -> Path:
    """Copy a run, change one of its JSON files by ``change(content)``, and seal it again."""
    target = Path(shutil.copytree(run, Path("strange").resolve(), dirs_exist_ok=True))
    content = json.loads((target / name).read_bytes())
    change(content)
    (target / name).write_text(json.dumps(content))
    seal_run(target)
    return target


def set_argument(name: str, value: Any) -> Any:
    return lambda info: info["model"]["arguments"].update({name: value})


def check_refused(run: Path, message: str) -> None:
    """Predicting with a run is refused with one error for users, in a moment, with little memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LayerwiseError, match=f"(?s){message}"):
        api.open(run).predictor()(ROW)
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "hidden",
            [10**9],
            r"run\.json is damaged: model\.arguments\.hidden is 1e\+09, which the checkpoint does not explain",
        ),
        ("hidden", [2**31], r"run\.json is damaged: model\.arguments\.hidden"),
        (
            "hidden",
            [1] * 10**6,
            r"run\.json is damaged: model\.arguments\.hidden is a list of 1,000,000, and the checkpoint has 4 tensors",
        ),
        (
            "hidden",
            [1] * 250,
            r"run\.json is damaged: the arguments of its model (ask for more tensors than the 4|do not describe)",
        ),
        (
            "hidden",
            "x",
            r"run\.json is damaged: a wrong value in model\.arguments: hidden.*expected: a list.*received: \"x\"",
        ),
        (
            "hidden",
            [17],
            r"run\.json is damaged: the arguments of its model do not describe the weights in .*key\(s\) differ",
        ),
        ("depth", 2**31, r"run\.json is damaged: model\.arguments\.depth"),
        ("nosuch", 1, r"run\.json is damaged: there is no option 'nosuch' in model\.arguments"),
        ("features", 5, r"run\.json is damaged: the arguments of its model do not describe"),
        (
            "activation",
            "nosuch",
            r"run\.json is damaged: the arguments of its model do not describe the weights.*nosuch",
        ),
    ],
)
def test_arguments_that_the_checkpoint_does_not_explain_are_refused(
    name: str, value: Any, message: str, rows: Path
) -> None:
    check_refused(make_strange_run(rows, "run.json", set_argument(name, value)), message)


def test_an_unknown_model_is_one_error_that_names_the_file(rows: Path) -> None:
    run = make_strange_run(rows, "run.json", lambda info: info["model"].update(name="mlpp"))
    check_refused(run, r"no model 'mlpp' in .*run\.json.*did you mean 'mlp'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: task.update(name="nosuch"), r"\$\.name is 'nosuch'"),
        (lambda task: task.update(name=[1]), r"\$\.name"),
        (lambda task: task.update(classes=[]), r"\$\.classes"),
        (lambda task: task.update(classes=["a", "a", "b"]), r"classes has 'a' twice"),
        (lambda task: task.update(classes=["a", "b"]), r"it decides classes = 2|it decides outputs = 2"),
        (lambda task: task["loss"].update(weights=[1.0]), r"loss\.weights has 1 numbers for 3 classes"),
        (lambda task: task["loss"].update(kind="x"), r"\$\.loss\.kind"),
        (lambda task: task.pop("inputs"), r"inputs"),
        (lambda task: task["inputs"].update(kind="video"), r"\$\.inputs\.kind"),
        (lambda task: task["inputs"].update(columns=[]), r"\$\.inputs\.columns"),
        (lambda task: task["inputs"].update(encoding="nosuch"), r"encoding 'nosuch' is unknown.*\$\.inputs"),
        (lambda task: task["inputs"]["columns"][0].update(spread=0.0), r"\$\.inputs\.columns\[0\]\.spread"),
        (lambda task: task["inputs"]["columns"][0].update(spread=10**400), r"task\.json"),
        (lambda task: task["inputs"]["columns"][0].update(shift="x"), r"\$\.inputs\.columns\[0\]\.shift"),
        (
            lambda task: task["inputs"]["columns"].pop(),
            r"it decides features = 3, and run\.json has model\.arguments\.features = 4",
        ),
    ],
)
def test_a_task_that_is_none_is_refused_by_its_field(change: Any, message: str, rows: Path) -> None:
    check_refused(
        make_strange_run(rows, "task.json", change),
        rf"task\.json is damaged: .*{message}" if "task" not in message else message,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda task: task["inputs"].update(size=[30_000, 30_000]),
            r"size \[30000, 30000\] with 1 channel\(s\) is more than .*\$\.inputs",
        ),
        (
            lambda task: task["inputs"].update(size=[16, 16]),
            r"it decides size = \[16, 16\], and run\.json has model\.arguments\.size",
        ),
        (lambda task: task["inputs"].update(size="x"), r"\$\.inputs\.size"),
        (lambda task: task["inputs"].update(std=[0.0]), r"\$\.inputs\.std\[0\]"),
        (lambda task: task["inputs"].update(mean=[]), r"mean and std must have 1 number"),
    ],
)
def test_images_of_a_size_that_the_network_does_not_take_are_refused(change: Any, message: str, images: Path) -> None:
    check_refused(make_strange_run(images, "task.json", change), rf"task\.json is damaged: .*{message}")


def replace_tensors(run: Path, checkpoint: str, part: str, change: Any) -> Path:
    """Copy a run, change a checkpoint's tensors, and seal it again."""
    target = Path(shutil.copytree(run, Path("strange").resolve()))
    path = target / "checkpoints" / checkpoint / f"{part}.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    seal_run(target)
    return target


def fill(number: float) -> Any:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = sorted(n for n, t in tensors.items() if t.is_floating_point() and t.numel())[0]
        tensors[name].flatten()[0] = number

    return change


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(number: float, rows: Path) -> None:
    run = replace_tensors(rows, "best", "model", fill(number))
    check_refused(run, r"model\.safetensors is damaged: the tensor '\S+' holds numbers that are not finite")


def test_finite_weights_of_any_type_pass() -> None:
    kinds = (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.float8_e4m3fn,
        torch.int64,
        torch.bool,
        torch.complex64,
    )
    assert find_nonfinite({str(kind): torch.zeros(3).to(kind) for kind in kinds} | {"none": torch.zeros(0)}) == ""
    assert find_nonfinite({"a": torch.zeros(2), "b": torch.tensor([0, float("nan")], dtype=torch.float16)}) == "b"
    assert find_nonfinite({"c": torch.tensor([complex(0, float("inf"))])}) == "c"


def start_run(run: Path) -> Path:
    """Give a sealed copy an epoch more, so that a resume goes on."""
    text = (run / "recipe.toml").read_text()
    assert "epochs = 1" in text
    (run / "recipe.toml").write_text(text.replace("epochs = 1", "epochs = 2", 1))
    info = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps({**info, "status": "training"}))
    seal_run(run)
    return run


def resume(run: Path) -> None:
    train(Request(model=str(run / "recipe.toml"), resume=True), quiet=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("model", fill(float("nan")), r"last/model\.safetensors is damaged: the tensor"),
        ("model", lambda t: t.pop(sorted(t)[0]), r"last/model\.safetensors.*1 key\(s\) differ"),
        (
            "state",
            lambda t: t.update({"random.cpu": torch.zeros(3).byte()}),
            r"last/state\.safetensors is damaged: training cannot",
        ),
        ("state", lambda t: t.pop("random.cpu"), r"last/state\.safetensors is damaged: .*random\.cpu"),
        (
            "state",
            lambda t: t.update({"window.weight": torch.zeros(3)}),
            r"last/state\.safetensors is damaged: .*window\.weight",
        ),
        ("state", lambda t: t.pop("window.weight"), r"last/state\.safetensors is damaged: .*window\.weight"),
        (
            "state",
            lambda t: t.update({"window.total": torch.zeros((), dtype=torch.complex64)}),
            r"'window\.total' holds complex numbers",
        ),
        (
            "state",
            lambda t: t.update({"rule.steps": torch.zeros((), dtype=torch.complex64)}),
            r"'rule\.steps' holds complex numbers",
        ),
        ("model", lambda t: t.update({n: v.to(torch.complex64) for n, v in t.items()}), r"last/model\.safetensors"),
        (
            "state",
            lambda t: t.pop("rule.steps"),
            r"last/state\.safetensors is damaged: .*'rule\.steps' is not what the rule saves",
        ),
        (
            "state",
            lambda t: t.update({"rule.steps": torch.tensor(float("nan"))}),
            r"last/state\.safetensors is damaged: .*'rule\.steps'",
        ),
    ],
)
def test_a_resume_refuses_tensors_that_are_not_its_own(part: str, change: Any, message: str, rows: Path) -> None:
    with pytest.raises(DamagedError, match=f"(?s){message}"):
        resume(start_run(replace_tensors(rows, "last", part, change)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(cursor=[7, 0, 0]), r"its cursor is in stage 7, and the recipe has 1 stage"),
        (lambda state: state.update(cursor=[-1, 0, 0]), r"\$\.cursor\[0\]"),
        (lambda state: state["best"].update(stage=3), r"its best is in stage 3"),
        (lambda state: state.pop("best_serial"), r"best_serial"),
        (lambda state: state["flags"].update(threads=10**9), r"\$\.flags\.threads"),
        (lambda state: state["flags"].update(workers=-1), r"\$\.flags\.workers"),
        (lambda state: state["flags"].update(precision="x"), r"\$\.flags\.precision"),
        (lambda state: state["flags"].pop("matmul"), r"matmul"),
        (lambda state: state.update(seconds="x"), r"\$\.seconds"),
        (lambda state: state["history"][0].update({"val/accuracy": "x"}), r"\$\.history\[0\]"),
        (lambda state: state["history"][0].update({"val/accuracy": 10**400}), r"out of range - at `\$\.history\[0\]"),
        (lambda state: state["history"][0].update(stage=1), r"\$\.history\[0\]\.stage"),
    ],
)
def test_a_resume_refuses_a_record_that_it_cannot_go_on_from(change: Any, message: str, rows: Path) -> None:
    run = make_strange_run(rows, "checkpoints/last/state.json", change)
    with pytest.raises(DamagedError, match=rf"(?s)last/state\.json is damaged: .*{message}"):
        resume(start_run(run))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model = {", r"not valid TOML"),
        (b"\xff\xfe", r"not valid TOML"),
        (b"a = " + b"[" * 100_000, r"nested too deep"),
        (b"stages = 5\n", r"stages"),
        (b"stages = [1]\n", r"stages"),
        (b"train = 5\n", r"\[train\]"),
        (b"format = 99\n", r"format 99"),
    ],
)
def test_a_recipe_that_is_none_is_one_error_that_names_it(content: bytes, message: str, rows: Path) -> None:
    target = Path(shutil.copytree(rows, Path("strange")))
    (target / "recipe.toml").write_bytes(content)
    seal_run(target)
    check_refused(target, rf"recipe\.toml.*{message}")


READ = ("run.json", "task.json", "recipe.toml", "checkpoints/best/state.json", "checkpoints/best/model.safetensors")


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", ["pipe", "link", "device"])
def test_a_pipe_or_link_in_a_files_place_is_never_read(kind: str, name: str, rows: Path) -> None:
    target = Path(shutil.copytree(rows, Path("strange")))
    content = (target / name).read_bytes()
    (target / name).unlink()
    if kind == "pipe":
        os.mkfifo(target / name)
    else:
        Path("elsewhere").write_bytes(content)
        (target / name).symlink_to("/dev/zero" if kind == "device" else Path("elsewhere").resolve())
    with pytest.raises((DamagedError, UsageError), match=r"not a regular file|not a run directory"):
        api.open(target).predictor()(ROW)


def test_doctor_and_predict_say_it_in_one_error_each(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_strange_run(rows, "run.json", set_argument("hidden", [10**9]))
    assert main(["predict", str(run), ROW]) == 2
    message = capsys.readouterr().err
    assert "run.json is damaged: model.arguments.hidden" in message
    assert "Traceback" not in message
    assert main(["doctor", str(run)]) == 0  # its checksums are right
