"""Hebb's rule and its successors (E10): Δw = η x y; Oja's Δw = η y (x − y w); patterns stored in a Hopfield net.

No errors and no gradients: each weight depends on the two units that it connects. Linear units learn epoch by epoch; a
Hopfield net stores each pattern once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import msgspec
import torch
from torch import Tensor

from layerwise.data.batch import Batch
from layerwise.errors import TrainingError, UsageError
from layerwise.functional import hebb as formulas
from layerwise.nn.hebbian import Hopfield, LinearUnits
from layerwise.recipe import NonNegativeFloat
from layerwise.rules.base import Context, Entry, Rule, Step, Verdict
from layerwise.rules.schedules import compute_lr_factor

Variant = Literal["hebb", "oja", "projection"]
MODELS = {"hebb": "hebbian, oja or hopfield", "oja": "hebbian or oja", "projection": "hopfield"}


class HebbOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``variant``: ``hebb``; ``oja`` (of several units: Sanger's), for linear units; ``projection``, the pseudo-inverse
    rule, for a Hopfield net. ``lr`` is η, ``schedule`` its course and ``final_lr_ratio`` the factor that
    cosine falls to. In a Hopfield net η scales the weights and changes no recall."""

    variant: Variant = "hebb"
    lr: NonNegativeFloat = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_ratio: NonNegativeFloat = 0.0


def build_hebb(context: Context, options: HebbOptions) -> Rule:
    """Return the rule for the model of a context. Raises `UsageError` for a model that the variant cannot train."""
    if isinstance(context.model, LinearUnits) and options.variant != "projection":
        return HebbianRule(context, options, context.model)
    if isinstance(context.model, Hopfield) and options.variant != "oja":
        return HopfieldRule(context, options, context.model)
    raise UsageError(
        f"the rule hebb in its variant '{options.variant}' cannot train this network",
        expected=MODELS[options.variant],
        received=type(context.model).__name__,
        do="use rule.name=backprop, or another rule.variant: hebb, oja (hebbian, oja), projection (hopfield)",
    )


def compute_lr(options: HebbOptions, progress: float) -> float:
    """Return η at a progress."""
    return options.lr * compute_lr_factor(options.schedule, progress, final_lr_ratio=options.final_lr_ratio)


