"""Order and draws: pure functions of their parts, independent of batches, uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from layerwise.runtime import rng


@pytest.mark.parametrize("examples", [0, 1, 2, 1000])
def test_order_is_a_permutation_and_pure(examples: int) -> None:
    torch.manual_seed(1)
    first = rng.draw_order(examples, 5, "stage", 2)
    torch.manual_seed(2)
    torch.rand(10)
    assert torch.equal(first, rng.draw_order(examples, 5, "stage", 2))
    assert sorted(first.tolist()) == list(range(examples))


def test_order_differs_by_every_part() -> None:
    base = rng.draw_order(1000, 5, "stage", 2)
    for other in (
        rng.draw_order(1000, 6, "stage", 2),
        rng.draw_order(1000, 5, "next", 2),
        rng.draw_order(1000, 5, "stage", 3),
    ):
        assert (base == other).float().mean() < 0.02


def test_order_leaves_torchs_random_state_untouched() -> None:
    before = torch.get_rng_state()
    rng.draw_order(100, 1)
    rng.draw_uniform(torch.arange(10), 3, 1, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_keys_do_not_run_together() -> None:
    assert rng.derive_seed(1, 23) != rng.derive_seed(12, 3)
    assert all(0 <= rng.derive_seed(n) < 1 << 63 for n in range(100))
    assert len({rng.derive_seed(seed, epoch) for seed in range(100) for epoch in range(100)}) == 10_000


def test_a_draw_depends_on_its_example_alone() -> None:
    ids = torch.arange(500)
    draws = rng.draw_uniform(ids, 4, 7, 3)
    shuffled = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rng.draw_uniform(ids[shuffled], 4, 7, 3), draws[shuffled])
    for part in ids.split(33):
        assert torch.equal(rng.draw_uniform(part, 4, 7, 3), draws[part])
    assert not (rng.draw_uniform(ids, 4, 7, 4) == draws).any()
    assert not (rng.draw_uniform(ids, 4, 8, 3) == draws).any()


def test_draws_are_uniform_and_neighbors_unrelated() -> None:
    u = rng.draw_uniform(torch.arange(20_000), 5, 7, 3).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
    for column in u.T:
        counts, _ = np.histogram(column, bins=100, range=(0, 1))
        assert stats.chisquare(counts).pvalue > 1e-4
    pairs, _, _ = np.histogram2d(u[:-1, 0], u[1:, 0], bins=20, range=[[0, 1], [0, 1]])  # example to next example
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-4
    across, _, _ = np.histogram2d(u[:, 0], u[:, 1], bins=20, range=[[0, 1], [0, 1]])  # draw to next draw
    assert stats.chisquare(across.ravel()).pvalue > 1e-4
    later = rng.draw_uniform(torch.arange(20_000), 5, 7, 4).numpy()
    assert abs(np.corrcoef(u.ravel(), later.ravel())[0, 1]) < 5 / np.sqrt(u.size)


def test_seeded_and_untouched_put_the_state_back_even_after_an_error() -> None:
    def fail() -> None:
        with rng.use_seed(3):
            torch.rand(5)
            raise ValueError

    torch.manual_seed(9)
    want = torch.rand(3)
    torch.manual_seed(9)
    with pytest.raises(ValueError, match=r"^$"):
        fail()
    with rng.preserve_rng_state():
        torch.rand(100)
    assert torch.equal(torch.rand(3), want)


def test_states_are_taken_up_again() -> None:
    device = torch.device("cpu")
    saved = rng.get_states(device)
    want = torch.rand(4)
    rng.restore_states(saved, device)
    assert torch.equal(torch.rand(4), want)
