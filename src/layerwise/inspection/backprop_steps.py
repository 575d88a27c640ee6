"""Backpropagation in four explicit steps.

1. the forward pass, which stores z and a of every layer; 2. the loss; 3. the chain rule layer by layer (E12); 4. an
update by plain gradient descent (E11). For feed-forward networks this module implements the backward pass; other
networks use torch's autograd.

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

from layerwise.data.batch import Batch
from layerwise.data.values import call
from layerwise.functional.activations import derivative, softmax_pullback
from layerwise.nn.layers import ACTIVATIONS
from layerwise.nn.tracing import ModuleCall, trace_modules
from layerwise.runtime import rng
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression

ACTIVATION_NAMES = {kind: name for name, kind in ACTIVATIONS.items()}


@dataclass(frozen=True)
class LayerRecord:
    """The values and gradients of a layer with weights: z and a (N, …), δ = ∂L/∂z like z, ∂W like W, ∂b like b.

    ``input`` is a⁽ˡ⁻¹⁾, and ``a`` is z after the activations that follow. z, a and δ are None if the module's own
    forward was not called. ``extra_parameters`` holds parameters other than weight and bias (an RBM's visible biases)
    with their gradients, by name.
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
    extra_parameters: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class BackpropSteps(NamedTuple):
    """The four steps over one batch: the layers from input to output, and the mean loss before and after a step of
    learning rate ``lr``; ``method`` says how the gradients were computed."""

    layers: list[LayerRecord]
    loss: float
    loss_after: float
    lr: float
    method: str


def run_backprop(model: nn.Module, task: Task, batch: Batch, *, lr: float) -> BackpropSteps:
    """Run the four steps with dropout and batch norm in evaluation mode, without changing the model.

    L is the mean of ``task.losses`` over the batch. If `has_manual_backward`, the chain rule is computed here (E12):
    δ⁽ᴸ⁾ = ∂L/∂z⁽ᴸ⁾; δ⁽ˡ⁾ = (W⁽ˡ⁺¹⁾ᵀδ⁽ˡ⁺¹⁾) ⊙ f′(z⁽ˡ⁾); over a batch of rows ∂W = δᵀa, ∂b = Σₙδₙ. Then θ ← θ − η∇L
    (E11).
    """
    with _enable_all_gradients(model, batch.device):
        if has_manual_backward(model):
            layers, outputs = _backpropagate_manually(model, task, batch)
            method = "chain rule, layer by layer (E12)"
        else:
            layers, outputs = _backpropagate_by_autograd(model, task, batch)
            method = "automatic differentiation"
        before = float(task.losses(outputs, batch).mean())
        after = _compute_loss_after_step(model, task, batch, lr=lr, layers=layers)
        return BackpropSteps(layers, before, after, lr, method)


def has_manual_backward(model: nn.Module) -> bool:
    """Return whether this module implements the model's backward pass: an `nn.Sequential` of linear layers and
    activations with default arguments.

    PReLU needs autograd: it has a weight of its own.
    """

    def is_supported(module: nn.Module) -> bool:
        if type(module) in ACTIVATION_NAMES:  # other arguments change the derivative; in-place overwrites z
            return type(module) is not nn.PReLU and repr(module) == repr(ACTIVATIONS[ACTIVATION_NAMES[type(module)]]())
        return type(module) in (nn.Linear, nn.Flatten, nn.Dropout)

    return (
        isinstance(model, nn.Sequential) and any(type(m) is nn.Linear for m in model) and all(map(is_supported, model))
    )


@contextmanager
def _enable_all_gradients(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to evaluation mode with gradients for every floating-point parameter, and restore the model afterwards."""
    training, requires_grad = model.training, [p.requires_grad for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    model.eval()
    try:
        with torch.enable_grad(), rng.preserve_rng_state(device):
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            yield
    finally:
        model.train(training)
        for parameter, required, grad in zip(model.parameters(), requires_grad, grads, strict=True):
            parameter.requires_grad_(required)
            parameter.grad = grad


# -- by hand ---------------------------------------------------------------------------------------------------


@dataclass
class _LinearCall:
    """A call of a linear layer: its input, z and a, and the activations that follow, each with its input."""

    name: str
    linear: nn.Linear
    input: Tensor
    z: Tensor
    a: Tensor
    activations: list[tuple[str, Tensor]]


@torch.no_grad()
def _backpropagate_manually(model: nn.Module, task: Task, batch: Batch) -> tuple[list[LayerRecord], Tensor]:
    """Run steps 1 to 3 without autograd (E12)."""
    linear_calls = _run_forward(model, batch.input_tensor)
    outputs = linear_calls[-1].a
    gradient = compute_output_gradient(task, outputs, batch)  # ∂L/∂a of the last layer, (N, K)
    layers: list[LayerRecord] = []
    for layer in reversed(linear_calls):
        delta = gradient
        for name, z in reversed(layer.activations):
            delta = _backpropagate_activation(name, z, delta)  # ⊙ f′(z)
        grad_weight = delta.T @ layer.input  # ∂W = δᵀa, (H, D)
        has_bias = layer.linear.bias is not None
        grad_bias = delta.sum(0) if has_bias else None  # ∂b = Σₙ δₙ, (H,)
        gradient = delta @ layer.linear.weight  # Wᵀδ for the layer below, (N, D)
        layers.append(
            LayerRecord(
                layer.name,
                "Linear",
                " → ".join(name for name, _ in layer.activations) or "linear",
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


def _backpropagate_activation(name: str, z: Tensor, gradient: Tensor) -> Tensor:
    """Return ∂L/∂z from ∂L/∂a, a = f(z): times f′(z); for softmax, times its Jacobian."""
    if name == "softmax":
        return softmax_pullback(z.softmax(1), gradient)
    return gradient * derivative(name.replace("-", "_"), z)


def _run_forward(model: nn.Module, inputs: Tensor) -> list[_LinearCall]:
    """Run step 1, a⁽ˡ⁾ = f(W⁽ˡ⁾a⁽ˡ⁻¹⁾ + b⁽ˡ⁾), and store every z and a (E03)."""
    linear_calls: list[_LinearCall] = []
    x = inputs
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            z = torch.nn.functional.linear(x, module.weight, module.bias)  # (N, H)
            linear_calls.append(_LinearCall(name, module, x, z, z, []))
            x = z
        elif type(module) in ACTIVATION_NAMES:
            z, x = x, module(x)
            if linear_calls:  # an activation before the first linear layer changes no gradient
                linear_calls[-1].activations.append((ACTIVATION_NAMES[type(module)], z))
                linear_calls[-1].a = x
        else:
            x = module(x)  # flatten, or dropout, the identity in evaluation mode
    return linear_calls


def compute_output_gradient(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    """Return ∂L/∂outputs (N, K) of the mean loss.

    In closed form softmax(z) − onehot(y), σ(z) − y, 2(ŷ − y) or sign(ŷ − y), over N; for other losses by autograd.
    """
    count = len(batch)
    if isinstance(task, Classification) and batch.targets is not None and task.loss.is_cross_entropy:
        if outputs.shape[1] == 1:
            return (torch.sigmoid(outputs) - batch.target_tensor.to(outputs.dtype)[:, None]) / count
        return (outputs.softmax(1) - torch.nn.functional.one_hot(batch.target_tensor, outputs.shape[1])) / count
    if (
        isinstance(task, Regression)
        and task.loss != "huber"
        and batch.targets is not None
        and outputs.shape == batch.target_tensor.shape
    ):
        error = outputs - batch.target_tensor.to(outputs.dtype)
        return (2 * error if task.loss == "mse" else error.sign()) / count
    if isinstance(task, Reconstruction):
        return 2 * (outputs - batch.input_tensor.view_as(outputs)) / count
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(task.losses(leaf, batch).mean(), leaf)
    return gradient


# -- by autograd ---------------------------------------------------------------------------------------------------


def _backpropagate_by_autograd(model: nn.Module, task: Task, batch: Batch) -> tuple[list[LayerRecord], Tensor]:
    """Run steps 1 to 3 for any network: hooks store each call's input and output, autograd computes the gradients."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def record_call(traced: ModuleCall) -> None:
        if traced.inputs and traced.outputs:
            calls.append((traced.name, traced.module, traced.inputs[0], traced.outputs[0]))

    with trace_modules(model, record_call):
        outputs = call(model, batch.inputs)
    loss = task.losses(outputs, batch).mean()
    owners = [
        (name, module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    positions = {name: index for index, (name, *_) in reversed(list(enumerate(calls)))}
    owners.sort(key=lambda owner: positions.get(owner[0], len(calls)))
    parameters = [p for _, module in owners for p in module.parameters(recurse=False)]
    zs = [calls[positions[name]][3] for name, _ in owners if name in positions]
    tensors = [*parameters, *zs]
    grads = torch.autograd.grad(loss, tensors, allow_unused=True)
    gradients = {id(t): torch.zeros_like(t) if g is None else g for t, g in zip(tensors, grads, strict=True)}
    layers = [_record_layer(name, module, calls, positions.get(name), gradients) for name, module in owners]
    return layers, outputs.detach()


def _record_layer(
    name: str,
    module: nn.Module,
    calls: list[tuple[str, nn.Module, Tensor, Tensor]],
    index: int | None,
    gradients: dict[int, Tensor],
) -> LayerRecord:
    """Build a layer's record. Its weight is the first parameter with two or more axes, else the first parameter."""
    own = list(module.parameters(recurse=False))
    weight = next((p for p in own if p.ndim > 1), own[0])
    bias = getattr(module, "bias", None)
    bias = next((p for n, p in module.named_parameters(recurse=False) if n == "hidden_bias"), bias)
    named = module.named_parameters(recurse=False)
    extra_parameters = {n: (p.detach(), gradients[id(p)]) for n, p in named if p is not weight and p is not bias}
    layer_input = z = a = delta = None
    activation = "linear"
    if index is not None:
        _, _, layer_input, z = calls[index]
        delta, a = gradients[id(z)], z
        if index + 1 < len(calls):
            _, following, following_input, following_output = calls[index + 1]
            if type(following) in ACTIVATION_NAMES and following_input is z:
                activation, a = ACTIVATION_NAMES[type(following)], following_output
    layer_input, z, a, delta = (None if t is None else t.detach() for t in (layer_input, z, a, delta))
    return LayerRecord(
        name or "(the model)",
        type(module).__name__,
        activation,
        layer_input,
        z,
        a,
        delta,
        weight.detach(),
        None if bias is None else bias.detach(),
        gradients[id(weight)],
        None if bias is None else gradients[id(bias)],
        extra_parameters,
    )


# -- the update ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _compute_loss_after_step(
    model: nn.Module, task: Task, batch: Batch, *, lr: float, layers: list[LayerRecord]
) -> float:
    """Run step 4: return the mean loss at θ − η∇L (E11), without changing the model."""
    steps = {layer.weight.data_ptr(): layer.grad_weight for layer in layers}
    steps |= {la.bias.data_ptr(): la.grad_bias for la in layers if la.bias is not None and la.grad_bias is not None}
    steps |= {parameter.data_ptr(): grad for la in layers for parameter, grad in la.extra_parameters.values()}
    moved = {n: p - lr * steps[p.data_ptr()] if p.data_ptr() in steps else p for n, p in model.named_parameters()}
    loss = float(task.losses(functional_call(model, moved, (batch.inputs,)), batch).mean())
    return loss if math.isfinite(loss) else float("inf")
