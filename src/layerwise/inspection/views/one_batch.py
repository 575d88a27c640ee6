"""The view ``one-batch``: whether a new network can overfit a single batch. If not, something is broken.

The network trains on the first batch of its run with its own rule and optimizer and a constant learning rate, without
dropout, augmentation, penalties, label smoothing and class weights. The test passes when the loss falls below a
hundredth of the loss of the best constant prediction, which a network without its inputs would reach.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.loader import BatchSampler
from layerwise.data.source import fetch
from layerwise.data.values import call
from layerwise.inspection.base import Json, Target, View, save
from layerwise.inspection.stage_trial import (
    StageTrial,
    build_model_and_rule,
    copy_parameters,
    create_trial,
    format_stage_note,
)
from layerwise.nn.modes import eval_mode
from layerwise.plotting.charts import render_axes
from layerwise.plotting.svg import MUTED, SERIES
from layerwise.recipe import Stage
from layerwise.rules.base import NonFiniteLoss, Rule
from layerwise.runtime import compute_settings, rng
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification

STEPS = 1000
LEARNED = 0.01  # of the best constant prediction's loss
IGNORES_INPUTS = 0.9  # of that loss; above it the outputs hardly depend on the inputs
STILL_FALLING = 0.8  # of the loss after three quarters of the steps; below it the loss is still falling
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
Translation = tuple[str, str]


class BatchTrial(NamedTuple):
    """The result of training on one batch.

    Attributes:
        losses: the mean loss before each step and after the last.
        constant: the loss of the best constant prediction.
        unchanged: the names of parameters that never changed.
        finite: whether every loss was finite.
        suspects: possible causes of a failure, the likeliest first.
    """

    losses: list[float]
    constant: float
    unchanged: list[str]
    finite: bool
    suspects: list[Translation]

    @property
    def learned(self) -> bool:
        """Whether the network overfits the batch."""
        return self.finite and self.losses[-1] <= compute_goal(self.constant, self.losses[0])


def compute_goal(constant: float, first: float) -> float:
    """Return the loss that counts as learned: a hundredth of the constant prediction's loss.

    If a constant fits the whole batch, returns a hundredth of the first loss.
    """
    return LEARNED * (constant if constant > LEARNED * first else first)


def view(target: Target, *, out: Path | None) -> View:
    """Return whether the network overfits one batch, the losses, and possible causes of a failure.

    ``target.examples`` is the batch size; 0 means the recipe's. Writes ``one-batch.svg`` and does not change the run.
    Raises `UsageError` without data, and for recipes without backpropagation.
    """
    trial = create_trial(target, "one-batch")
    stage, task = remove_regularization(trial)
    batch = get_first_batch(trial, task, target.examples)
    model, rule = build_model_and_rule(trial, stage, task)
    disable_dropout(model)
    seed = rng.derive_seed(trial.plan.recipe.train.seed, "stage", trial.stage_index, 0)
    with rng.use_seed(seed, trial.world.device):
        result = train_on_batch(model, rule, task, batch)
    data = {
        "model": target.spec.name,
        "stage": stage.name,
        "examples": len(batch),
        "steps": len(result.losses) - 1,
        "lr": stage.rule["lr"],
        "learned": result.learned,
        "loss": result.losses[-1] if result.finite else None,
        "first": result.losses[0],
        "constant": result.constant,
        "still": result.unchanged,
        "suspects": [pair[0] for pair in result.suspects],
        "losses": result.losses,
    }
    figures = save(out, "one-batch.svg", draw_figure(target, result))
    return View("one-batch", data, format_text(target, trial, data, result), figures)


def remove_regularization(trial: StageTrial) -> tuple[Stage, Task]:
    """Return the stage and task without penalties, schedule, averaging, augmentation, label smoothing and class
    weights."""
    disabled: Json = {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0, "l1_proximal": False}
    disabled |= {"ema_decay": 0.0, "schedule": "constant", "warmup": 0.0, "grad_accum_steps": 1}
    stage = msgspec.structs.replace(trial.stage, rule={**trial.stage.rule, **disabled}, augment={})
    task = trial.task
    if isinstance(task, Classification):
        task = dataclasses.replace(task, loss=dataclasses.replace(task.loss, smoothing=0.0, weights=()))
    return stage, task


def get_first_batch(trial: StageTrial, task: Task, count: int) -> Batch:
    """Return the first batch of the run, or its first ``count`` examples."""
    source, options = trial.plan.get_training_source(trial.stage), trial.plan.recipe.train
    order = BatchSampler(len(source), count or trial.stage.batch_size, options.seed, trial.stage_index)
    examples = fetch(source, next(order.iterate(0, 0)).numpy())._replace(weights=None)
    return task.collate(examples).to(trial.world.device, compute_settings.get_dtype(options.precision))


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout's probability to 0."""
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0


