"""Transfer learning: the head alone, then everything with smaller rates below; what is held still does not change by
one bit."""

from __future__ import annotations

import copy
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerwise import api
from layerwise.data.batch import Batch
from layerwise.data.values import call
from layerwise.errors import Interrupted, UsageError
from layerwise.planning.build import build_model
from layerwise.planning.resolve import Request, make_plan
from layerwise.rules.backprop import Backprop, BackpropOptions
from layerwise.rules.base import Context
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Loss
from layerwise.training import session
from layerwise.training.loop import run_steps

SHAPE: dict[str, Any] = {"channels": 1, "size": [8, 8], "width": 4, "blocks": 1}
OPTIONS: dict[str, Any] = {
    "model.width": 4,
    "model.blocks": 1,
    "task.size": 8,
    "train.threads": 1,
    "train.log_every": 2,
    "train.checkpoint_seconds": 1e-9,
    "stages.head.examples": 200,
    "stages.all.examples": 200,
    "stages.all.rule.ema_decay": 0.9,
    "stages.all.rule.clip_grad": 1.0,
}
HEAD = {"linear.weight", "linear.bias"}


def donor() -> dict[str, Tensor]:
    """Return the tensors of a network for seven classes, its statistics of its own, and save them as ``w.pth``."""
    torch.manual_seed(0)
    model = api.build("resnet20", outputs=7, **SHAPE)
    with torch.no_grad():
        model(torch.randn(64, 1, 8, 8))
    torch.save(model.state_dict(), "w.pth")
    return model.state_dict()