class HebbianRule:
    """Hebb's and Oja's rule on linear units: W += η · the mean over the batch of the rule's change.

    Inputs are centered by their mean, which is computed over the first epoch (every example once) and then fixed.
    The step's total is the task's objective before the step.
    """

    Options = HebbOptions

    def __init__(self, context: Context, options: HebbOptions, model: LinearUnits) -> None:
        self.context, self.options, self.model = context, options, model
        self.seen = torch.zeros((), dtype=torch.long)  # examples in the mean
        self.epochs = torch.zeros((), dtype=torch.long)

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> Step:
        """Learn from one batch."""
        if not int(self.epochs) and "mean" in self.context.parameters:
            self._update_mean(batch)
        loss = self.context.task.objective(self.context.model, batch)
        x = self.model.center(batch.input_tensor)  # (N, D)
        w = self.model.weight
        y = x @ w.T  # (N, K)
        change = formulas.oja(x, y, w) if self.options.variant == "oja" else formulas.hebb(x, y)
        count = self._sum_over_ranks(change, len(batch))
        if "weight" in self.context.parameters:
            new = w + compute_lr(self.options, progress) / count * change
            self._check_overflow(new, batch)
            w.copy_(new)
        lengths = torch.linalg.vector_norm(w.double(), dim=1).mean() * len(batch)
        return Step(loss.total, loss.weight, {**loss.parts, "length": lengths})

    def _update_mean(self, batch: Batch) -> None:
        """Add a batch to the mean: m += Σ(x − m) / examples so far."""
        mean = self.model.mean
        rest = self.model.center(batch.input_tensor).sum(0)
        self.seen += self._sum_over_ranks(rest, len(batch))
        mean.add_(rest / int(self.seen))

    def _sum_over_ranks(self, tensor: Tensor, count: int) -> int:
        """Sum a tensor over the ranks, in place, and return over how many examples that is."""
        if self.context.world.size == 1:
            return count
        total = torch.tensor(count, device=tensor.device)
        self.context.world.reduce([tensor, total])
        return int(total)

    def _check_overflow(self, new: Tensor, batch: Batch) -> None:
        """Raise `TrainingError` before weights become infinite.

        This checks on the CPU only, where it costs nothing; the session checks on any device.
        """
        if new.device.type != "cpu" or bool(torch.isfinite(new).all()):
            return
        grows = self.options.variant == "hebb"
        raise TrainingError(
            f"the weights overflow at examples {', '.join(map(str, batch.ids[:8].tolist()))}"
            + (
                ": under Hebb's rule they grow without bound"
                if grows
                else ": the steps of Oja's rule are too large for these inputs"
            ),
            expected="finite weights",
            do=f"lower rule.lr (now {self.options.lr:g})" + (" or --epochs, or take rule.variant=oja" if grows else ""),
        )

    def end_epoch(self) -> Verdict:
        """Never finish; report how long the weights have become."""
        self.epochs += 1
        lengths = torch.linalg.vector_norm(self.model.weight.detach().double(), dim=1)
        longest = float(lengths.max())
        if self.options.variant == "hebb":
            return Verdict(
                False,
                f"Hebb's rule has no bound: from length 1 the weights have grown to {longest:.3g}; only "
                "their direction says something",
                f"赫布规则使权重无界增长：权重的初始长度为 1，现在为 {longest:.3g}；只有方向有意义",
            )
        off = float((lengths - 1).abs().max())
        return Verdict(
            False,
            f"Oja's rule holds the weights near length 1: they are off by {off:.2g} at most",
            f"Oja 规则使权重长度保持在 1 附近：最大偏差 {off:.2g}",
        )

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"seen": self.seen, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the counts."""
        self.seen, self.epochs = state["seen"].clone(), state["epochs"].clone()


class HopfieldRule:
    """Stores patterns in a Hopfield net, each once: by Hebb's rule, W += η x xᵀ / D, or so that W projects onto all of
    them.

    The diagonal of W stays zero. Every rank stores the whole batch, in its order. The step's total is the objective
    after it.
    """

    Options = HebbOptions

    def __init__(self, context: Context, options: HebbOptions, model: Hopfield) -> None:
        self.context, self.options, self.model = context, options, model
        self.stored = torch.zeros((), dtype=torch.long)
        size = model.weight.shape[0] if options.variant == "projection" else 0
        self.projection = torch.zeros(size, size, dtype=torch.float64)
        if options.variant == "projection" and compute_lr(options, 0.5) != 1:
            raise UsageError(
                "the projection rule has no step size: its weights follow from the patterns alone",
                expected="rule.lr=1 and rule.schedule=constant",
                received=f"lr {options.lr:g}, {options.schedule}",
            )

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> Step:
        """Store the patterns of one batch."""
        ranks = self.context.world.gather({"patterns": self.model.to_states(batch.input_tensor)})
        patterns = torch.cat([tensors["patterns"] for tensors in ranks])  # (N, D), the batch in its order
        w = self.model.weight
        if self.options.variant == "projection":
            for x in patterns.cpu().double():
                self.projection = formulas.extend_projection(self.projection, x)
            w.copy_(self.projection.clone().fill_diagonal_(0))
        else:
            w.add_(formulas.hopfield_weights(patterns), alpha=compute_lr(self.options, progress) / w.shape[0])
        self.stored += len(patterns)
        loss = self.context.task.objective(self.context.model, batch)
        return Step(loss.total, loss.weight, loss.parts)

    def end_epoch(self) -> Verdict:
        """Finish: every pattern is stored, and a second pass would add nothing new."""
        count, units = int(self.stored), self.model.weight.shape[0]
        load = count / units
        if self.options.variant == "projection":
            rank = round(float(self.projection.trace()))
            return Verdict(
                True,
                f"stored {count} patterns in {units} units (load {load:.3f}); {rank} of them are linearly independent",
                f"在 {units} 个单元中存入 {count} 个模式（负载 {load:.3f}），其中 {rank} 个线性无关",
            )
        return Verdict(
            True,
            f"stored {count} patterns in {units} units (load {load:.3f}). Hebb's rule holds up to 0.138 if "
            "they are random, fewer "
            "where they resemble one another",
            f"在 {units} 个单元中存入 {count} 个模式（负载 {load:.3f}）。对随机模式，赫布规则的极限为 0.138；"
            "模式彼此相似时更少",
        )

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the projection with its diagonal, which the weights lack, and the count."""
        return {"stored": self.stored, "projection": self.projection}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the projection and the count."""
        self.stored, self.projection = state["stored"].clone(), state["projection"].cpu().clone()


RULE = Entry(build_hebb, HebbOptions)
