"""E13 by enumeration of every state of a small machine, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from layerwise.functional import rbm

D, H = 4, 3


@pytest.fixture
def machine() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    shapes: dict[str, tuple[int, ...]] = {"weights": (H, D), "visible_bias": (D,), "hidden_bias": (H,)}
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}


def states(units: int) -> list[tuple[int, ...]]:
    return list(itertools.product([0, 1], repeat=units))


def energy_by_hand(v: tuple[int, ...], h: tuple[int, ...], machine: dict[str, torch.Tensor]) -> float:
    W, a, b = (machine[name].tolist() for name in ("weights", "visible_bias", "hidden_bias"))
    pairs = sum(v[i] * W[j][i] * h[j] for i in range(D) for j in range(H))
    return -sum(a[i] * v[i] for i in range(D)) - sum(b[j] * h[j] for j in range(H)) - pairs


def rows(states: list[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor(states, dtype=torch.float64)


def close(got: torch.Tensor, want: Any) -> None:
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_energy_of_every_state(machine: dict[str, torch.Tensor]) -> None:
    pairs = list(itertools.product(states(D), states(H)))
    got = rbm.rbm_energy(rows([v for v, _ in pairs]), rows([h for _, h in pairs]), **machine)
    close(got, [energy_by_hand(v, h, machine) for v, h in pairs])


def test_free_energy_sums_over_every_hidden_state(machine: dict[str, torch.Tensor]) -> None:
    want = [-math.log(sum(math.exp(-energy_by_hand(v, h, machine)) for h in states(H))) for v in states(D)]
    close(rbm.free_energy(rows(states(D)), **machine), want)


def test_conditionals_are_ratios_of_sums(machine: dict[str, torch.Tensor]) -> None:
    W, a, b = machine["weights"], machine["visible_bias"], machine["hidden_bias"]
    mass = {(v, h): math.exp(-energy_by_hand(v, h, machine)) for v in states(D) for h in states(H)}
    hidden = [
        [sum(mass[v, h] for h in states(H) if h[j]) / sum(mass[v, h] for h in states(H)) for j in range(H)]
        for v in states(D)
    ]
    visible = [
        [sum(mass[v, h] for v in states(D) if v[i]) / sum(mass[v, h] for v in states(D)) for i in range(D)]
        for h in states(H)
    ]
    close(rbm.hidden_probability(rows(states(D)), weights=W, hidden_bias=b), hidden)
    close(rbm.visible_probability(rows(states(H)), weights=W, visible_bias=a), visible)
    one = rbm.visible_probability(rows(states(H))[3], weights=W, visible_bias=a)
    close(one, visible[3])


def test_exact_likelihood_gradient_is_the_difference_of_statistics(machine: dict[str, torch.Tensor]) -> None:
    """⟨·⟩ of the data minus ⟨·⟩ of the model, by enumeration, is d log p(v): what CD approximates."""
    leaves = {name: value.clone().requires_grad_() for name, value in machine.items()}
    data, every = rows([(1, 0, 1, 1), (0, 0, 1, 0)]), rows(states(D))
    free = rbm.free_energy(every, **leaves)
    likelihood = -rbm.free_energy(data, **leaves).sum() - len(data) * torch.logsumexp(-free, 0)
    gradients = torch.autograd.grad(likelihood, list(leaves.values()))
    hidden = {"weights": machine["weights"], "hidden_bias": machine["hidden_bias"]}
    positive = rbm.statistics(data, rbm.hidden_probability(data, **hidden))
    p = torch.softmax(-free.detach(), 0)[:, None]
    h = rbm.hidden_probability(every, **hidden)
    negative = rbm.Statistics(h.T @ (p * every), (p * every).sum(0), (p * h).sum(0))
    for gradient, plus, minus in zip(gradients, positive, negative, strict=True):
        torch.testing.assert_close(gradient, plus - len(data) * minus)


def test_contrastive_statistics_follow_the_draws_by_hand(machine: dict[str, torch.Tensor]) -> None:
    draw = torch.Generator().manual_seed(11)
    v = rows([(1, 0, 1, 1), (0, 1, 1, 0), (0, 0, 0, 1)])
    draws = [
        (
            torch.rand(3, H, generator=draw, dtype=torch.float64),
            torch.rand(3, D, generator=draw, dtype=torch.float64),
        )
        for _ in range(2)
    ]
    positive, negative, chain = rbm.contrastive_statistics(v, v, draws=draws, **machine)
    W, a, b = (machine[name].tolist() for name in ("weights", "visible_bias", "hidden_bias"))

    def p_hidden(row: list[float]) -> list[float]:
        return [1 / (1 + math.exp(-b[j] - sum(W[j][i] * row[i] for i in range(D)))) for j in range(H)]

    def p_visible(row: list[float]) -> list[float]:
        return [1 / (1 + math.exp(-a[i] - sum(W[j][i] * row[j] for j in range(H)))) for i in range(D)]

    ended = []
    for n, row in enumerate(v.tolist()):
        for for_h, for_v in draws:
            h = [float(u < p) for u, p in zip(for_h[n].tolist(), p_hidden(row), strict=True)]
            row = [float(u < p) for u, p in zip(for_v[n].tolist(), p_visible(h), strict=True)]
        ended.append(row)
    close(chain, ended)
    for got, visible in ((positive, v.tolist()), (negative, ended)):
        hidden = [p_hidden(row) for row in visible]
        close(
            got.weights,
            [[sum(h[j] * x[i] for h, x in zip(hidden, visible, strict=True)) for i in range(D)] for j in range(H)],
        )
        close(got.visible, [sum(x[i] for x in visible) for i in range(D)])
        close(got.hidden, [sum(h[j] for h in hidden) for j in range(H)])