def train_on_batch(model: nn.Module, rule: Rule, task: Task, batch: Batch, *, steps: int = STEPS) -> BatchTrial:
    """Train on one batch until the network overfits it, for at most ``steps`` steps."""
    constant = compute_constant_loss(model, task, batch)
    before, losses, finite = copy_parameters(model), list[float](), True
    for _ in range(steps + 1):
        try:
            step_loss = rule.step(batch, 0.0)
        except NonFiniteLoss:
            finite = False
            break
        losses.append(float(step_loss.total) / step_loss.weight)
        finite = math.isfinite(losses[-1])
        if not finite or losses[-1] <= compute_goal(constant, losses[0]):
            break
    after = copy_parameters(model)
    unchanged = [name for name, value in before.items() if torch.equal(value, after[name])] if len(losses) > 1 else []
    losses = [loss for loss in losses if math.isfinite(loss)] or [math.inf]
    result = BatchTrial(losses, constant, unchanged, finite, [])
    return result if result.learned else result._replace(suspects=list_suspects(result, batch))


def compute_constant_loss(model: nn.Module, task: Task, batch: Batch) -> float:
    """Return the mean loss of the best constant prediction, found by L-BFGS over one row of outputs."""
    with eval_mode(model), torch.no_grad():
        shape = call(model, batch.inputs)[:1].shape
    row = torch.zeros(shape, dtype=torch.float64, device=batch.device, requires_grad=True)
    full_batch = Batch(batch.inputs, batch.targets, batch.ids)
    optimizer = torch.optim.LBFGS([row], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = task.losses(row.expand(len(batch), *shape[1:]), full_batch).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return float(loss().detach())


def list_suspects(result: BatchTrial, batch: Batch) -> list[Translation]:
    """Return possible causes of a failure, the likeliest first."""
    suspects: list[Translation] = []
    if not result.finite:
        suspects.append(
            (
                "the loss is not finite: the learning rate is far too high (--view learning-rate)",
                "损失不是有限值：学习率过高（--view learning-rate）",
            )
        )
    if result.unchanged:
        names = ", ".join(result.unchanged[:6]) + (" …" if len(result.unchanged) > 6 else "")
        suspects.append(
            (
                f"these weights never changed, no gradient reaches them: {names}",
                f"这些权重从未改变，因为得不到梯度：{names}",
            )
        )
    conflicts, all_same = count_conflicts(batch)
    if all_same:
        suspects.append(
            (
                "all inputs of the batch are the same: check the data and their preprocessing",
                "批次内所有输入完全相同：请检查数据及其预处理",
            )
        )
    elif conflicts:
        suspects.append(
            (
                f"{conflicts} examples have the inputs of another one but a different target: no network can fit both",
                f"{conflicts} 个样本与另一样本输入相同而目标不同：任何网络都无法区分",
            )
        )
    if result.finite and result.losses[-1] >= IGNORES_INPUTS * result.constant:
        suspects.append(
            (
                "the outputs hardly depend on the inputs: a detached layer, dead units (--view activations), "
                "or a rate far too small or large",
                "输出几乎不随输入变化：有层被断开、单元死亡（--view activations），或学习率过小、过大",
            )
        )
    elif result.finite and result.losses[-1] < STILL_FALLING * result.losses[len(result.losses) * 3 // 4]:
        suspects.append(
            (
                "the loss is still falling: a larger rate (--view learning-rate), or more steps",
                "损失仍在下降：可增大学习率（--view learning-rate）或增加步数",
            )
        )
    elif result.finite and not suspects:
        suspects.append(
            (
                "the network is too small for the batch, or the learning rate does not let it converge",
                "网络对这个批次来说太小，或学习率使它无法稳定",
            )
        )
    return suspects


def count_conflicts(batch: Batch) -> tuple[int, bool]:
    """Return how many examples have the inputs of an earlier example but a different target, and whether all inputs are
    the same."""
    rows = batch.input_tensor.flatten(1).cpu().numpy()
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if len(first) == 1 and len(rows) > 1:
        return 0, True
    if batch.targets is None:
        return 0, False
    targets = (
        batch.target_tensor.cpu().flatten(1) if batch.target_tensor.ndim > 1 else batch.target_tensor.cpu()[:, None]
    )
    return int((targets != targets[first[group.reshape(-1)]]).any(1).sum()), False


def draw_figure(target: Target, result: BatchTrial) -> str:
    """Draw the loss over the steps, the constant prediction's loss and the goal."""
    translate = target.translate

    def draw(axes: Any) -> None:
        axes.plot(
            range(len(result.losses)), result.losses, color=SERIES[0], label=translate("loss of the batch", "批次损失")
        )
        axes.axhline(
            result.constant, color=MUTED, linestyle=":", label=translate("best constant prediction", "最佳常数预测")
        )
        axes.axhline(
            compute_goal(result.constant, result.losses[0]),
            color=SERIES[2],
            linestyle="--",
            label=translate("learned", "已学会"),
        )
        axes.set_yscale("log")
        axes.set_xlabel(translate("step", "步"))
        axes.set_ylabel(translate("loss", "损失"))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return render_axes(draw, size=(7.4, 3.2))


def format_text(target: Target, trial: StageTrial, data: Json, result: BatchTrial) -> str:
    """Return the result as text."""
    translate = target.translate
    loss = f"{data['loss']:.3g}" if result.finite else translate("not finite", "不是有限值")
    lines = [
        translate(
            f"{data['model']}{format_stage_note(target, trial)}, new, on one batch of {data['examples']} examples, "
            f"at the constant rate {data['lr']:g}; without dropout, augmentation, penalties, label smoothing "
            "and class weights",
            f"{data['model']}{format_stage_note(target, trial)}：新网络学一个含 {data['examples']} 个样本的批次，"
            f"学习率恒为 {data['lr']:g}；"
            "不用 dropout、数据增强、惩罚项、标签平滑与类别权重",
        ),
        "",
        _format_verdict(data, loss, translate),
    ]
    if result.suspects:
        lines += [
            "",
            translate("possible causes:", "可能的原因："),
            *(f"- {translate(*pair)}" for pair in result.suspects),
        ]
    return "\n".join(lines)


def _format_verdict(data: Json, loss: str, translate: Callable[[str, str], str]) -> str:
    """Return a sentence that says whether the network learned the batch. ``loss`` is the last one, as text."""
    steps, first, constant = data["steps"], f"{data['first']:.3g}", f"{data['constant']:.3g}"
    if data["learned"]:
        return translate(
            f"learned: the loss went from {first} to {loss} in {steps} steps; "
            f"the best constant prediction has {constant}",
            f"学会了：{steps} 步后损失从 {first} 降到 {loss}；最佳常数预测的损失为 {constant}",
        )
    goal = f"{compute_goal(data['constant'], data['first']):.3g}"
    return translate(
        f"NOT learned: the loss went from {first} to {loss} in {steps} steps; the goal is {goal}, "
        f"and the best constant prediction has {constant}",
        f"没有学会：{steps} 步后损失从 {first} 变为 {loss}；目标为 {goal}，最佳常数预测的损失为 {constant}",
    )
