"""E12: the procedure equals finite differences and autograd; E11: its step is one of gradient descent."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from layerwise import registry
from layerwise.data.batch import Batch
from layerwise.data.source import ArraySource, Schema, Splits
from layerwise.data.values import call
from layerwise.errors import UsageError
from layerwise.inspection import render_view
from layerwise.inspection.backprop_steps import has_manual_backward, run_backprop
from layerwise.inspection.base import Target
from layerwise.models.boltzmann import dbn, rbm
from layerwise.models.convolutional import cnn
from layerwise.models.feedforward import mlp
from layerwise.nn.layers import ACTIVATIONS
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression

KINDS = ("classes", "binary", "mse", "mae", "reconstruction")


pytestmark = pytest.mark.usefixtures("one_thread")


def rows(kind: str) -> ArraySource:
    inputs = np.random.default_rng(0).normal(size=(9, 4))
    if kind in ("mse", "mae"):
        return ArraySource(Schema("row", (4,), "number", (), tuple("abcd")), inputs, inputs.sum(1), "r")
    classes = ("a", "b") if kind == "binary" else ("a", "b", "c")
    return ArraySource(Schema("row", (4,), "class", classes, tuple("abcd")), inputs, np.arange(9) % len(classes), "r")


def task_of(kind: str) -> Task:
    if kind in ("mse", "mae"):
        return Regression.prepare(rows(kind), Regression.Options(loss=kind))  # type: ignore[arg-type]
    if kind == "reconstruction":
        return Reconstruction.prepare(rows(kind), Reconstruction.Options())
    return Classification.prepare(rows(kind), Classification.Options())


def batch_of(task: Task, source: ArraySource) -> Batch:
    return task.collate(source.fetch(range(len(source)))).to(torch.device("cpu"), torch.float64)


def differences(model: nn.Module, task: Task, batch: Batch) -> dict[str, torch.Tensor]:
    """Central differences of the mean loss by every parameter: an oracle without any derivative."""
    model = copy.deepcopy(model).eval()
    out = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            found = torch.zeros_like(parameter)
            for i in range(parameter.numel()):
                values = []
                for step in (1e-5, -1e-5):
                    parameter.view(-1)[i] += step
                    values.append(float(task.losses(call(model, batch.inputs), batch).mean()))
                    parameter.view(-1)[i] -= step
                found.view(-1)[i] = (values[0] - values[1]) / 2e-5
            out[name] = found
    return out


def gradients(model: nn.Module, task: Task, batch: Batch) -> dict[str, torch.Tensor]:
    found = {}
    for layer in run_backprop(model, task, batch, lr=0.1).layers:
        prefix = "" if layer.name == "(the model)" else f"{layer.name}."
        for name, parameter in model.named_parameters():
            if name.startswith(prefix) and parameter.data_ptr() == layer.weight.data_ptr():
                found[name] = layer.grad_weight
            if layer.bias is not None and layer.grad_bias is not None and parameter.data_ptr() == layer.bias.data_ptr():
                found[name] = layer.grad_bias
        found |= {f"{prefix}{name}": gradient for name, (_, gradient) in layer.extra_parameters.items()}
    return found


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_chain_rule_equals_finite_differences(activation: str) -> None:
    torch.manual_seed(3)
    task, source = task_of("classes"), rows("classes")
    model = mlp(features=4, outputs=3, hidden=(5, 4), activation=activation, dropout=0.3).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # biases too: at z = 0 relu has a kink and no difference quotient
    assert has_manual_backward(model) is (activation != "prelu")  # whose slope is a weight: autograd's
    batch = batch_of(task, source)
    computed, naive = gradients(model, task, batch), differences(model, task, batch)
    assert computed.keys() == naive.keys()
    for name in naive:
        torch.testing.assert_close(computed[name], naive[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_has_its_output_gradient(kind: str) -> None:
    torch.manual_seed(4)
    task, source = task_of(kind), rows(kind)
    outputs = {"classes": 3, "binary": 1, "reconstruction": 4}.get(kind, 1)
    model = mlp(features=4, outputs=outputs, hidden=(6,), activation="tanh").double()
    batch = batch_of(task, source)
    computed, naive = gradients(model, task, batch), differences(model, task, batch)
    for name in naive:
        torch.testing.assert_close(computed[name], naive[name], atol=1e-6, rtol=1e-6)


def test_z_a_delta_equal_autograd() -> None:
    torch.manual_seed(5)
    task, source = task_of("classes"), rows("classes")
    model = mlp(features=4, outputs=3, hidden=(5,), activation="sigmoid").double()
    batch = batch_of(task, source)
    first, second = run_backprop(model, task, batch, lr=0.1).layers
    z1 = model[1](batch.inputs)
    a1 = torch.sigmoid(z1)
    z2 = model[3](a1)
    loss = task.losses(z2, batch).mean()
    d1, d2 = torch.autograd.grad(loss, (z1, z2))
    for computed, expected in (
        (first.z, z1),
        (first.a, a1),
        (first.delta, d1),
        (second.z, z2),
        (second.a, z2),
        (second.delta, d2),
    ):
        assert computed is not None
        torch.testing.assert_close(computed, expected.detach(), atol=1e-12, rtol=1e-12)


def test_the_update_is_one_step_of_gradient_descent() -> None:
    torch.manual_seed(6)
    task, source = task_of("classes"), rows("classes")
    model = mlp(features=4, outputs=3).double()
    batch = batch_of(task, source)
    found = run_backprop(model, task, batch, lr=0.05)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    before = task.losses(twin(batch.inputs), batch).mean()
    before.backward()
    optimizer.step()
    assert found.loss == pytest.approx(float(before.detach()), abs=1e-12)
    assert found.loss_after == pytest.approx(float(task.losses(twin(batch.inputs), batch).mean().detach()), abs=1e-12)


def test_other_networks_go_by_autograd_and_equal_finite_differences() -> None:
    torch.manual_seed(7)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), dtype=np.uint8)
    source = ArraySource(Schema("image", (6, 6, 1), "class", ("a", "b")), pixels, np.arange(4) % 2, "p")
    task = Classification.prepare(source, Classification.Options())
    batch = batch_of(task, source)
    model = cnn(outputs=2, size=(6, 6), widths=(2,), dense=(3,), batch_norm=True, activation="tanh").double()
    assert not has_manual_backward(model)
    found = run_backprop(model, task, batch, lr=0.1)
    assert [layer.name for layer in found.layers] == ["features.0", "features.1", "classifier.0", "classifier.2"]
    assert [layer.activation for layer in found.layers] == ["linear", "tanh", "tanh", "linear"]
    computed, naive = gradients(model, task, batch), differences(model, task, batch)
    assert computed.keys() == naive.keys()
    for name in naive:
        torch.testing.assert_close(computed[name], naive[name], atol=1e-6, rtol=1e-6)


def test_boltzmann_machines_have_gradients_too() -> None:
    torch.manual_seed(8)
    task, source = task_of("classes"), rows("classes")
    found = run_backprop(dbn(features=4, classes=3, hidden=(5,)).double(), task, batch_of(task, source), lr=0.1)
    assert [layer.name for layer in found.layers] == ["head", "rbms.0"] or found.layers[-1].z is None
    rebuilt = task_of("reconstruction")
    machine, batch = rbm(features=4, hidden=3).double(), batch_of(rebuilt, rows("reconstruction"))
    computed, naive = gradients(machine, rebuilt, batch), differences(machine, rebuilt, batch)
    assert computed.keys() == naive.keys()
    for name in naive:
        torch.testing.assert_close(computed[name], naive[name], atol=1e-6, rtol=1e-6)
    found = run_backprop(machine, rebuilt, batch, lr=0.1)
    assert found.layers[0].grad_weight.shape == (3, 4)
    assert found.loss_after < found.loss


def test_the_model_is_left_as_it_was() -> None:
    task, source = task_of("classes"), rows("classes")
    model = mlp(features=4, outputs=3, batch_norm=True).double().train()
    model[1].weight.requires_grad_(False)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    run_backprop(model, task, batch_of(task, source), lr=0.1)
    assert model.training
    assert not model[1].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


def test_view_gives_json_arrays_and_a_figure(tmp_path: Path) -> None:
    source = rows("classes")
    target = Target(
        spec=registry.find("mlp"),
        model=mlp(features=4, outputs=3, hidden=(5,)),
        task=task_of("classes"),
        splits=Splits(source, source, source, "r"),
        examples=6,
    )
    view = render_view("gradients", target, out=tmp_path / "g")
    layer = view.data["layers"][0]
    assert layer["dW"]["shape"] == [5, 4]
    assert layer["z"]["shape"] == [6, 5]
    arrays = safetensors.torch.load((tmp_path / "g" / "gradients.safetensors").read_bytes())
    # ∂W = δᵀ a and ∂b = Σ δ, from the saved arrays alone
    torch.testing.assert_close(arrays["1.dW"], arrays["1.delta"].T @ arrays["inputs"])
    torch.testing.assert_close(arrays["3.db"], arrays["3.delta"].sum(0))
    assert float(arrays["1.a"].eq(0).double().mean()) == layer["a"]["zeros"]
    assert [p.name for p in view.figures] == ["gradients.svg", "gradients.safetensors"]
    assert "4 update" in view.text


def test_a_model_by_itself_must_be_trained_first() -> None:
    with pytest.raises(UsageError, match="the view 'gradients' needs a run"):
        render_view("gradients", Target(spec=registry.find("mlp")))
