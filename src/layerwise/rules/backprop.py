"""Backpropagation and gradient descent: θ ← θ − η ∇L (E11, E12), with the usual optimizers.

One step, over all ranks and micro-batches of a window: gradients of the summed losses, one coalesced all-reduce,
division by the window's weight, penalties, clipping, optimizer. So ranks and accumulation change nothing but the order
of summation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import msgspec
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.functional.regularization import l1, l2, soft_threshold
from layerwise.nn.modes import NORMS, eval_mode
from layerwise.recipe import Decay, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from layerwise.rules.base import Context, Entry, NonFiniteLoss, Step, Verdict, find_first_bad_layer
from layerwise.rules.optimizers import Method, Optimizer
from layerwise.rules.schedules import Schedule, compute_lr_factor
from layerwise.runtime.compute_settings import autocast
from layerwise.tasks.base import Loss


class BackpropOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of ``[rule]`` for ``backprop``.

    ``l2`` and ``l1`` are λ of E08 (weights only): λΣw² and λΣ|w| are added to the mean loss; ``l1_proximal`` gives
    exact zeros by soft-thresholding after the step, in the optimizer's own measure, instead of a subgradient.
    ``weight_decay`` is torch's: for adamw decoupled, for the others 2λ. ``clip_grad`` is the largest gradient norm;
    ``grad_accum_steps`` is the number of micro-batches that a batch is cut into. ``ema_decay`` is the decay of the
    averaged weights, which are then evaluated and saved (0: none). ``first_layer_lr_ratio`` is the factor of the first
    layer's rate: the last layer learns with ``lr``, and rates fall geometrically towards the first. ``warmup``,
    ``final_lr_ratio``, ``milestones`` and ``gamma`` shape the schedule.
    """

    optimizer: Method = "adam"
    lr: NonNegativeFloat = 1e-3
    momentum: Decay = 0.9
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    alpha: Decay = 0.99
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    schedule: Schedule = "constant"
    warmup: Decay = 0.0
    final_lr_ratio: NonNegativeFloat = 0.0
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    gamma: NonNegativeFloat = 0.1
    l2: NonNegativeFloat = 0.0
    l1: NonNegativeFloat = 0.0
    l1_proximal: bool = False
    clip_grad: NonNegativeFloat = 0.0
    grad_accum_steps: PositiveInt = 1
    ema_decay: Decay = 0.0
    first_layer_lr_ratio: Fraction = 1.0


def make_optimizer(options: BackpropOptions, parameters: Sequence[nn.Parameter], factors: Sequence[float]) -> Optimizer:
    """Return the optimizer of these options; ``factors`` are the parameters' factors of the rate."""
    return Optimizer(
        parameters,
        method=options.optimizer,
        lr=options.lr,
        momentum=options.momentum,
        betas=options.betas,
        alpha=options.alpha,
        eps=options.eps,
        weight_decay=options.weight_decay,
        factors=factors,
    )


def compute_lr_factors(
    model: nn.Module, parameters: Sequence[nn.Parameter], first_layer_lr_ratio: float
) -> list[float]:
    """Return each parameter's factor of the rate: r^((D − 1 − d)/(D − 1)) in layer d = 0 … D − 1 of the model, with
    r = ``first_layer_lr_ratio``.

    A layer is a module with parameters of its own, in the order in which the model holds them: discriminative
    fine-tuning (Howard and Ruder 2018), spread over the depth so that one number does for networks of 8 and of 152
    layers.
    """
    layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    depth = max(1, len(layers) - 1)
    factors = {
        id(p): first_layer_lr_ratio ** ((depth - d) / depth)
        for d, m in enumerate(layers)
        for p in m.parameters(recurse=False)
    }
    return [1.0 if len(layers) == 1 else factors[id(p)] for p in parameters]


