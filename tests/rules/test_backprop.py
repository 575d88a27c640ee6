"""E11, E12, E08: gradients against finite differences, optimizers against their formulas in NumPy, penalties against
autograd."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rule_fixtures import Squares, batches, context, net
from torch import Tensor, nn

from layerwise import api
from layerwise.data.batch import Batch
from layerwise.rules.backprop import Backprop, BackpropOptions

Floats = NDArray[np.float64]
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")


def rule(model: nn.Module, size: int, **options: Any) -> Backprop:
    """Return the rule over a model."""
    return Backprop(context(model, batch_size=size), BackpropOptions(**options))


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean loss of a batch."""
    loss = Squares().objective(model, batch)
    return loss.total / loss.weight


def numeric(model: nn.Module, batch: Batch) -> list[Floats]:
    """Return ∂(mean loss)/∂w of every weight by central differences."""
    out = []
    with torch.no_grad():
        for p in model.parameters():
            flat, gradient = p.view(-1), np.zeros(p.numel())
            for i in range(p.numel()):
                original, h = float(flat[i]), 1e-6
                values = []
                for sign in (1, -1):
                    flat[i] = original + sign * h
                    values.append(float(mean_loss(model, batch)))
                flat[i] = original
                gradient[i] = (values[0] - values[1]) / (2 * h)
            out.append(gradient.reshape(p.shape))
    return out


@pytest.mark.parametrize(("size", "nominal", "grad_accum_steps"), [(6, 6, 1), (6, 8, 1), (7, 7, 3)])
def test_gradients_equal_finite_differences(size: int, nominal: int, grad_accum_steps: int) -> None:
    """With whole batches, with a last batch smaller than the others, and in unequal pieces. lr = 0 leaves them to be
    read."""
    model, batch = net(norm=True), batches(1, size)[0]
    wanted = numeric(model, batch)
    backprop = rule(model, nominal, optimizer="sgd", lr=0.0, grad_accum_steps=grad_accum_steps)
    step = backprop.step(batch, 0.0)
    for p, numbers in zip(model.parameters(), wanted, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), numbers, atol=1e-6, rtol=0)
    assert float(step.total) / step.weight == pytest.approx(float(mean_loss(model, batch).detach()), rel=1e-12)


def formula(name: str, w: Floats, g: Floats, slot: dict[str, Any], *, decay: float) -> Floats:
    """One step of each optimizer as in its paper, in NumPy: lr 0.1, momentum 0.8, betas (0.7, 0.9), alpha 0.95, eps
    1e-3."""
    lr, mu, (b1, b2), alpha, eps = 0.1, 0.8, (0.7, 0.9), 0.95, 1e-3
    t = slot["t"] = slot.get("t", 0) + 1
    if name == "adamw":
        w = w - lr * decay * w
    else:
        g = g + decay * w
    if name == "sgd":
        return w - lr * g
    if name in ("momentum", "nesterov"):
        slot["v"] = mu * slot.get("v", 0) + g
        return w - lr * (g + mu * slot["v"] if name == "nesterov" else slot["v"])
    if name == "adagrad":
        slot["s"] = slot.get("s", 0) + g**2
        return w - lr * g / (np.sqrt(slot["s"]) + eps)
    if name == "rmsprop":
        slot["s"] = alpha * slot.get("s", 0) + (1 - alpha) * g**2
        return w - lr * g / (np.sqrt(slot["s"]) + eps)
    slot["m"] = b1 * slot.get("m", 0) + (1 - b1) * g
    slot["s"] = b2 * slot.get("s", 0) + (1 - b2) * g**2
    return w - lr * (slot["m"] / (1 - b1**t)) / (np.sqrt(slot["s"] / (1 - b2**t)) + eps)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_equals_its_formula(name: str, decay: float) -> None:
    """Five steps; the gradients of the reference come from autograd on a copy that takes NumPy's weights."""
    model = net()
    mirror = copy.deepcopy(model)
    backprop = rule(
        model, 6, optimizer=name, lr=0.1, momentum=0.8, betas=(0.7, 0.9), alpha=0.95, eps=1e-3, weight_decay=decay
    )
    slots: list[dict[str, Any]] = [{} for _ in mirror.parameters()]
    for batch in batches(5, 6):
        backprop.step(batch, 0.0)
        gradients = torch.autograd.grad(mean_loss(mirror, batch), list(mirror.parameters()))
        with torch.no_grad():
            for p, g, slot in zip(mirror.parameters(), gradients, slots, strict=True):
                p.copy_(torch.from_numpy(formula(name, p.numpy().copy(), g.numpy(), slot, decay=decay)))
    for actual, expected in zip(model.parameters(), mirror.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("l2", "l1"), [(0.03, 0.0), (0.0, 0.02), (0.03, 0.02)])
