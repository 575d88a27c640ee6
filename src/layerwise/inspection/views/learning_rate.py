"""The view ``learning-rate``: a learning-rate range test.

L. N. Smith, Cyclical learning rates for training neural networks (2017). A new network trains while the rate rises
exponentially: too low a rate changes nothing, too high a rate diverges, and the loss falls fastest in between. Recipe,
rule, batches and random draws are those of the run; the network is discarded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from layerwise.data.source import Array
from layerwise.inspection.base import Json, Target, View, save
from layerwise.inspection.stage_trial import (
    StageTrial,
    build_model_and_rule,
    create_trial,
    format_stage_note,
    repeat_epochs,
)
from layerwise.planning.build import build_batches
from layerwise.plotting.charts import render_axes
from layerwise.plotting.svg import MUTED, SERIES
from layerwise.rules.base import NonFiniteLoss
from layerwise.rules.schedules import compute_lr_factor
from layerwise.runtime import rng

LOWEST_RATE, HIGHEST_RATE, STEPS = 1e-6, 10.0, 300
SMOOTHING = 0.12  # decades: standard deviation of the Gaussian that smooths the losses
MIN_FALL = 0.05  # of the first loss; a smaller fall counts as noise
DIVERGENCE = 4.0  # times the first loss, where the test stops


class RangeTest(NamedTuple):
    """A range test: rates, losses and smoothed losses, all (S,), and the rates that it suggests, or None."""

    rates: Array
    losses: Array
    smooth: Array
    suggested: float | None
    best: float | None
    diverges: float | None


def view(target: Target, *, out: Path | None) -> View:
    """Return the rates of the steepest fall and of the minimum of the smoothed loss, and the rate where it diverges.

    Writes ``learning-rate.svg`` and does not change the run. Raises `UsageError` without data, and for recipes without
    backpropagation.
    """
    trial = create_trial(target, "learning-rate")
    result = judge_range_test(*run_range_test(trial))
    options = trial.stage.rule
    data = {
        "model": target.spec.name,
        "stage": trial.stage.name,
        "optimizer": options["optimizer"],
        "batch": trial.stage.batch_size,
        "steps": len(result.rates),
        "suggested": result.suggested,
        "best": result.best,
        "diverges": result.diverges,
        "own": options["lr"],
        "schedule": options["schedule"],
        "rates": result.rates.tolist(),
        "losses": result.losses.tolist(),
        "smooth": result.smooth.tolist(),
    }
    figures = save(out, "learning-rate.svg", draw_figure(target, result, data))
    return View("learning-rate", data, format_text(target, trial, data), figures)


def run_range_test(trial: StageTrial) -> tuple[Array, Array, bool]:
    """Train a new network while the rate rises; return rates (S,), losses (S,), and whether a loss became infinite or
    NaN.

    Everything but the rate follows the recipe: optimizer, penalties, dropout, augmentation, batches and their order.
    """
    ratio = HIGHEST_RATE / LOWEST_RATE
    schedule = {"lr": LOWEST_RATE, "schedule": "exponential", "final_lr_ratio": ratio, "warmup": 0.0}
    stage = msgspec.structs.replace(trial.stage, rule={**trial.stage.rule, **schedule})
    rates, losses = list[float](), list[float]()
    device, seed = trial.world.device, trial.plan.recipe.train.seed
    _, rule = build_model_and_rule(trial, stage, trial.task)
    with rng.use_seed(rng.derive_seed(seed, "stage", trial.stage_index, 0), device):
        batches = build_batches(trial.plan, trial.stage_index, world=trial.world)
        for step, batch in zip(range(STEPS), repeat_epochs(batches), strict=False):
            progress = step / (STEPS - 1)
            try:
                step_loss = rule.step(batch, progress)
            except NonFiniteLoss:
                return np.array(rates), np.array(losses), True
            loss = float(step_loss.total) / step_loss.weight
            if not math.isfinite(loss):
                return np.array(rates), np.array(losses), True
            rates.append(LOWEST_RATE * compute_lr_factor("exponential", progress, final_lr_ratio=ratio))
            losses.append(loss)
            if np.mean(losses[-5:]) > DIVERGENCE * np.mean(losses[:20]):
                break
    return np.array(rates), np.array(losses), False


def smooth_losses(rates: Array, losses: Array) -> Array:
    """Smooth the losses with a Gaussian in log₁₀ of the rate; it is symmetric, so it does not shift slopes."""
    x = np.log10(rates)
    weights = np.exp(-(((x[:, None] - x[None, :]) / SMOOTHING) ** 2) / 2)
    smooth: Array = weights @ losses / weights.sum(1)
    return smooth


def judge_range_test(rates: Array, losses: Array, became_infinite: bool) -> RangeTest:
    """Find the suggested rates in the losses of a range test.

    The suggested rate has the steepest fall per decade before the minimum. The loss diverges where the smoothed loss
    exceeds its first value again, or at the last rate if it ``became_infinite``.
    """
    smooth = smooth_losses(rates, np.minimum(losses, DIVERGENCE * losses[:20].mean())) if len(rates) else losses
    last = float(rates[-1]) if len(rates) else LOWEST_RATE
    if len(rates) < 3:
        return RangeTest(rates, losses, smooth, None, None, last)
    low = int(smooth.argmin())
    above = np.flatnonzero(smooth[low:] > smooth[0])
    diverges = float(rates[low + above[0]]) if len(above) else last if became_infinite else None
    if low < 2 or smooth[low] > (1 - MIN_FALL) * smooth[0]:
        return RangeTest(rates, losses, smooth, None, None, diverges)
    slopes = np.gradient(smooth, np.log10(rates))[: low + 1]
    return RangeTest(rates, losses, smooth, float(rates[int(slopes.argmin())]), float(rates[low]), diverges)


def draw_figure(target: Target, result: RangeTest, data: Json) -> str:
    """Draw the losses over the rate, and mark the suggested rates and the recipe's rate."""
    translate = target.translate

    def draw(axes: Any) -> None:
        axes.plot(
            result.rates,
            result.losses,
            color=MUTED,
            linewidth=0.9,
            alpha=0.55,
            label=translate("loss of each batch", "各批次的损失"),
        )
        axes.plot(result.rates, result.smooth, color=SERIES[0], label=translate("smoothed", "平滑后"))
        marks = [
            (result.suggested, SERIES[2], "-", translate("steepest", "下降最陡")),
            (data["own"], SERIES[3], "--", translate("recipe", "配方")),
            (result.diverges, SERIES[1], ":", translate("diverges", "发散")),
        ]
        for rate, color, style, name in marks:
            if rate is not None:
                axes.axvline(rate, color=color, linestyle=style, linewidth=2, label=f"{name}: {rate:.2g}")
        axes.set_xscale("log")
        if len(result.smooth):
            first, low = float(result.smooth[0]), float(result.smooth.min())
            axes.set_ylim(
                max(0.0, low - 0.25 * (first - low) - 0.02 * first), first + 0.8 * (first - low) + 0.1 * first
            )
        axes.set_xlabel(translate("learning rate", "学习率"))
        axes.set_ylabel(translate("loss", "损失"))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return render_axes(draw, size=(7.4, 3.4))


