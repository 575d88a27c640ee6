"""Seven optimizers over torch's kernels, without the bookkeeping of `torch.optim.Optimizer`.

The formulas are torch's own functions (`torch.optim.adam.adam` and its kin), fused into one pass where the device has
it. What is left out is the wrapper around them (hooks, profiler ranges, graph breaks, groups): some 0.3 ms per step on
a CPU, as long as a small network's whole update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

Method = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]
SLOTS: dict[Method, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("momentum_buffer",),
    "nesterov": ("momentum_buffer",),
    "adagrad": ("sum",),
    "rmsprop": ("square_avg",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


class Optimizer:
    """θ ← θ − η · d(∇L), where d is the method's direction: ∇L itself in gradient descent (E11).

    - ``sgd`` d = g; ``momentum`` d = v, v ← μv + g; ``nesterov`` d = g + μv (Sutskever et al. 2013);
    - ``adagrad`` d = g / (√Σg² + ε) (Duchi et al. 2011);
    - ``rmsprop`` d = g / (√s + ε), s ← αs + (1 − α)g² (Tieleman and Hinton 2012);
    - ``adam`` d = m̂ / (√v̂ + ε), m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², both divided by 1 − βᵗ (Kingma and Ba
        2015);
    - ``adamw`` the same, with θ ← θ − ηλθ apart from the gradient (Loshchilov and Hutter 2019). Elsewhere
      ``weight_decay`` λ is added to the gradient as λθ.

    ``factors`` are the parameters' factors of η, 1 for all if none are given. ``param_groups`` has what
    `torch.amp.GradScaler` reads: a group of ``params`` with an ``lr`` for each factor.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        method: Method,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        alpha: float,
        eps: float,
        weight_decay: float,
        factors: Sequence[float] = (),
    ) -> None:
        self.parameters, self.method = list(parameters), method
        self.momentum = 0.0 if method == "sgd" else momentum
        self.betas, self.alpha, self.eps, self.weight_decay = betas, alpha, eps, weight_decay
        self.factors = list(factors) or [1.0] * len(self.parameters)
        self.indices: dict[float, list[int]] = {}
        for index, factor in enumerate(self.factors):
            self.indices.setdefault(factor, []).append(index)
        self.param_groups: list[dict[str, Any]] = [
            {"params": [self.parameters[i] for i in indices]} for indices in self.indices.values()
        ]
        self.lr = lr
        self.fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in self.parameters)
        self.slots = {name: [torch.zeros_like(p) for p in self.parameters] for name in SLOTS[method]}
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]

    @property
    def lr(self) -> float:
        """The learning rate η of the next step, for the factor 1."""
        return self._lr

    @lr.setter
    def lr(self, rate: float) -> None:
        self._lr = rate
        for group, factor in zip(self.param_groups, self.indices, strict=True):
            group["lr"] = rate * factor

    def zero_grad(self) -> None:
        """Drop the gradients, so that the next ones are written and not added."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step; every parameter must have a gradient."""
        for group, indices in zip(self.param_groups, self.indices.values(), strict=True):
            slots = {name: [tensors[i] for i in indices] for name, tensors in self.slots.items()}
            self._step_group(group["params"], slots, [self.steps[i] for i in indices], group["lr"])

    def _step_group(
        self, parameters: list[Tensor], slots: Mapping[str, list[Tensor]], steps: list[Tensor], lr: float
    ) -> None:
        """Take a step with the parameters of one group."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        decay, fused = self.weight_decay, self.fused
        match self.method:
            case "adam" | "adamw":
                kernel = adam if self.method == "adam" else adamw
                kernel(
                    parameters,
                    gradients,
                    slots["exp_avg"],
                    slots["exp_avg_sq"],
                    [],
                    steps,
                    fused=fused,
                    amsgrad=False,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    lr=lr,
                    weight_decay=decay,
                    eps=self.eps,
                    maximize=False,
                )
            case "adagrad":
                adagrad(
                    parameters,
                    gradients,
                    slots["sum"],
                    steps,
                    lr=lr,
                    weight_decay=decay,
                    lr_decay=0.0,
                    eps=self.eps,
                    maximize=False,
                )
            case "rmsprop":
                rmsprop(
                    parameters,
                    gradients,
                    slots["square_avg"],
                    [],
                    [],
                    steps,
                    lr=lr,
                    alpha=self.alpha,
                    eps=self.eps,
                    weight_decay=decay,
                    momentum=0.0,
                    centered=False,
                )
            case _:
                sgd(
                    parameters,
                    gradients,
                    [*slots.get("momentum_buffer", [None] * len(gradients))],
                    fused=fused,
                    weight_decay=decay,
                    momentum=self.momentum,
                    lr=lr,
                    dampening=0.0,
                    nesterov=self.method == "nesterov",
                    maximize=False,
                )

    def effective_lr(self, index: int) -> Tensor | float:
        """Return r where a steady gradient g moves parameter ``index`` by r·g a step: the rate of a proximal step.

        With η the parameter's own rate, η for ``sgd``; η/(1 − μ) with momentum; η/(√s + ε), by weight, where gradients
        are divided by √s (Adam's v̂ for s). A proximal step of λr then has the minimum of L + λΣ|w| as its fixed
        point, whatever the method (Yun et al. 2021).
        """
        lr = self.lr * self.factors[index]
        if self.method in ("sgd", "momentum", "nesterov"):
            return lr / (1 - self.momentum)
        (square,) = (self.slots[slot][index] for slot in ("sum", "square_avg", "exp_avg_sq") if slot in self.slots)
        if self.method in ("adam", "adamw"):
            square = square / (1 - self.betas[1] ** self.steps[index].clamp_min(1))
        moved = self.steps[index] > 0  # not so where a scaler left out the first steps
        return lr * moved / (square.sqrt() + self.eps)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the method's averages and step counts, named INDEX.SLOT as in torch's own state."""
        averages = {f"{i}.{name}": t for name, tensors in self.slots.items() for i, t in enumerate(tensors)}
        return averages | {f"{i}.step": t for i, t in enumerate(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
