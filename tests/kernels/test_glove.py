"""GloVe's compiled step against loops in float64, against autograd of E31, and against other ways to split it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.errors import UsageError
from layerwise.functional import word_vectors as formula
from layerwise.kernels.text import glove
from layerwise.kernels.text.glove import Tables

V = 11


def made(width: int, *, seed: int = 0, scale: float = 0.5) -> tuple[Tables, Tables]:
    """Parameters and sums of squares."""
    draw = np.random.default_rng(seed)
    shapes = [(V, width), (V, width), (V,), (V,)]
    parameters = Tables(*[(scale * draw.standard_normal(shape)).astype(np.float32) for shape in shapes])
    return parameters, Tables(*[np.ones(shape, dtype=np.float32) for shape in shapes])


def drawn(count: int, *, seed: int = 1) -> np.ndarray:
    """Records whose counts lie on both sides of x_max = 100."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, V, (count, 2))
    return np.column_stack([ids, np.exp(draw.uniform(-3, 7, count))]).astype(np.float32)


def by_hand(
    records: np.ndarray, parameters: Tables, squares: Tables, *, x_max: float, alpha: float, lr: float
) -> tuple[list, float]:
    """The rule as it is written, in float64, number by number."""
    W, C, b, c, W2, C2, b2, c2 = tables = [one.astype(np.float64) for one in (*parameters, *squares)]
    total = 0.0

    def step(array: np.ndarray, at: tuple[int, ...], gradient: float, sums: np.ndarray) -> None:
        move = lr * max(-100.0, min(100.0, gradient))
        array[at] -= move / np.sqrt(sums[at])
        sums[at] += move**2

    for i, j, x in records.astype(np.float64):
        i, j = int(i), int(j)
        if x == 0:
            continue
        diff = sum(w * v for w, v in zip(W[i], C[j], strict=True)) + b[i] + c[j] - np.log(x)
        slope = min(1.0, (x / x_max) ** alpha) * diff
        total += slope * diff
        before = W[i].copy(), C[j].copy()
        for d in range(W.shape[1]):
            step(W, (i, d), slope * before[1][d], W2)
            step(C, (j, d), slope * before[0][d], C2)
        step(b, (i,), slope, b2)
        step(c, (j,), slope, c2)
    return tables, total


@pytest.mark.parametrize("width", [1, 7, 8, 37, 100])
@pytest.mark.parametrize(("x_max", "alpha", "lr"), [(100.0, 0.75, 0.05), (10.0, 0.5, 0.1)])
def test_it_is_the_rule(width: int, x_max: float, alpha: float, lr: float) -> None:
    records = drawn(60)
    records[17, 2] = 0.0  # fills a block up
    parameters, squares = made(width, scale=0.5 / width**0.5)
    want, total = by_hand(records, parameters, squares, x_max=x_max, alpha=alpha, lr=lr)
    loss = glove.update(records, parameters, squares, x_max=x_max, alpha=alpha, lr=lr, threads=1)
    assert loss == pytest.approx(total, rel=1e-5)
    for got, wanted in zip((*parameters, *squares), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("large", ["vectors", "context"])
def test_one_large_row_is_enough_to_clip_the_other(large: str) -> None:
    records = np.array([[0, 1, 1e6]], dtype=np.float32)
    parameters, squares = made(5, scale=0.01)
    getattr(parameters, large)[:] = 300.0
    want, _ = by_hand(records, parameters, squares, x_max=100.0, alpha=0.75, lr=0.05)
    other = want[5][1] if large == "vectors" else want[4][0]
    assert (other == 26.0).all()  # as below
    glove.update(records, parameters, squares, threads=1)
    for got, wanted in zip((*parameters, *squares), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_large_gradients_are_clipped() -> None:
    records = np.array([[0, 1, 1e6]], dtype=np.float32)
    parameters, squares = made(5, scale=300.0)
    want, _ = by_hand(records, parameters, squares, x_max=100.0, alpha=0.75, lr=0.05)
    assert (want[4][0] == 26.0).all()  # 1 + (0.05 · 100)²: each of them was
    glove.update(records, parameters, squares, threads=1)
    for got, wanted in zip((*parameters, *squares), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_first_step_follows_the_gradient_of_half_the_formula() -> None:
    """From sums of 1, with each word once, a step is −η times the gradient of J/2."""
    order = np.random.default_rng(3).permutation(V)
    records = np.column_stack([np.arange(V), order, drawn(V)[:, 2]]).astype(np.float32)
    parameters, squares = made(9)
    leaves = {
        name: torch.tensor(array, dtype=torch.double, requires_grad=True)
        for name, array in parameters._asdict().items()
    }
    i, j, x = (torch.tensor(column) for column in records.T)
    total = formula.glove_loss(i.long(), j.long(), x.double(), **leaves).sum()
    (total / 2).backward()
    loss = glove.update(records, parameters, squares, lr=1e-3, threads=1)
    assert loss == pytest.approx(float(total.detach()), rel=1e-6)
    for array, leaf in zip(parameters, leaves.values(), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(array - leaf.detach().numpy(), -1e-3 * leaf.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_threads_learn_their_own_words_as_one_does() -> None:
    """Two runs of records that share no word: any number of threads gives the bits that one gives."""
    records = drawn(400)
    records[:200, :2] %= 5
    records[200:, :2] = 5 + records[200:, :2] % 6
    found = []
    for threads in (1, 2):
        parameters, squares = made(20)
        found.append((glove.update(records, parameters, squares, threads=threads), *parameters, *squares))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_array_equal(one, two)


def test_many_threads_on_the_same_words_reach_the_loss_of_one() -> None:
    records, ends = drawn(400), []
    for threads in (1, 5):
        parameters, squares = made(20)
        losses = [glove.update(records, parameters, squares, threads=threads) for _ in range(30)]
        ends.append(losses[-1])
        assert losses[-1] < 0.5 * losses[0]
    assert ends[1] == pytest.approx(ends[0], rel=0.3)


def test_no_records_change_nothing() -> None:
    parameters, squares = made(4)
    before = [one.copy() for one in (*parameters, *squares)]
    assert glove.update(drawn(0), parameters, squares, threads=3) == 0.0
    for one, two in zip((*parameters, *squares), before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_loss_that_is_no_number_is_told() -> None:
    parameters, squares = made(4)
    parameters.vectors[0, 2] = np.nan
    assert np.isnan(glove.update(np.array([[0, 1, 5]], dtype=np.float32), parameters, squares, threads=1))


@pytest.mark.parametrize("broken", ["records", "vectors", "bias", "squares"])
def test_arrays_that_do_not_fit_are_refused(broken: str) -> None:
    parameters, squares = made(6)
    records = drawn(4)
    if broken == "records":
        records = np.asfortranarray(records)
    elif broken == "squares":
        squares = squares._replace(context=squares.context[:-1])
    else:
        parameters = parameters._replace(**{broken: getattr(parameters, broken).astype(np.float64)})
    with pytest.raises(UsageError, match=f"cannot take .*{broken}") as caught:
        glove.update(records, parameters, squares)
    assert "C-contiguous" in str(caught.value)


@pytest.mark.parametrize("record", [(V, 0, 1), (0, V, 1), (-1, 0, 1), (0, 0, -1), (np.nan, 0, 1), (0, 0, np.nan)])
def test_records_that_are_none_are_refused(record: tuple[float, float, float]) -> None:
    records = np.vstack([drawn(3), np.array([record], dtype=np.float32)]).astype(np.float32)
    with pytest.raises(UsageError, match="co-occurrence 3 is none"):
        glove.update(records, *made(6))
