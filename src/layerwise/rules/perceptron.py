"""Rosenblatt's rule (E09), online, by a compiled loop: on a mistake w ← w + η y x, b ← b + η y.

Several classes are several perceptrons, each one class against the rest. Source: Rosenblatt 1958; convergence: Novikoff
1962.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import msgspec
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.kernels import perceptron as kernel
from layerwise.recipe import PositiveFloat
from layerwise.rules.base import Context, Entry, Step, Verdict
from layerwise.tasks.objectives import ClassLoss


class PerceptronOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``lr`` is η. From zero weights it scales the weights only and changes no decision."""

    lr: PositiveFloat = 1.0


class Perceptron:
    """The rule ``perceptron``: corrects the mistakes on a batch, example by example.

    Runs on the processor's cores wherever the model lives. Over several ranks each learns from its share of the batch
    and the updates are averaged (iterative parameter mixing, McDonald et al. 2010).
    """

    Options = PerceptronOptions

    def __init__(self, context: Context, options: PerceptronOptions) -> None:
        linear = [m for m in context.model.modules() if isinstance(m, nn.Linear)]
        if len(linear) != 1 or linear[0].bias is None:
            raise UsageError(
                "the perceptron rule learns one layer of threshold units",
                expected="a model with exactly one linear layer with bias",
                received=f"{len(linear)} linear layers in {type(context.model).__name__}",
                do="use rule.name=backprop for deeper networks",
            )
        refuse_other_losses(context.task)
        self.context, self.options, self.linear = context, options, linear[0]
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self.mistakes = torch.zeros((), dtype=torch.long)
        self.updates = torch.zeros((), dtype=torch.long)
        self.epochs = torch.zeros((), dtype=torch.long)

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> Step:
        """Correct the mistakes on one batch. The step's total is their number, over all units."""
        assert batch.targets is not None
        weight, bias = self.linear.weight, self.linear.bias
        old = [p.detach().cpu().float().clone() for p in (weight, bias)]
        new = [p.clone() for p in old]
        x = batch.input_tensor.detach().cpu().float().flatten(1).contiguous()
        y = encode_signs(batch.target_tensor.cpu(), len(bias))
        counts = kernel.update(
            x.numpy(),
            y.numpy(),
            new[0].numpy(),
            new[1].numpy(),
            eta=self.options.lr,
            pool=self.pool,
            threads=self.threads,
        )
        own_mistakes = torch.tensor(int(counts.sum()))
        if self.context.world.size > 1:
            deltas = [(n - o).to(self.context.world.device) for n, o in zip(new, old, strict=True)]
            mistakes = own_mistakes.to(self.context.world.device)
            self.context.world.reduce([*deltas, mistakes])
            new = [o + d.cpu() / self.context.world.size for o, d in zip(old, deltas, strict=True)]
            total = mistakes.cpu()
        else:
            total = own_mistakes
        weight.copy_(new[0])
        bias.copy_(new[1])
        self.mistakes += total
        self.updates += total
        return Step(own_mistakes.double(), float(len(batch)), {"mistakes": own_mistakes.double()})

    def end_epoch(self) -> Verdict:
        """Finish when an epoch made no mistake: then no example can change the weights any more."""
        mistakes, self.mistakes = int(self.mistakes), torch.zeros((), dtype=torch.long)
        self.epochs += 1
        epochs, updates = int(self.epochs), int(self.updates)
        if mistakes == 0:
            return Verdict(
                True,
                f"converged: epoch {epochs} made no mistake, after {updates} updates in all",
                f"已收敛：第 {epochs} 轮没有错误，共更新 {updates} 次",
            )
        return Verdict(
            False,
            f"did not converge: still {mistakes} mistakes in epoch {epochs}. On data that a plane can "
            "separate the rule "
            "stops making mistakes (Novikoff 1962), so these are not separable, or the epochs were too few",
            f"未收敛：第 {epochs} 轮仍有 {mistakes} 个错误。若数据线性可分，"
            "该规则必在有限次更新后不再犯错（Novikoff 1962），"
            "所以这些数据不可分，或轮数太少",
        )

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"mistakes": self.mistakes, "updates": self.updates, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the counts."""
        self.mistakes, self.updates, self.epochs = (state[k].clone() for k in ("mistakes", "updates", "epochs"))


def encode_signs(labels: Tensor, units: int) -> Tensor:
    """Return y ∈ {−1, +1} for each unit (N, K) float32: unit k is class k against the rest, a single unit is class
    1."""
    classes = torch.ones(1, dtype=torch.long) if units == 1 else torch.arange(units)
    return (labels[:, None] == classes).float().mul_(2).sub_(1).contiguous()


def refuse_other_losses(task: object) -> None:
    """Raise `UsageError` for a task that chooses a loss: this rule corrects mistakes and minimizes no loss."""
    loss = getattr(task, "loss", None)
    if isinstance(loss, ClassLoss) and not loss.is_cross_entropy:
        raise UsageError(
            "the perceptron rule corrects mistakes and minimizes no loss",
            expected="no task.loss, task.label_smoothing or task.class_weights",
            received=f"{loss.kind}, smoothing {loss.smoothing:g}, {'weighted' if loss.weights else 'unweighted'} "
            "classes",
            do="leave them out, or use rule.name=backprop",
        )


RULE = Entry(Perceptron, Perceptron.Options)