def fit(out: str, *, epochs: tuple[int, int] = (1, 1), **more: Any) -> api.Run:
    """Transfer the donor's weights to the digits."""
    options = {**OPTIONS, "stages.head.epochs": epochs[0], "stages.all.epochs": epochs[1], **more}
    return api.train("resnet20", data="digits", weights="w.pth", transfer=True, batch_size=32, out=out, options=options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the donor's file and the whole of a transfer."""
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        donor()
        fit("whole")
    return folder


def best(folder: Path, which: str = "best") -> dict[str, Tensor]:
    """Return a checkpoint's tensors."""
    found = api.RunDirectory.open(folder).restore(which)
    assert found is not None
    return found.model


def test_the_first_stage_changes_the_head_and_not_one_bit_below_it() -> None:
    """Weights, and batch norm's statistics too: below the head everything is what it will be in evaluation."""
    given = donor()
    run = fit("run", epochs=(2, 0), **{"stages.head.monitor": "last"})
    kept, fresh = (
        best(run.path),
        build_model(make_plan(Request(model=str(run.path / "recipe.toml"))), torch.device("cpu")).state_dict(),
    )
    for name, tensor in kept.items():
        if name in HEAD:
            assert not torch.equal(tensor, fresh[name]), name
        else:
            assert torch.equal(tensor, given[name]), name


def test_the_second_stage_changes_everything(place: Path) -> None:
    first = torch.load(place / "w.pth", weights_only=True)
    last = best(place / "whole", "last")
    assert [
        name for name, tensor in last.items() if tensor.shape == first[name].shape and torch.equal(tensor, first[name])
    ] == []


def test_the_recipe_says_it_all_and_repeats_it(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(place)
    whole = api.open("whole")
    head, rest = whole.recipe.stages
    assert (head.name, set(head.parameters), rest.name, rest.parameters) == ("head", HEAD, "all", ("*",))
    assert (rest.rule["lr"], rest.rule["first_layer_lr_ratio"]) == (pytest.approx(head.rule["lr"] / 10), 0.1)
    again = api.train("whole/recipe.toml", out=tmp_path / "again")
    assert all(
        torch.equal(tensor, best(again.path, "last")[name]) for name, tensor in best(place / "whole", "last").items()
    )
    assert again.metrics == whole.metrics


@pytest.mark.parametrize(("stage", "after"), [(0, 3), (0, 7), (1, 2)])
def test_a_resume_on_either_side_of_the_boundary_is_exact(
    stage: int, after: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven batches a stage: after the third and the last of the head's, the second of all's."""
    monkeypatch.chdir(place)
    out = tmp_path / "cut"
    taken = 0

    def cut(rule: Any, *args: Any) -> Any:
        nonlocal taken
        for event in run_steps(rule, *args):
            taken += event.cursor.stage == stage
            if taken == after:
                taken += 1
                signal.raise_signal(signal.SIGINT)
            yield event

    with monkeypatch.context() as patch:
        patch.setattr(session, "run_steps", cut)
        with pytest.raises(Interrupted):
            api.train("whole/recipe.toml", out=out)
    api.train(str(out / "recipe.toml"), resume=True)
    for which in ("last", "best"):
        assert all(torch.equal(tensor, best(out, which)[name]) for name, tensor in best(place / "whole", which).items())
    assert api.open(out).metrics == api.open(place / "whole").metrics


def test_resuming_does_not_ask_for_the_weights_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no w.pth here
    assert api.train(str(place / "whole" / "recipe.toml"), resume=True).metrics == api.open(place / "whole").metrics


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"model": "mlp", "data": "iris", "transfer": True}, "--transfer begins with other weights"),
        ({"model": "rbm", "data": "digits", "transfer": True, "weights": "w"}, "trains by backpropagation"),
        ({"model": "rbm", "data": "digits", "settings": ("parameters=['@head']",)}, "this network has no head"),
    ],
)
def test_what_cannot_be_transferred_says_why(request_: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make_plan(Request(**request_))


def test_epochs_are_shared_out_and_settings_name_the_stages() -> None:
    donor()
    keys: dict[str, Any] = {"model": "resnet20", "data": "digits", "weights": "w.pth", "transfer": True}
    plain = make_plan(Request(model="resnet20", data="digits")).recipe.stages[0]
    made = make_plan(Request(**keys)).recipe.stages
    assert sum(stage.epochs for stage in made) == plain.epochs
    assert made[0].epochs == round(plain.epochs / 4)
    assert made[0].rule["lr"] == plain.rule["lr"]
    made = make_plan(
        Request(**keys, epochs=3, lr=0.5, settings=("stages.all.rule.first_layer_lr_ratio=1",))
    ).recipe.stages
    assert [(s.epochs, s.rule["lr"], s.rule["first_layer_lr_ratio"]) for s in made] == [(3, 0.5, 1.0), (3, 0.05, 1.0)]


# -- rates by depth
# ------------------------------------------------------------------------------------------------------


class Squares:
    """Half the squared error, summed."""

    name = "squares"

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        assert batch.targets is not None
        total = (call(model, batch.inputs) - batch.targets).pow(2).sum() / 2
        return Loss(total, float(len(batch)), {"squares": total})


def layers() -> nn.Sequential:
    """Return a network of four layers with parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)
    ).double()


def batches(count: int) -> list[Batch]:
    """Return random batches of six."""
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(count, 6, n, generator=draw, dtype=torch.float64) for n in (4, 3))
    return [Batch(a, b, torch.arange(6)) for a, b in zip(x, y, strict=True)]


def by_hand(model: nn.Sequential, method: str, rates: Sequence[float]) -> torch.optim.Optimizer:
    """Return torch's optimizer with a group for each layer."""
    groups = [
        {"params": list(model[at].parameters()), "lr": rate} for at, rate in zip((0, 2, 3, 5), rates, strict=True)
    ]
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "sgd": (torch.optim.SGD, {}),
        "momentum": (torch.optim.SGD, {"momentum": 0.9}),
        "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        "adagrad": (torch.optim.Adagrad, {"eps": 1e-8}),
        "rmsprop": (torch.optim.RMSprop, {}),
        "adam": (torch.optim.Adam, {}),
        "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    }
    kind, options = kinds[method]
    made: torch.optim.Optimizer = kind(groups, **options)
    return made


