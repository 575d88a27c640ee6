"""E13: contrastive divergence against the plain computation with the same draws, and against exact likelihoods by
enumeration."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from rule_fixtures import context
from torch import Tensor

from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.functional.rbm import contrastive_statistics
from layerwise.kernels.bernoulli import bernoulli
from layerwise.models.boltzmann import FlatRBM
from layerwise.rules import registry
from layerwise.rules.contrastive import ContrastiveDivergence, ContrastiveOptions
from layerwise.runtime import rng


def machine(visible: int = 6, hidden: int = 4, seed: int = 0) -> FlatRBM:
    """Return a machine in float64 with weights that matter."""
    torch.manual_seed(seed)
    rbm = FlatRBM(visible, hidden).double()
    with torch.no_grad():
        for p in rbm.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return rbm


def binary(count: int, width: int, seed: int = 1) -> Batch:
    """Return random zeros and ones."""
    draw = torch.Generator().manual_seed(seed)
    return Batch(torch.randint(0, 2, (count, width), generator=draw).double(), None, torch.arange(count))


def uniforms(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    """Return the numbers that the rule's samples, call after call, are compared with: the documented hash, in Python's
    whole numbers."""
    key, out = rng.derive_seed("contrastive", seed, 0), []
    for call, shape in enumerate(shapes, start=1):
        z = (key + (call + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        z ^= z >> 31
        numbers = []
        for entry in range(shape[0] * shape[1]):
            x = entry * 0x9E3779B9 % 2**32 ^ z % 2**32
            x = ((x ^ x >> 16) * 0x7FEB352D + (z >> 32)) % 2**32
            x = (x ^ x >> 15) * 0x846CA68B % 2**32
            numbers.append((x ^ x >> 16) // 256 / 2**24)
        out.append(torch.tensor(numbers, dtype=torch.float64).view(shape))
    return out


def test_draws_are_fair_and_unrelated() -> None:
    """Of a million draws: the share of ones at several probabilities, and no correlation between calls, seeds and
    neighbors."""
    for p in (0.0, 0.01, 0.3, 0.5, 0.9, 1.0):
        share = float(bernoulli(torch.full((1000, 1000), p), seed=3, call=1).mean())
        assert abs(share - p) <= 5 * (p * (1 - p) / 1e6) ** 0.5
    half = torch.full((250_000,), 0.5)
    a, b, c = (bernoulli(half, seed=seed, call=call) * 2 - 1 for seed, call in ((3, 1), (3, 2), (4, 1)))
    for one, other in ((a, b), (a, c), (a[1:], a[:-1]), (a[64:], a[:-64])):
        assert abs(float((one * other).mean())) < 5 / 500


def rule(model: FlatRBM, size: int, **options: object) -> ContrastiveDivergence:
    """Return the rule over a machine."""
    return ContrastiveDivergence(context(model, batch_size=size, seed=7), ContrastiveOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 3])
def test_cd_equals_the_plain_computation_with_the_same_draws(k: int) -> None:
    """The oracle is `functional.boltzmann`, whose own oracle is a loop over units."""
    model, batch, n, d, h = machine(), binary(9, 6), 9, 6, 4
    before = copy.deepcopy(model)
    numbers = uniforms(7, *[(n, h), (n, d)] * k)
    positive, negative, _ = contrastive_statistics(
        batch.inputs,
        batch.inputs,
        weights=before.weight,
        visible_bias=before.visible_bias,
        hidden_bias=before.hidden_bias,
        draws=list(zip(numbers[::2], numbers[1::2], strict=True)),
    )
    rule(model, n, k=k, persistent=False, lr=0.3, final_lr_ratio=0.1, l2=0.02).step(batch, 0.25)
    rate = 0.3 * (1 - 0.9 * 0.25)
    decayed = before.weight * (1 - 2 * 0.02 * rate)
    torch.testing.assert_close(
        model.weight, decayed + rate * (positive.weights - negative.weights) / n, rtol=0, atol=1e-12
    )
    bias = before.visible_bias + rate * (positive.visible - negative.visible) / n
    torch.testing.assert_close(model.visible_bias, bias, rtol=0, atol=1e-12)
    bias = before.hidden_bias + rate * (positive.hidden - negative.hidden) / n
    torch.testing.assert_close(model.hidden_bias, bias, rtol=0, atol=1e-12)


def test_cd_1_equals_a_loop_over_examples_and_units() -> None:
    """Unit by unit in Python's floats."""
    model, batch, n, d, h = machine(), binary(3, 6), 3, 6, 4
    w, a, b = (p.detach().numpy().copy() for p in (model.weight, model.visible_bias, model.hidden_bias))
    for_hidden, for_visible = (u.numpy() for u in uniforms(7, (n, h), (n, d)))

    def sigma(x: float) -> float:
        return 1 / (1 + np.exp(-x))

    dw, da, db = np.zeros((h, d)), np.zeros(d), np.zeros(h)
    for i in range(n):
        v0 = batch.inputs[i].numpy()
        p0 = [sigma(b[j] + sum(w[j, m] * v0[m] for m in range(d))) for j in range(h)]
        h0 = [float(for_hidden[i, j] < p0[j]) for j in range(h)]
        v1 = [float(for_visible[i, m] < sigma(a[m] + sum(w[j, m] * h0[j] for j in range(h)))) for m in range(d)]
        p1 = [sigma(b[j] + sum(w[j, m] * v1[m] for m in range(d))) for j in range(h)]
        for j in range(h):
            db[j] += p0[j] - p1[j]
            for m in range(d):
                dw[j, m] += p0[j] * v0[m] - p1[j] * v1[m]
        da += v0 - np.array(v1)
    rule(model, n, k=1, persistent=False, lr=0.3, final_lr_ratio=1.0).step(batch, 0.5)
    for p, old, change in zip(
        (model.weight, model.visible_bias, model.hidden_bias), (w, a, b), (dw, da, db), strict=True
    ):
        np.testing.assert_allclose(p.detach().numpy(), old + 0.3 * change / n, atol=1e-12, rtol=0)