def get_penalized_weights(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Return the weights that E08's penalties cover: no biases, nothing of a normalization layer."""
    exempt = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    return [p for p in parameters.values() if p.ndim > 1 and id(p) not in exempt]


class Backprop:
    """The rule ``backprop``: gradients by reverse differentiation (E12), weights by an optimizer (E11)."""

    Options = BackpropOptions

    def __init__(self, context: Context, options: BackpropOptions) -> None:
        if options.grad_accum_steps > 1 and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in context.model.modules()
        ):
            raise UsageError(
                "batch normalization takes its statistics from each micro-batch, so accumulation would not "
                "equal the large batch",
                expected="rule.grad_accum_steps = 1 for a model with batch norm",
                received=f"rule.grad_accum_steps = {options.grad_accum_steps}",
                do="use a smaller --batch-size, or set model.batch_norm=false",
            )
        if options.schedule == "exponential" and options.final_lr_ratio <= 0:
            raise UsageError(
                "an exponential schedule goes to a part of the rate",
                expected="rule.final_lr_ratio above 0, 0.01 say",
                received=f"rule.final_lr_ratio = {options.final_lr_ratio:g}",
            )
        self.context, self.options = context, options
        self.parameters = list(context.parameters.values())
        self.tensors: list[Tensor] = [*self.parameters]
        self.weights: list[Tensor] = [*get_penalized_weights(context.model, context.parameters)]
        self.optimizer = make_optimizer(
            options, self.parameters, compute_lr_factors(context.model, self.parameters, options.first_layer_lr_ratio)
        )
        self._for_scaler = cast(torch.optim.Optimizer, self.optimizer)  # it asks for `param_groups` and `step` only
        self.scaler = torch.amp.GradScaler(context.world.device.type, enabled=context.precision == "fp16")
        self.average = [p.detach().clone() for p in self.parameters] if options.ema_decay else []
        self.steps = 0

    def step(self, batch: Batch, progress: float) -> Step:
        """Take one optimizer step on the global batch of which ``batch`` is this rank's share."""
        self._set_rate(progress)
        self.optimizer.zero_grad()
        total, weight, parts = self._backward(batch)
        self._reduce_gradients(weight)
        terms = self._add_penalties()
        scaled = self.scaler.is_enabled()
        if scaled:
            self.scaler.unscale_(self._for_scaler)
        if self.options.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.options.clip_grad, foreach=True)
        if scaled:
            self.scaler.step(self._for_scaler)
            self.scaler.update()
        else:
            self.optimizer.step()
        self._finish_step()
        return Step(total, weight, {**parts, **{name: term * weight for name, term in terms.items()}}, batch.units)

    def _set_rate(self, progress: float) -> None:
        """Set the optimizer's rate for this progress."""
        o = self.options
        if o.schedule == "constant" and not o.warmup:
            return
        self.optimizer.lr = o.lr * compute_lr_factor(
            o.schedule,
            progress,
            warmup=o.warmup,
            final_lr_ratio=o.final_lr_ratio,
            milestones=o.milestones,
            gamma=o.gamma,
        )

    def _backward(self, batch: Batch) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Sum losses and gradients over the micro-batches of this rank; gradients are of (sum / nominal batch)."""
        if not len(batch):
            return self._compute_empty_sums(batch)
        if self.options.grad_accum_steps == 1:
            return self._backward_chunk(batch)
        total, weight, parts = torch.zeros((), device=batch.device), 0.0, dict[str, Tensor]()
        for chunk in batch.chunk(self.options.grad_accum_steps):
            chunk_total, chunk_weight, terms = self._backward_chunk(chunk)
            total, weight = total + chunk_total, weight + chunk_weight
            parts = {name: parts[name] + term if name in parts else term for name, term in terms.items()}
        return total, weight, parts

    def _backward_chunk(self, batch: Batch) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Add one micro-batch's gradients; return its summed loss, weight and terms."""
        with autocast(self.context.precision, batch.device):
            loss = self.context.task.objective(self.context.model, batch)
        self._check_loss(loss, batch)
        self.scaler.scale(loss.total / self.context.batch_size).backward()
        return loss.total.detach(), loss.weight, {name: term.detach() for name, term in loss.parts.items()}

    @torch.no_grad()
    def _compute_empty_sums(self, batch: Batch) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Return the zeros of an empty share, by the names and in the type that the other ranks' sums have."""
        model = self.context.model
        with eval_mode(model):  # a normalization has no statistics of nothing
            loss = self.context.task.objective(model, batch)
        return loss.total, 0.0, dict(loss.parts)

    def _check_loss(self, loss: Loss, batch: Batch) -> None:
        """Raise `NonFiniteLoss` before a step if the loss is not finite. Reading it costs nothing on the CPU only."""
        if loss.total.device.type == "cpu" and not math.isfinite(float(loss.total.detach())):
            self.raise_non_finite(batch, {name: float(term.detach()) for name, term in loss.parts.items()})

    def raise_non_finite(self, batch: Batch, parts: Mapping[str, float]) -> None:
        """Raise `NonFiniteLoss` for a batch, naming the first bad layer."""
        raise NonFiniteLoss(batch, parts, find_first_bad_layer(self.context.model, batch))

    def _reduce_gradients(self, weight: float) -> None:
        """Sum gradients and weight over ranks, and divide the gradients by the global batch's weight."""
        world = self.context.world
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if world.size > 1:
            weight_sum = torch.tensor([weight], dtype=gradients[0].dtype, device=gradients[0].device)
            world.reduce([*gradients, weight_sum])
            weight = float(weight_sum)
        if weight not in (0.0, float(self.context.batch_size)):
            torch._foreach_mul_(gradients, self.context.batch_size / weight)

    @torch.no_grad()
    def _add_penalties(self) -> dict[str, Tensor]:
        """Add the gradients of E08's penalties, 2λw and λ·sign(w), and return the terms they add to the loss.

        Where only biases and norms are trained there is nothing to penalize.
        """
        o, terms = self.options, dict[str, Tensor]()
        if not self.weights:
            return terms
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        gradients = [w.grad for w in self.weights if w.grad is not None]
        if o.l2:
            torch._foreach_add_(gradients, self.weights, alpha=2 * o.l2 * scale)
            terms["l2"] = l2(torch.stack(torch._foreach_norm(self.weights)), o.l2)  # λΣ‖w‖², in few kernels
        if o.l1:
            terms["l1"] = torch.stack([l1(w, o.l1) for w in self.weights]).sum()
            if not o.l1_proximal:
                torch._foreach_add_(gradients, torch._foreach_sign(self.weights), alpha=o.l1 * scale)
        return terms

    @torch.no_grad()
    def _finish_step(self) -> None:
        """Apply the proximal operator of L1, soft(w, λr) with the effective rate r, and update the running average."""
        o = self.options
        if o.l1 and o.l1_proximal:
            indices = {id(p): index for index, p in enumerate(self.parameters)}
            for w in self.weights:
                w.copy_(soft_threshold(w, o.l1 * self.optimizer.effective_lr(indices[id(w)])))
        self.steps += 1
        if self.average:
            # a young average follows faster: min(decay, (1 + t) / (10 + t)), as in TensorFlow's moving averages
            decay = min(o.ema_decay, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.average, self.tensors, 1 - decay)

    def end_epoch(self) -> Verdict:
        """Never finish: gradient descent has no end of its own."""
        return Verdict(False)

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context in which the model holds the averaged weights, if there are any."""
        return self._use_average() if self.average else nullcontext()

    @contextmanager
    def _use_average(self) -> Iterator[None]:
        """Put the averaged weights into the model, and the raw ones back at the end."""
        raw = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.tensors, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.tensors, raw)

    def state_dict(self) -> dict[str, Tensor]:
        """Return moments, scaler, average and step count as tensors by name."""
        out = {"steps": torch.tensor(self.steps)}
        out |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        for name, average in zip(self.context.parameters, self.average, strict=False):
            out[f"average.{name}"] = average
        scaler: dict[str, Any] = self.scaler.state_dict()
        out |= {f"scaler.{key}": torch.tensor(float(value), dtype=torch.float64) for key, value in scaler.items()}
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self.steps = int(state["steps"])
        prefix = "optimizer."
        self.optimizer.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
        for name, average in zip(self.context.parameters, self.average, strict=False):
            average.copy_(state[f"average.{name}"])
        if self.scaler.is_enabled():
            saved = {name.removeprefix("scaler."): float(v) for name, v in state.items() if name.startswith("scaler.")}
            counts = {key: int(saved[key]) for key in ("growth_interval", "_growth_tracker")}
            self.scaler.load_state_dict({**saved, **counts})


RULE = Entry(Backprop, Backprop.Options)
