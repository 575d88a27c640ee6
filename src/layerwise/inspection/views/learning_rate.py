"""The view ``learning-rate``: a range test. The rate rises exponentially from step to step; the loss says where
learning begins and ends.

L. N. Smith, Cyclical learning rates for training neural networks (2017). The one idea: too small a rate changes
nothing, too large a one diverges; the steepest fall lies between. The network is fresh and is thrown away; recipe,
rule, batches and draws are the run's own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from layerwise.data.source import Array
from layerwise.inspection.base import Json, Target, View, save
from layerwise.inspection.stage_trial import Bench, bench, endless, made, remark
from layerwise.planning.build import batches_of
from layerwise.plotting.charts import drawn
from layerwise.plotting.svg import MUTED, SERIES
from layerwise.rules.base import NonFiniteLoss
from layerwise.rules.schedules import factor
from layerwise.runtime import rng

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 300
SMOOTH = 0.12  # decades: deviation of the Gaussian that the losses are smoothed with
FALL = 0.05  # of the first loss: a smaller fall is noise
BEYOND = 4.0  # times the first loss: where the test stops


class Test(NamedTuple):
    """A range test: rates (S,), losses (S,) and their smoothed form (S,); what it says, None where nothing can be
    said."""

    rates: Array
    losses: Array
    smooth: Array
    suggested: float | None
    best: float | None
    diverges: float | None


def view(target: Target, *, out: Path | None) -> View:
    """Return the suggested rate (steepest fall of the smoothed loss), the rate of its minimum and the one where it
    diverges.

    Writes ``learning-rate.svg``. Reads a run's recipe and data and writes nothing into it. Raises `UsageError` for a
    bare model without data and for recipes without backpropagation.
    """
    tried = bench(target, "learning-rate")
    found = judged(*range_test(tried))
    options = tried.stage.rule
    data = {
        "model": target.spec.name,
        "stage": tried.stage.name,
        "optimizer": options["optimizer"],
        "batch": tried.stage.batch,
        "steps": len(found.rates),
        "suggested": found.suggested,
        "best": found.best,
        "diverges": found.diverges,
        "own": options["lr"],
        "schedule": options["schedule"],
        "rates": found.rates.tolist(),
        "losses": found.losses.tolist(),
        "smooth": found.smooth.tolist(),
    }
    return View(
        "learning-rate", data, written(target, tried, data), save(out, "learning-rate.svg", figure(target, found, data))
    )


def range_test(tried: Bench) -> tuple[Array, Array, bool]:
    """Train a fresh network while the rate rises, and return rates and losses (S,), and whether a loss was not finite
    at the end.

    Everything but the rate is the recipe's: optimizer, penalties, dropout, augmentation, batches and their order.
    """
    rise = {"lr": LOWEST, "schedule": "exponential", "floor": HIGHEST / LOWEST, "warmup": 0.0}
    stage = msgspec.structs.replace(tried.stage, rule={**tried.stage.rule, **rise})
    rates, losses = list[float](), list[float]()
    device, seed = tried.world.device, tried.plan.recipe.train.seed
    _, rule = made(tried, stage, tried.task)
    with rng.seeded(rng.key(seed, "stage", tried.number, 0), device):
        for step, batch in zip(
            range(STEPS), endless(batches_of(tried.plan, tried.number, world=tried.world)), strict=False
        ):
            progress = step / (STEPS - 1)
            try:
                taken = rule.step(batch, progress)
            except NonFiniteLoss:
                return np.array(rates), np.array(losses), True
            loss = float(taken.total) / taken.weight
            if not math.isfinite(loss):
                return np.array(rates), np.array(losses), True
            rates.append(LOWEST * factor("exponential", progress, floor=HIGHEST / LOWEST))
            losses.append(loss)
            if np.mean(losses[-5:]) > BEYOND * np.mean(losses[:20]):
                break
    return np.array(rates), np.array(losses), False


def smoothed(rates: Array, losses: Array) -> Array:
    """Return the losses averaged by a Gaussian in the rate's logarithm: symmetric, so that no slope is moved to higher
    rates."""
    x = np.log10(rates)
    weights = np.exp(-(((x[:, None] - x[None, :]) / SMOOTH) ** 2) / 2)
    found: Array = weights @ losses / weights.sum(1)
    return found


def judged(rates: Array, losses: Array, broken: bool) -> Test:
    """Read a range test.

    The suggestion is the rate of the steepest fall per decade before the minimum; it diverges where the smoothed loss
    is above its first value again, or is no longer finite (``broken``).
    """
    smooth = smoothed(rates, np.minimum(losses, BEYOND * losses[:20].mean())) if len(rates) else losses
    last = float(rates[-1]) if len(rates) else LOWEST
    if len(rates) < 3:
        return Test(rates, losses, smooth, None, None, last)
    low = int(smooth.argmin())
    above = np.flatnonzero(smooth[low:] > smooth[0])
    diverges = float(rates[low + above[0]]) if len(above) else last if broken else None
    if low < 2 or smooth[low] > (1 - FALL) * smooth[0]:
        return Test(rates, losses, smooth, None, None, diverges)
    slopes = np.gradient(smooth, np.log10(rates))[: low + 1]
    return Test(rates, losses, smooth, float(rates[int(slopes.argmin())]), float(rates[low]), diverges)


def figure(target: Target, found: Test, data: Json) -> str:
    """Draw the losses over the rate, and mark what the test says and what the recipe has."""
    say = target.say

    def draw(axes: Any) -> None:
        axes.plot(
            found.rates,
            found.losses,
            color=MUTED,
            linewidth=0.9,
            alpha=0.55,
            label=say("loss of each batch", "各批次的损失"),
        )
        axes.plot(found.rates, found.smooth, color=SERIES[0], label=say("smoothed", "平滑后"))
        marks = [
            (found.suggested, SERIES[2], "-", say("steepest", "下降最陡")),
            (data["own"], SERIES[3], "--", say("recipe", "配方")),
            (found.diverges, SERIES[1], ":", say("diverges", "发散")),
        ]
        for rate, color, style, name in marks:
            if rate is not None:
                axes.axvline(rate, color=color, linestyle=style, linewidth=2, label=f"{name}: {rate:.2g}")
        axes.set_xscale("log")
        if len(found.smooth):
            first, low = float(found.smooth[0]), float(found.smooth.min())
            axes.set_ylim(
                max(0.0, low - 0.25 * (first - low) - 0.02 * first), first + 0.8 * (first - low) + 0.1 * first
            )
        axes.set_xlabel(say("learning rate", "学习率"))
        axes.set_ylabel(say("loss", "损失"))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return drawn(draw, size=(7.4, 3.4))


def written(target: Target, tried: Bench, data: Json) -> str:
    """Return what the test found, for people."""
    say, first = target.say, data["smooth"][0] if data["smooth"] else math.nan
    lines = [
        say(
            f"{data['model']}{remark(target, tried)}: {data['steps']} steps in batches of {data['batch']}, "
            f"the rate rising from {LOWEST:g} "
            f"towards {HIGHEST:g} ({data['optimizer']})",
            f"{data['model']}{remark(target, tried)}：{data['steps']} 步，批次 {data['batch']}，"
            f"学习率从 {LOWEST:g} 升向 {HIGHEST:g}（{data['optimizer']}）",
        ),
        "",
    ]
    if data["suggested"] is None:
        lines.append(
            say(
                f"no rate is suggested: the loss hardly falls below its first value, {first:.4g}. Try --what one-batch",
                f"无法建议学习率：损失几乎没有低于初值 {first:.4g}。请试 --what one-batch",
            )
        )
    else:
        low = min(data["smooth"])
        rate = f"{data['suggested']:.2g}"
        lines.append(say(f"steepest fall  {rate}   a rate to start from", f"下降最陡  {rate}   可由此开始"))
        lines.append(
            say(
                f"lowest loss    {data['best']:.2g}   {low:.4g}, down from {first:.4g}",
                f"损失最低  {data['best']:.2g}   {low:.4g}，初值 {first:.4g}",
            )
        )
    diverges = data["diverges"]
    lines.append(
        say(f"diverges       {diverges:.2g}", f"开始发散  {diverges:.2g}")
        if diverges is not None
        else say(f"does not diverge up to {data['rates'][-1]:.2g}", f"直到 {data['rates'][-1]:.2g} 都不发散")
    )
    peak = (
        ""
        if data["schedule"] == "constant"
        else say(f", the highest of {data['schedule']}", f"，{data['schedule']} 调度的最高值")
    )
    lines.append(say(f"the recipe's   {data['own']:.2g}{peak}", f"配方所用  {data['own']:.2g}{peak}"))
    return "\n".join(lines)