def test_persistent_chains_live_on() -> None:
    """Two steps of persistent CD-1: the second starts where the first ended, whatever the data are."""
    model, n, d, h = machine(), 5, 6, 4
    first, second = binary(n, d, 1), binary(n, d, 2)
    u = uniforms(7, (n, d), (n, h), (n, d), (n, h))
    contrastive = rule(model, n, k=1, persistent=True, lr=0.1, final_lr_ratio=1.0)
    chain = torch.zeros(n, h, dtype=torch.float64)
    for batch, (for_visible, for_hidden) in ((first, u[:2]), (second, u[2:])):
        old = copy.deepcopy(model)
        with torch.no_grad():
            v = (for_visible < old.visible(chain)).double()
            p = old.hidden(v)
            chain = (for_hidden < p).double()
            p0 = old.hidden(batch.inputs)
        contrastive.step(batch, 0.0)
        assert torch.equal(contrastive.chains[:n], chain)
        change = 0.1 * (p0.T @ batch.inputs - p.T @ v) / n
        torch.testing.assert_close(model.weight.detach(), old.weight + change, rtol=0, atol=1e-12)


def log_likelihood(model: FlatRBM, data: Tensor) -> float:
    """Return the mean log-likelihood: −F(v) − log Z with Z summed over every visible and every hidden state."""
    with torch.no_grad():
        v = torch.tensor(list(itertools.product((0.0, 1.0), repeat=model.visible_bias.shape[0])), dtype=torch.float64)
        h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=model.hidden_bias.shape[0])), dtype=torch.float64)
        energies = -(v @ model.visible_bias)[:, None] - (h @ model.hidden_bias)[None] - v @ model.weight.T @ h.T
        indices = (data @ (2.0 ** torch.arange(data.shape[1] - 1, -1, -1, dtype=torch.float64))).long()
        return float(((-energies).logsumexp(1)[indices] - (-energies).logsumexp((0, 1))).mean())


@pytest.mark.parametrize("persistent", [False, True])
def test_training_raises_the_exact_likelihood(persistent: bool) -> None:
    """Bars of a 2 × 4 grid: from a uniform model's −8 log 2 towards the data's entropy, monotone over long
    stretches."""
    rows = [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 1]]
    data = torch.tensor(rows, dtype=torch.float64).repeat(8, 1)
    torch.manual_seed(0)
    model = FlatRBM(8, 6).double()
    contrastive = rule(model, 32, persistent=persistent, lr=0.3, final_lr_ratio=0.1)
    likelihoods = [log_likelihood(model, data)]
    for epoch in range(4):
        for step in range(200):
            contrastive.step(Batch(data, None, torch.arange(32)), (epoch * 200 + step) / 800)
        likelihoods.append(log_likelihood(model, data))
    assert likelihoods[0] == pytest.approx(-8 * np.log(2), abs=0.01)
    assert likelihoods[-1] > -np.log(4) - 0.6  # the best any model can do is −log 4
    assert likelihoods[0] < likelihoods[2] < likelihoods[-1]


def test_exact_direction_is_the_likelihoods_gradient() -> None:
    """Averaged over many draws, CD with long chains points along ∂(log-likelihood)/∂W, computed by autograd on the
    enumeration."""
    model, n = machine(3, 2), 4000
    data = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    v = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    likelihood = -model.free_energy(data).mean() - (-model.free_energy(v)).logsumexp(0)
    exact = torch.autograd.grad(likelihood, [model.weight, model.visible_bias, model.hidden_bias])
    before = [p.detach().clone() for p in (model.weight, model.visible_bias, model.hidden_bias)]
    contrastive = rule(model, n, k=40, persistent=False, lr=1.0, final_lr_ratio=1.0)
    contrastive.step(Batch(data.repeat(n // 4, 1), None, torch.arange(n)), 0.0)
    for p, old, g in zip((model.weight, model.visible_bias, model.hidden_bias), before, exact, strict=True):
        torch.testing.assert_close(p.detach() - old, g, rtol=0, atol=0.04)  # noise: 1 / (2 √4000) = 0.008


@pytest.mark.parametrize("persistent", [False, True])
def test_state_taken_up_goes_on_exactly(persistent: bool) -> None:
    model = machine()
    contrastive = rule(model, 5, persistent=persistent)
    for seed in range(3):
        contrastive.step(binary(5, 6, seed), 0.1)
    twin = copy.deepcopy(model)
    other = rule(twin, 5, persistent=persistent)
    other.load_state_dict({n: t.clone() for n, t in contrastive.state_dict().items()})
    for seed in range(3, 6):
        contrastive.step(binary(4, 6, seed), 0.2)
        other.step(binary(4, 6, seed), 0.2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_other_networks_and_no_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="restricted Boltzmann machines"):
        ContrastiveDivergence(context(torch.nn.Linear(3, 2), batch_size=2), ContrastiveOptions())
    with pytest.raises(UsageError, match="expected: a whole number >= 1"):
        registry.resolve_rule({"name": "contrastive", "k": 0}, "a stage's rule")