def format_text(target: Target, trial: StageTrial, data: Json) -> str:
    """Return the result of the test as text."""
    translate, first = target.translate, data["smooth"][0] if data["smooth"] else math.nan
    lines = [
        translate(
            f"{data['model']}{format_stage_note(target, trial)}: {data['steps']} steps in batches of {data['batch']}, "
            f"the rate rising from {LOWEST_RATE:g} "
            f"towards {HIGHEST_RATE:g} ({data['optimizer']})",
            f"{data['model']}{format_stage_note(target, trial)}：{data['steps']} 步，批次 {data['batch']}，"
            f"学习率从 {LOWEST_RATE:g} 升向 {HIGHEST_RATE:g}（{data['optimizer']}）",
        ),
        "",
    ]
    if data["suggested"] is None:
        lines.append(
            translate(
                f"no rate is suggested: the loss hardly falls below its first value, {first:.4g}. Try --view one-batch",
                f"无法建议学习率：损失几乎没有低于初值 {first:.4g}。请试 --view one-batch",
            )
        )
    else:
        low = min(data["smooth"])
        rate = f"{data['suggested']:.2g}"
        lines.append(translate(f"steepest fall  {rate}   a rate to start from", f"下降最陡  {rate}   可由此开始"))
        lines.append(
            translate(
                f"lowest loss    {data['best']:.2g}   {low:.4g}, down from {first:.4g}",
                f"损失最低  {data['best']:.2g}   {low:.4g}，初值 {first:.4g}",
            )
        )
    diverges = data["diverges"]
    lines.append(
        translate(f"diverges       {diverges:.2g}", f"开始发散  {diverges:.2g}")
        if diverges is not None
        else translate(f"does not diverge up to {data['rates'][-1]:.2g}", f"直到 {data['rates'][-1]:.2g} 都不发散")
    )
    peak = (
        ""
        if data["schedule"] == "constant"
        else translate(f", the highest of {data['schedule']}", f"，{data['schedule']} 调度的最高值")
    )
    lines.append(translate(f"the recipe's   {data['own']:.2g}{peak}", f"配方所用  {data['own']:.2g}{peak}"))
    return "\n".join(lines)
