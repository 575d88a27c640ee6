"""Backpropagation as a visible four-step procedure (S06).

1. forward, with every layer's z and a kept; 2. the loss; 3. the chain rule layer by layer (E12); 4. the update by plain
gradient descent (E11). For feed-forward networks the backward pass is written out here; for others torch's autograd
does it.

``N`` examples, ``D`` inputs and ``H`` outputs of a layer, ``K`` of the network. Rows are examples: z = a W^T + b, W (H,
D).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layerwise.data.loader import Batch
from layerwise.functional.activations import derivative, softmax_pullback
from layerwise.nn.activations import ACTIVATIONS
from layerwise.runtime import rng
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression

NAMES = {kind: name for name, kind in ACTIVATIONS.items()}


@dataclass(frozen=True)
class Layer:
    """What one layer with weights saw and learned: z and a (N, …), δ = ∂L/∂z like z, ∂W like W, ∂b like b.

    ``a`` is z after the activations that follow. ``input`` is a⁽ˡ⁻¹⁾. A layer that was not called as a whole has no z,
    a and δ. ``more`` holds parameters that are neither (a machine's visible biases), each with its gradient, by name.
    """

    name: str
    type: str
    activation: str
    input: Tensor | None
    z: Tensor | None
    a: Tensor | None
    delta: Tensor | None
    weight: Tensor
    bias: Tensor | None
    grad_weight: Tensor
    grad_bias: Tensor | None
    more: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Procedure(NamedTuple):
    """The four steps over one batch: layers from input to output, the mean loss before and after the step of rate
    ``lr``."""

    layers: list[Layer]
    loss: float
    loss_after: float
    lr: float
    by: str


def run(model: nn.Module, task: Task, batch: Batch, *, lr: float) -> Procedure:
    """Carry out the four steps in inference mode of dropout and batch norm (repeatable), without changing the model.

    L is the mean of ``task.losses`` over the batch. In networks that `explains` knows the chain rule is written out
    (E12): δ⁽ᴸ⁾ = ∂L/∂z⁽ᴸ⁾; δ⁽ˡ⁾ = (W⁽ˡ⁺¹⁾ᵀδ⁽ˡ⁺¹⁾) ⊙ f′(z⁽ˡ⁾); over a batch of rows ∂W = δᵀa, ∂b = Σₙδₙ. Then θ ← θ − η
    ∇L (E11).
    """
    with _as_function(model, batch.inputs.device):
        if explains(model):
            layers, outputs = _feed_forward(model, task, batch)
            by = "chain rule, layer by layer (E12)"
        else:
            layers, outputs = _differentiated(model, task, batch)
            by = "automatic differentiation"
        before = float(task.losses(outputs, batch).mean())
        return Procedure(layers, before, _after_step(model, task, batch, lr=lr, layers=layers), lr, by)


def explains(model: nn.Module) -> bool:
    """Whether this model's backward pass is written out here: linear layers and activations of standard form, in
    sequence.

    PReLU is left to autograd: it is a layer with a weight of its own.
    """

    def known(module: nn.Module) -> bool:
        if type(module) in NAMES:  # another slope or an in-place form has another derivative, or loses z
            return type(module) is not nn.PReLU and repr(module) == repr(ACTIVATIONS[NAMES[type(module)]]())
        return type(module) in (nn.Linear, nn.Flatten, nn.Dropout)

    return isinstance(model, nn.Sequential) and any(type(m) is nn.Linear for m in model) and all(map(known, model))


@contextmanager
def _as_function(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to inference with gradients on for every floating-point parameter; put everything back."""
    training, free = model.training, [p.requires_grad for p in model.parameters()]
    kept = [p.grad for p in model.parameters()]
    model.eval()
    try:
        with torch.enable_grad(), rng.untouched(device):
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            yield
    finally:
        model.train(training)
        for parameter, was, grad in zip(model.parameters(), free, kept, strict=True):
            parameter.requires_grad_(was)
            parameter.grad = grad


# -- written out ---------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """A linear layer as the forward pass leaves it: its input, its z, the activations after it with what each was
    given."""

    name: str
    linear: nn.Linear
    input: Tensor
    z: Tensor
    a: Tensor
    after: list[tuple[str, Tensor]]


@torch.no_grad()
def _feed_forward(model: nn.Module, task: Task, batch: Batch) -> tuple[list[Layer], Tensor]:
    """Steps 1 to 3, by hand (E12): no autograd anywhere."""
    seen = _forward(model, batch.inputs)
    outputs = seen[-1].a
    gradient = output_gradient(task, outputs, batch)  # ∂L/∂a of the last layer, (N, K)
    layers: list[Layer] = []
    for layer in reversed(seen):
        delta = gradient
        for name, given in reversed(layer.after):
            delta = _pulled_back(name, given, delta)  # ⊙ f′(z)
        grad_weight = delta.T @ layer.input  # ∂W = δᵀa, (H, D)
        has_bias = layer.linear.bias is not None
        grad_bias = delta.sum(0) if has_bias else None  # ∂b = Σₙ δₙ, (H,)
        gradient = delta @ layer.linear.weight  # Wᵀδ for the layer below, (N, D)
        layers.append(
            Layer(
                layer.name,
                "Linear",
                " → ".join(name for name, _ in layer.after) or "linear",
                layer.input,
                layer.z,
                layer.a,
                delta,
                layer.linear.weight.detach(),
                layer.linear.bias.detach() if has_bias else None,
                grad_weight,
                grad_bias,
            )
        )
    return layers[::-1], outputs


def _pulled_back(name: str, z: Tensor, gradient: Tensor) -> Tensor:
    """Return ∂L/∂z from ∂L/∂a, a = f(z): times f′(z); for softmax, times its Jacobian."""
    if name == "softmax":
        return softmax_pullback(z.softmax(1), gradient)
    return gradient * derivative(name.replace("-", "_"), z)


def _forward(model: nn.Module, inputs: Tensor) -> list[_Seen]:
    """Step 1: a⁽ˡ⁾ = f(W⁽ˡ⁾a⁽ˡ⁻¹⁾ + b⁽ˡ⁾), with every z and a kept (E03)."""
    seen: list[_Seen] = []
    x = inputs
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            z = torch.nn.functional.linear(x, module.weight, module.bias)  # (N, H)
            seen.append(_Seen(name, module, x, z, z, []))
            x = z
        elif type(module) in NAMES:
            given, x = x, module(x)
            if seen:  # an activation below the first weights changes no gradient of ours
                seen[-1].after.append((NAMES[type(module)], given))
                seen[-1].a = x
        else:
            x = module(x)  # flatten; dropout, which passes everything on in inference
    return seen


def output_gradient(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    """Return ∂L/∂outputs (N, K) of the mean loss: softmax(z) − onehot(y), σ(z) − y, 2(ŷ − y), sign(ŷ − y); else by
    autograd."""
    count = len(batch)
    if isinstance(task, Classification) and batch.targets is not None and task.loss.plain:
        if outputs.shape[1] == 1:
            return (torch.sigmoid(outputs) - batch.targets.to(outputs.dtype)[:, None]) / count
        return (outputs.softmax(1) - torch.nn.functional.one_hot(batch.targets, outputs.shape[1])) / count
    if (
        isinstance(task, Regression)
        and task.loss != "huber"
        and batch.targets is not None
        and outputs.shape == batch.targets.shape
    ):
        error = outputs - batch.targets.to(outputs.dtype)
        return (2 * error if task.loss == "mse" else error.sign()) / count
    if isinstance(task, Reconstruction):
        return 2 * (outputs - batch.inputs.view_as(outputs)) / count
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(task.losses(leaf, batch).mean(), leaf)
    return gradient


# -- by autograd ---------------------------------------------------------------------------------------------------


def _differentiated(model: nn.Module, task: Task, batch: Batch) -> tuple[list[Layer], Tensor]:
    """Steps 1 to 3 for any network: hooks keep every call's input and output, autograd gives the gradients."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda m, i, o, name=name: calls.append((name, m, i[0], o)) if isinstance(o, Tensor) and i else None
        )
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        outputs = model(batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    loss = task.losses(outputs, batch).mean()
    owners = [
        (name, module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    at = {name: index for index, (name, *_) in reversed(list(enumerate(calls)))}
    owners.sort(key=lambda owner: at.get(owner[0], len(calls)))
    wanted = [p for _, module in owners for p in module.parameters(recurse=False)]
    zs = [calls[at[name]][3] for name, _ in owners if name in at]
    found = torch.autograd.grad(loss, [*wanted, *zs], allow_unused=True)
    gradients = {id(t): torch.zeros_like(t) if g is None else g for t, g in zip([*wanted, *zs], found, strict=True)}
    layers = [_layer(name, module, calls, at.get(name), gradients) for name, module in owners]
    return layers, outputs.detach()


def _layer(
    name: str,
    module: nn.Module,
    calls: list[tuple[str, nn.Module, Tensor, Tensor]],
    place: int | None,
    gradients: dict[int, Tensor],
) -> Layer:
    """Gather one layer's record. Its weights are its first parameter of two or more axes, else its first."""
    own = list(module.parameters(recurse=False))
    weight = next((p for p in own if p.ndim > 1), own[0])
    bias = getattr(module, "bias", None)
    bias = next((p for n, p in module.named_parameters(recurse=False) if n == "hidden_bias"), bias)
    named = module.named_parameters(recurse=False)
    more = {n: (p.detach(), gradients[id(p)]) for n, p in named if p is not weight and p is not bias}
    given = z = a = delta = None
    activation = "linear"
    if place is not None:
        _, _, given, z = calls[place]
        delta, a = gradients[id(z)], z
        if place + 1 < len(calls) and type(calls[place + 1][1]) in NAMES and calls[place + 1][2] is z:
            activation, a = NAMES[type(calls[place + 1][1])], calls[place + 1][3]
    given, z, a, delta = (None if t is None else t.detach() for t in (given, z, a, delta))
    return Layer(
        name or "(the model)",
        type(module).__name__,
        activation,
        given,
        z,
        a,
        delta,
        weight.detach(),
        None if bias is None else bias.detach(),
        gradients[id(weight)],
        None if bias is None else gradients[id(bias)],
        more,
    )


# -- the update ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _after_step(model: nn.Module, task: Task, batch: Batch, *, lr: float, layers: list[Layer]) -> float:
    """Step 4: return the mean loss with θ − η∇L in place of θ (E11), without touching the model."""
    steps = {layer.weight.data_ptr(): layer.grad_weight for layer in layers}
    steps |= {la.bias.data_ptr(): la.grad_bias for la in layers if la.bias is not None and la.grad_bias is not None}
    steps |= {parameter.data_ptr(): grad for la in layers for parameter, grad in la.more.values()}
    moved = {n: p - lr * steps[p.data_ptr()] if p.data_ptr() in steps else p for n, p in model.named_parameters()}
    loss = float(task.losses(functional_call(model, moved, (batch.inputs,)), batch).mean())
    return loss if math.isfinite(loss) else float("inf")