@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_penalties_equal_autograd_of_the_penalized_loss(l2: float, l1: float, grad_accum_steps: int) -> None:
    """λ₂Σw² + λ₁Σ|w| over weights only: neither biases nor anything of a normalization layer."""
    model, batch = net(norm=True), batches(1, 6)[0]
    covered = [model[0].weight, model[3].weight]
    loss = mean_loss(model, batch) + sum(l2 * w.pow(2).sum() + l1 * w.abs().sum() for w in covered)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    plain = torch.autograd.grad(mean_loss(model, batch), list(model.parameters()))
    backprop = rule(model, 6, optimizer="sgd", lr=0.0, l2=l2, l1=l1, grad_accum_steps=grad_accum_steps)
    step = backprop.step(batch, 0.0)
    for p, g, without in zip(model.parameters(), wanted, plain, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, g, rtol=0, atol=1e-12)
        if p.ndim > 1:  # 2λw + λ sign(w), by hand
            torch.testing.assert_close(p.grad - without, 2 * l2 * p + l1 * p.sign(), rtol=0, atol=1e-12)
        else:
            torch.testing.assert_close(p.grad, without, rtol=0, atol=1e-14)
    terms = {n: float(t) / step.weight for n, t in step.parts.items() if n != "squares"}
    assert terms == pytest.approx(
        {
            n: v
            for n, v in (
                ("l2", l2 * sum(float(w.detach().pow(2).sum()) for w in covered)),
                ("l1", l1 * sum(float(w.detach().abs().sum()) for w in covered)),
            )
            if v
        }
    )


@pytest.mark.parametrize("options", [{"l2": 0.1}, {"l1": 0.1}, {"l1": 0.1, "l1_proximal": True}])
def test_where_biases_alone_are_trained_nothing_is_penalized(options: dict[str, Any]) -> None:
    """The same steps as without a penalty, and no term of it in the loss."""
    ends = []
    for given in (options, {}):
        model = net(norm=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or name.startswith("1."))
        learning = rule(model, 8, **given)
        steps = [learning.step(batch, 0.0) for batch in batches(3, 8)]
        assert all(step.parts.keys() == {"squares"} for step in steps)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_proximal_l1_gives_exact_zeros() -> None:
    """Equal to soft-thresholding a plain step by hand; the subgradient gives none."""
    model = net()
    mirror, plain = copy.deepcopy(model), copy.deepcopy(model)
    backprop = rule(model, 6, optimizer="sgd", lr=0.1, l1=0.4, l1_proximal=True)
    other = rule(plain, 6, optimizer="sgd", lr=0.1, l1=0.4)
    for batch in batches(12, 6):
        backprop.step(batch, 0.0)
        other.step(batch, 0.0)
        gradients = torch.autograd.grad(mean_loss(mirror, batch), list(mirror.parameters()))
        with torch.no_grad():
            for p, g in zip(mirror.parameters(), gradients, strict=True):
                w = (p - 0.1 * g).numpy()
                p.copy_(torch.from_numpy(np.sign(w) * np.maximum(np.abs(w) - 0.1 * 0.4, 0) if w.ndim > 1 else w))
    zeros = sum(int((w == 0).sum()) for w in (model[0].weight, model[2].weight))
    assert zeros >= 5
    assert sum(int((w == 0).sum()) for w in (plain[0].weight, plain[2].weight)) == 0
    for actual, expected in zip(model.parameters(), mirror.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def lasso(x: Floats, y: Floats, lam: float) -> Floats:
    """Return argmin ½·mean‖Wx − y‖² + λΣ|w| by plain proximal gradient descent (ISTA) in NumPy."""
    w, step = np.zeros((y.shape[1], x.shape[1])), 1 / np.linalg.eigvalsh(x.T @ x / len(x)).max()
    for _ in range(3000):
        w = w - step * (x @ w.T - y).T @ x / len(x)
        w = np.sign(w) * np.maximum(np.abs(w) - step * lam, 0)
    return w


@pytest.mark.parametrize(
    ("method", "lr"),
    [
        ("sgd", 0.1),
        ("momentum", 0.02),
        ("nesterov", 0.02),
        ("adagrad", 0.3),
        ("rmsprop", 0.02),
        ("adam", 0.05),
        ("adamw", 0.05),
    ],
)
def test_proximal_l1_finds_the_lasso_with_every_optimizer(method: str, lr: float) -> None:
    """λ means the same whatever the method: the zeros are those of the lasso, and so are the other weights."""
    torch.manual_seed(3)
    batch = batches(1, 40)[0]
    model = nn.Linear(4, 3, bias=False).double()
    assert batch.targets is not None
    wanted = lasso(batch.inputs.numpy(), batch.targets.numpy(), 0.12)
    assert 3 <= (wanted == 0).sum() <= 9
    backprop = rule(model, 40, optimizer=method, lr=lr, schedule="cosine", l1=0.12, l1_proximal=True)
    for step in range(800):
        backprop.step(batch, step / 800)
    weight = model.weight.detach().numpy()
    assert ((weight == 0) == (wanted == 0)).all()
    np.testing.assert_allclose(weight, wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize("largest", [0.05, 1e6])
def test_clipping_bounds_the_norm_of_all_gradients(largest: float) -> None:
    model, batch = net(), batches(1, 6)[0]
    wanted = torch.autograd.grad(mean_loss(model, batch), list(model.parameters()))
    norm = float(torch.cat([g.reshape(-1) for g in wanted]).norm())
    assert 0.05 < norm < 1e6
    rule(model, 6, optimizer="sgd", lr=0.0, clip_grad=largest).step(batch, 0.0)
    for p, g in zip(model.parameters(), wanted, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, g * min(1.0, largest / norm), rtol=1e-4, atol=1e-9)


def test_averaged_weights_are_evaluated_and_the_raw_ones_come_back() -> None:
    """ā ← d·ā + (1 − d)·w with d = min(decay, (1 + t)/(10 + t)), by hand."""
    model = net()
    backprop = rule(model, 6, optimizer="sgd", lr=0.1, ema_decay=0.25)
    average = [p.detach().numpy().copy() for p in model.parameters()]
    for t, batch in enumerate(batches(6, 6), start=1):
        backprop.step(batch, 0.0)
        d = min(0.25, (1 + t) / (10 + t))
        average = [d * a + (1 - d) * p.detach().numpy() for a, p in zip(average, model.parameters(), strict=True)]
    raw = [p.detach().clone() for p in model.parameters()]
    with backprop.evaluation_weights():
        for p, a in zip(model.parameters(), average, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), a, rtol=1e-12)
    assert all(torch.equal(p, r) for p, r in zip(model.parameters(), raw, strict=True))


def test_schedule_moves_the_rate_of_each_step() -> None:
    """SGD with cosine: each step's change is η·f(p) times the gradient."""
    model = net()
    backprop = rule(model, 6, optimizer="sgd", lr=0.2, schedule="cosine", final_lr_ratio=0.1)
    for batch, progress in zip(batches(3, 6), (0.0, 0.5, 0.99), strict=True):
        before = [p.detach().clone() for p in model.parameters()]
        gradients = torch.autograd.grad(mean_loss(model, batch), list(model.parameters()))
        backprop.step(batch, progress)
        rate = 0.2 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2)
        for p, b, g in zip(model.parameters(), before, gradients, strict=True):
            torch.testing.assert_close(p.detach(), b - rate * g, rtol=0, atol=1e-12)