@pytest.mark.parametrize("method", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"])
def test_tapered_rates_equal_a_loop_by_hand_with_groups(method: str) -> None:
    """Layer d of D = 4 learns at lr · 0.125^((3 − d)/3): an eighth, a quarter, a half, all; with schedule, L2,
    clipping, averages."""
    model, given = layers(), batches(6)
    mirror = copy.deepcopy(model)
    options = BackpropOptions(
        optimizer=method,
        lr=0.05,
        first_layer_lr_ratio=0.125,
        schedule="step",
        milestones=(0.5,),
        gamma=0.1,
        l2=0.01,
        clip_grad=0.5,
        ema_decay=0.5,  # type: ignore[arg-type]
        weight_decay=0.1 if method == "adamw" else 0.0,
    )
    rule = Backprop(Context(model, Squares(), dict(model.named_parameters()), World(), 0, "fp64", 6, 36), options)  # type: ignore[arg-type]
    optimizer = by_hand(mirror, method, [0.05 / 8, 0.05 / 4, 0.05 / 2, 0.05])
    average = [p.detach().clone() for p in mirror.parameters()]
    for step, batch in enumerate(given):
        rule.step(batch, step / 6)
        if step == 3:
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
        optimizer.zero_grad()
        loss = (mirror(batch.inputs) - batch.targets).pow(2).sum() / 2 / 6
        (loss + sum(0.01 * mirror[at].weight.pow(2).sum() for at in (0, 2, 5))).backward()  # type: ignore[operator]
        nn.utils.clip_grad_norm_(mirror.parameters(), 0.5)
        optimizer.step()
        decay = min(0.5, (2 + step) / (11 + step))
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, mirror.parameters(), strict=True)]
    for ours, theirs in zip(model.parameters(), mirror.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(rule.average, average, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_rate_of_a_layer_does_not_depend_on_what_else_is_trained() -> None:
    model = layers()
    chosen = {name: p for name, p in model.named_parameters() if name.startswith(("2.", "5."))}
    rule = Backprop(
        Context(model, Squares(), chosen, World(), 0, "fp64", 6, 36),
        BackpropOptions(lr=0.8, first_layer_lr_ratio=0.125),
    )  # type: ignore[arg-type]
    rates = {id(p): group["lr"] for group in rule.optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in chosen.values()] == pytest.approx([0.2, 0.2, 0.8, 0.8])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tapered_state_taken_up_goes_on_exactly(precision: str) -> None:
    model = layers().float()
    given = [Batch(b.inputs.float(), b.targets.float(), b.ids) for b in batches(6)]  # type: ignore[union-attr]
    options = BackpropOptions(optimizer="adam", lr=0.01, first_layer_lr_ratio=0.1, ema_decay=0.9)

    def rule_of(net: nn.Module) -> Backprop:
        return Backprop(Context(net, Squares(), dict(net.named_parameters()), World(), 0, precision, 6, 36), options)  # type: ignore[arg-type]

    made = rule_of(model)
    for batch in given[:3]:
        made.step(batch, 0.0)
    other_model = copy.deepcopy(model)
    other = rule_of(other_model)
    other.load_state_dict({name: tensor.clone() for name, tensor in made.state_dict().items()})
    for batch in given[3:]:
        made.step(batch, 0.0)
        other.step(batch, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other_model.parameters(), strict=True))


def test_proximal_zeros_are_measured_by_each_layers_own_rate() -> None:
    """Equal to soft-thresholding a plain step by hand, with the layer's rate."""
    model, batch = layers(), batches(1)[0]
    mirror = copy.deepcopy(model)
    options = BackpropOptions(optimizer="sgd", lr=0.2, first_layer_lr_ratio=0.125, l1=0.3, l1_proximal=True)
    Backprop(Context(model, Squares(), dict(model.named_parameters()), World(), 0, "fp64", 6, 36), options).step(
        batch, 0.0
    )  # type: ignore[arg-type]
    gradients = torch.autograd.grad(
        (mirror(batch.inputs) - batch.targets).pow(2).sum() / 2 / 6, list(mirror.parameters())
    )
    for (name, ours), theirs, gradient in zip(model.named_parameters(), mirror.parameters(), gradients, strict=True):
        rate = 0.2 * 0.125 ** ((3 - ["0", "2", "3", "5"].index(name.split(".")[0])) / 3)
        moved = theirs.detach() - rate * gradient
        wanted = moved.sign() * (moved.abs() - rate * 0.3).clamp_min(0) if theirs.ndim > 1 else moved
        torch.testing.assert_close(ours.detach(), wanted, rtol=1e-10, atol=1e-13)
