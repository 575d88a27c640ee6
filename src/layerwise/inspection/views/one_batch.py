"""The view ``one-batch``: whether a fresh network can learn a single batch by heart. If not, something is broken, not
badly tuned.

The network learns the first batch of its run by its own rule and optimizer, at the recipe's rate held constant, without
what keeps it from
learning by heart: dropout, augmentation, penalties, label smoothing, class weights. It has passed when the loss is
under a hundredth of what the best constant answer to this batch leaves, for that is what a network gets that does not
look at its inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.loader import Batch, Order
from layerwise.data.source import fetch
from layerwise.inspection.base import Json, Target, View, save
from layerwise.inspection.stage_trial import Bench, bench, made, remark, state_of
from layerwise.nn.modes import in_evaluation
from layerwise.plotting.charts import drawn
from layerwise.plotting.svg import MUTED, SERIES
from layerwise.recipe import Stage
from layerwise.rules.base import NonFiniteLoss, Rule
from layerwise.runtime import compute_settings, rng
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification

STEPS = 1000
LEARNED = 0.01  # of the constant answer's loss
NOTHING = 0.9  # of it: a network above this has not looked at its inputs
FALLING = 0.8  # of the loss at three quarters: below this it is still on its way
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
Words = tuple[str, str]


class Trial(NamedTuple):
    """What happened: the mean loss before each step and at the end, the best constant answer's, parameters that never
    moved, suspects."""

    losses: list[float]
    constant: float
    still: list[str]
    finite: bool
    suspects: list[Words]

    @property
    def learned(self) -> bool:
        """Whether the batch was learned by heart."""
        return self.finite and self.losses[-1] <= goal(self.constant, self.losses[0])


def goal(constant: float, first: float) -> float:
    """Return the loss that counts as learned: of the constant answer's, or, where one answer fits the whole batch, of
    the first."""
    return LEARNED * (constant if constant > LEARNED * first else first)


def view(target: Target, *, out: Path | None) -> View:
    """Return the verdict, the losses and what to suspect. Writes ``one-batch.svg``; nothing of a run is touched.

    ``target.examples`` is the size of the batch, the recipe's if 0. Raises `UsageError` for a bare model without data
    and for recipes without backpropagation.
    """
    tried = bench(target, "one-batch")
    stage, task = plain(tried)
    batch = first_batch(tried, task, target.examples)
    model, rule = made(tried, stage, task)
    switch_off_dropout(model)
    with rng.seeded(rng.key(tried.plan.recipe.train.seed, "stage", tried.number, 0), tried.world.device):
        found = attempted(model, rule, task, batch)
    data = {
        "model": target.spec.name,
        "stage": stage.name,
        "examples": len(batch),
        "steps": len(found.losses) - 1,
        "lr": stage.rule["lr"],
        "learned": found.learned,
        "loss": found.losses[-1] if found.finite else None,
        "first": found.losses[0],
        "constant": found.constant,
        "still": found.still,
        "suspects": [pair[0] for pair in found.suspects],
        "losses": found.losses,
    }
    return View(
        "one-batch", data, written(target, tried, data, found), save(out, "one-batch.svg", figure(target, found))
    )


def plain(tried: Bench) -> tuple[Stage, Task]:
    """Return the stage and its task without penalties, schedule, averaging, augmentation, smoothing and class
    weights."""
    off: Json = {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0, "l1_proximal": False}
    off |= {"ema": 0.0, "schedule": "constant", "warmup": 0.0, "accumulate": 1}
    stage = msgspec.structs.replace(tried.stage, rule={**tried.stage.rule, **off}, augment={})
    task = tried.task
    if isinstance(task, Classification):
        task = dataclasses.replace(task, loss=dataclasses.replace(task.loss, smoothing=0.0, weights=()))
    return stage, task


def first_batch(tried: Bench, task: Task, count: int) -> Batch:
    """Return the first batch of the run, or the first ``count`` examples in its order."""
    source, options = tried.plan.training(tried.stage), tried.plan.recipe.train
    order = Order(len(source), count or tried.stage.batch, options.seed, tried.number)
    examples = fetch(source, next(order.epoch(0, 0)).numpy())._replace(weights=None)
    return task.collate(examples).to(tried.world.device, compute_settings.dtype(options.precision))


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout's probability to 0."""
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0


def attempted(model: nn.Module, rule: Rule, task: Task, batch: Batch, *, steps: int = STEPS) -> Trial:
    """Let a network learn a batch until it has, for ``steps`` at most."""
    constant = constant_loss(model, task, batch)
    before, losses, finite = state_of(model), list[float](), True
    for _ in range(steps + 1):
        try:
            taken = rule.step(batch, 0.0)
        except NonFiniteLoss:
            finite = False
            break
        losses.append(float(taken.total) / taken.weight)
        finite = math.isfinite(losses[-1])
        if not finite or losses[-1] <= goal(constant, losses[0]):
            break
    after = state_of(model)
    still = [name for name, value in before.items() if torch.equal(value, after[name])] if len(losses) > 1 else []
    losses = [loss for loss in losses if math.isfinite(loss)] or [math.inf]
    found = Trial(losses, constant, still, finite, [])
    return found if found.learned else found._replace(suspects=suspects(found, batch))