@pytest.mark.parametrize("precision", ["fp64", "bf16", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_taken_up_goes_on_exactly(name: str, precision: str) -> None:
    """Three steps, state to another rule over a copy, three more: the same bits, and for fp16 the same loss scale."""
    dtype = torch.float64 if precision == "fp64" else torch.float32
    model, given = net(dtype), batches(6, 6, dtype)
    options = BackpropOptions(optimizer=name, lr=0.01, ema_decay=0.9)  # type: ignore[arg-type]
    backprop = Backprop(context(model, batch_size=6, precision=precision), options)
    for batch in given[:3]:
        backprop.step(batch, 0.0)
    model_copy = copy.deepcopy(model)
    other = Backprop(context(model_copy, batch_size=6, precision=precision), options)
    state = {n: t.clone() for n, t in backprop.state_dict().items()}
    other.load_state_dict(state)
    for batch in given[3:]:
        backprop.step(batch, 0.0)
        other.step(batch, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), model_copy.parameters(), strict=True))
    state_a, state_b = backprop.state_dict(), other.state_dict()
    assert state_a.keys() == state_b.keys()
    assert all(torch.equal(state_a[n], state_b[n]) for n in state_a)
    if precision == "fp16":
        assert float(state["scaler._growth_tracker"]) == 3  # three steps without an overflow
        assert (float(state["scaler.scale"]), float(state_a["scaler.scale"])) == (65536, 32768)  # the last overflowed


def test_fp16_penalties_are_unscaled_with_the_gradients() -> None:
    """With a loss scale of 65536 the step is the plain one's to fp16's precision, penalties and clipping included."""
    by_precision = {}
    for precision in ("fp32", "fp16"):
        model = net(torch.float32)
        backprop = Backprop(
            context(model, batch_size=6, precision=precision),
            BackpropOptions(optimizer="sgd", lr=0.5, l2=0.05, l1=0.02, clip_grad=1.0),
        )
        backprop.step(batches(1, 6, torch.float32)[0], 0.0)
        by_precision[precision] = [p.detach().clone() for p in model.parameters()]
    for a, b in zip(by_precision["fp32"], by_precision["fp16"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(precision: str, tmp_path: Path) -> None:
    options = {"train.threads": 1, "model.hidden": [32]}
    run = api.train("mlp", data="iris", out=tmp_path / "run", epochs=30, lr=0.01, precision=precision, options=options)
    assert run.metrics["test/accuracy"] > 0.85
    assert all(t.dtype == torch.float32 for t in run.model().state_dict().values())
