"""The view ``samples``: samples from the top layer of a Boltzmann machine, and the filters of its lowest layer."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from layerwise.errors import UsageError
from layerwise.inspection.base import Target, View, format_table, make_missing_run_error, save
from layerwise.models.boltzmann import list_rbms, sample
from layerwise.nn.rbm import RBM
from layerwise.plotting.images import Floats, draw_image_sheet, split_into_rows
from layerwise.runtime import rng
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs

COUNT, COLUMNS = 30, 10
STEPS = 500  # of Gibbs sampling, enough to forget the random start


def view(target: Target, *, out: Path | None) -> View:
    """Return samples and their statistics. Writes ``samples.svg`` and ``filters.svg`` for images.

    Raises `UsageError` without a run, and for a network without Boltzmann machines.
    """
    if target.model is None or target.task is None:
        raise make_missing_run_error("samples", target.spec)
    if not list_rbms(target.model):
        raise UsageError(
            f"{target.spec.name} draws no samples",
            expected="a run of rbm or dbn",
            received=f"a run of {target.spec.name}",
        )
    samples = draw_samples(target.model, count=target.examples or COUNT)
    rows = [
        [f"{rbm.weight.shape[1]} → {rbm.weight.shape[0]}", f"{float(rbm.weight.detach().std()):.4f}"]
        for rbm in list_rbms(target.model)
    ]
    data = {
        "count": len(samples),
        "steps": STEPS,
        "mean": float(samples.mean()),
        "deviation": float(samples.std()),
        "machines": [{"visible": r.weight.shape[1], "hidden": r.weight.shape[0]} for r in list_rbms(target.model)],
        "samples": np.round(samples, 4).tolist(),
    }
    figures = []
    images = to_images(samples, target.task)
    if images is not None:
        figures += save(out, "samples.svg", draw_image_sheet(split_into_rows(list(images), COLUMNS)))
        filters = to_images(select_strongest_filters(target.model), target.task)
        assert filters is not None
        figures += save(out, "filters.svg", draw_image_sheet(split_into_rows(list(filters), COLUMNS)))
    text = target.translate(
        f"{len(samples)} samples after {STEPS} steps of Gibbs sampling in the top machine",
        f"在顶层玻尔兹曼机中做 {STEPS} 步吉布斯采样后得到的 {len(samples)} 个样本",
    )
    header = [target.translate("machine", "机器"), target.translate("deviation of weights", "权重的标准差")]
    return View("samples", data, f"{text}\n\n{format_table(header, rows)}", figures)


def draw_samples(model: nn.Module, *, count: int, steps: int = STEPS, seed: int = 0) -> Floats:
    """Draw visible probabilities (count, D) from an rbm or dbn, with its own generator.

    Samples on the CPU in float32, so that a seed gives the same images on every device.
    """
    stack = [copy.deepcopy(rbm).to("cpu", torch.float32) for rbm in list_rbms(model)]
    visible = sample(stack, count, steps=steps, generator=rng.make_generator(seed, "samples"))
    return np.asarray(visible.numpy())


def select_strongest_filters(model: nn.Module, *, count: int = COUNT) -> Floats:
    """Return the lowest machine's weight rows of largest norm (count, D), each scaled to [0, 1] with 0 at mid-gray."""
    machine: RBM = list_rbms(model)[0]
    weight = machine.weight.detach().to("cpu", torch.float64)  # (H, D)
    order = weight.norm(dim=1).argsort(descending=True, stable=True)[:count]
    rows = weight[order]
    return np.asarray((0.5 + 0.5 * rows / rows.abs().amax(1, keepdim=True).clamp_min(1e-12)).numpy())


def to_images(rows: Floats, task: Task) -> Floats | None:
    """Return flat rows (N, D) as images (N, C, H, W), or None if the task's inputs are not images."""
    if not isinstance(task.inputs, ImageInputs):
        return None
    return rows.reshape(len(rows), task.inputs.channels, *task.inputs.size)