def constant_loss(model: nn.Module, task: Task, batch: Batch) -> float:
    """Return the mean loss of the best answer that is the same for every example, found by L-BFGS over one row of
    outputs."""
    with in_evaluation(model), torch.no_grad():
        shape = model(batch.inputs)[:1].shape
    row = torch.zeros(shape, dtype=torch.float64, device=batch.inputs.device, requires_grad=True)
    wide = Batch(batch.inputs, batch.targets, batch.ids)
    search = torch.optim.LBFGS([row], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = task.losses(row.expand(len(batch), *shape[1:]), wide).mean()
        value.backward()
        return value

    search.step(loss)
    return float(loss().detach())


def suspects(found: Trial, batch: Batch) -> list[Words]:
    """Return what to look at, the likeliest first."""
    out: list[Words] = []
    if not found.finite:
        out.append(
            (
                "the loss is not finite: the learning rate is far too high (--what learning-rate)",
                "损失不是有限值：学习率过高（--what learning-rate）",
            )
        )
    if found.still:
        names = ", ".join(found.still[:6]) + (" …" if len(found.still) > 6 else "")
        out.append(
            (
                f"these weights never moved, no gradient reaches them: {names}",
                f"这些权重从未改变，梯度到不了它们：{names}",
            )
        )
    clashes, same = repeated(batch)
    if same:
        out.append(
            (
                "all inputs of the batch are the same: look at the data and their preprocessing",
                "批次内所有输入完全相同：请检查数据及其预处理",
            )
        )
    elif clashes:
        out.append(
            (
                f"{clashes} examples have the inputs of another one and another target: no network tells them apart",
                f"{clashes} 个样本与另一样本输入相同而目标不同：任何网络都无法区分",
            )
        )
    if found.finite and found.losses[-1] >= NOTHING * found.constant:
        out.append(
            (
                "the answers hardly depend on the inputs: a detached layer, dead units (--what activations), "
                "or a rate far too small or large",
                "输出几乎不随输入变化：有层被断开、单元死亡（--what activations），或学习率过小、过大",
            )
        )
    elif found.finite and found.losses[-1] < FALLING * found.losses[len(found.losses) * 3 // 4]:
        out.append(
            (
                "the loss is still falling: a larger rate (--what learning-rate), or more steps",
                "损失仍在下降：可增大学习率（--what learning-rate）或增加步数",
            )
        )
    elif found.finite and not out:
        out.append(
            (
                "the network is too small for the batch, or the rate keeps it from settling",
                "网络对这个批次来说太小，或学习率使它无法稳定",
            )
        )
    return out


def repeated(batch: Batch) -> tuple[int, bool]:
    """Return how many examples share their inputs with an earlier one of another target, and whether all inputs are the
    same."""
    rows = batch.inputs.flatten(1).cpu().numpy()
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if len(first) == 1 and len(rows) > 1:
        return 0, True
    if batch.targets is None:
        return 0, False
    targets = batch.targets.flatten(1).cpu() if batch.targets.ndim > 1 else batch.targets.cpu()[:, None]
    return int((targets != targets[first[group.reshape(-1)]]).any(1).sum()), False


def figure(target: Target, found: Trial) -> str:
    """Draw the loss over the steps, with the constant answer's and the goal."""
    say = target.say

    def draw(axes: Any) -> None:
        axes.plot(range(len(found.losses)), found.losses, color=SERIES[0], label=say("loss of the batch", "批次损失"))
        axes.axhline(found.constant, color=MUTED, linestyle=":", label=say("best constant answer", "最佳常数答案"))
        axes.axhline(
            goal(found.constant, found.losses[0]),
            color=SERIES[2],
            linestyle="--",
            label=say("learned by heart", "已背下"),
        )
        axes.set_yscale("log")
        axes.set_xlabel(say("step", "步"))
        axes.set_ylabel(say("loss", "损失"))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return drawn(draw, size=(7.4, 3.2))


def written(target: Target, tried: Bench, data: Json, found: Trial) -> str:
    """Return the verdict for people."""
    say = target.say
    loss = f"{data['loss']:.3g}" if found.finite else say("not finite", "不是有限值")
    facts = (data["steps"], f"{data['first']:.3g}", loss, f"{data['constant']:.3g}")
    lines = [
        say(
            f"{data['model']}{remark(target, tried)}, fresh, on one batch of {data['examples']} examples, "
            f"at the constant rate {data['lr']:g}; without dropout, augmentation, penalties, label smoothing "
            "and class weights",
            f"{data['model']}{remark(target, tried)}：新网络学一个含 {data['examples']} 个样本的批次，"
            f"学习率恒为 {data['lr']:g}；"
            "不用 dropout、数据增强、惩罚项、标签平滑与类别权重",
        ),
        "",
        verdict(data, facts, say),
    ]
    if found.suspects:
        lines += ["", say("what to suspect:", "可疑之处："), *(f"- {say(*pair)}" for pair in found.suspects)]
    return "\n".join(lines)


def verdict(data: Mapping[str, Any], facts: tuple[Any, ...], say: Callable[[str, str], str]) -> str:
    """Return the sentence that says whether the batch was learned."""
    steps, first, loss, constant = facts
    if data["learned"]:
        return say(
            f"learned: after {steps} steps the loss is {loss}, from {first}; the best constant answer leaves "
            f"{constant}",
            f"学会了：{steps} 步后损失为 {loss}，初值 {first}；最佳常数答案的损失为 {constant}",
        )
    return say(
        f"NOT learned: after {steps} steps the loss is {loss}, from {first}; the best constant answer leaves "
        f"{constant}, "
        "a hundredth of it was wanted",
        f"没有学会：{steps} 步后损失为 {loss}，初值 {first}；最佳常数答案的损失为 {constant}，要求降到其百分之一",
    )
