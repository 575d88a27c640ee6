"""E18 against loops in float64, and torch's modules against E18, in training and at inference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from layerwise.functional.batch_norm import Moments, batch_moments, normalize, update_running_moments

SHAPES = [(6, 3), (4, 3, 5, 2)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


def by_loops(x: Tensor, weight: list[float], bias: list[float], eps: float) -> tuple[Tensor, list[float], list[float]]:
    """Each channel's mean and variance by sums in Python, then (x−μ)/√(σ²+ε)·γ + β one value after the other."""
    y, means, variances = x.clone(), [], []
    for c in range(x.shape[1]):
        values = x[:, c].reshape(-1).tolist()
        mean = math.fsum(values) / len(values)
        squares = math.fsum((v - mean) ** 2 for v in values)
        found = [(v - mean) / math.sqrt(squares / len(values) + eps) * weight[c] + bias[c] for v in values]
        y[:, c] = torch.tensor(found, dtype=torch.float64).view(x[:, c].shape)
        means.append(mean)
        variances.append(squares / (len(values) - 1))
    return y, means, variances


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_is_the_formula_and_torchs_module(shape: tuple[int, ...]) -> None:
    x, weight, bias = drawn(*shape), [0.5, 2.0, -1.0], [0.0, 1.0, 3.0]
    want, means, variances = by_loops(x, weight, bias, 1e-5)
    gamma, beta = (torch.tensor(v, dtype=torch.float64) for v in (weight, bias))
    torch.testing.assert_close(normalize(x, batch_moments(x), weight=gamma, bias=beta), want, rtol=1e-12, atol=1e-12)
    module = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3).double()
    with torch.no_grad():
        module.weight.copy_(gamma)
        module.bias.copy_(beta)
    torch.testing.assert_close(module(x), want, rtol=1e-12, atol=1e-12)
    # running statistics: 0.9 of the old (0 and 1), 0.1 of the batch's, the variance unbiased
    moments = update_running_moments(
        Moments(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)), x
    )
    for mean, variance in (moments, (module.running_mean, module.running_var)):
        assert mean is not None
        assert variance is not None
        assert mean.tolist() == pytest.approx([0.1 * m for m in means], rel=1e-12)
        assert variance.tolist() == pytest.approx([0.9 + 0.1 * v for v in variances], rel=1e-12)


def test_inference_uses_the_running_statistics() -> None:
    x, moments = drawn(5, 3, 4, 4), Moments(drawn(3, seed=1), drawn(3, seed=2).abs())
    module = nn.BatchNorm2d(3).double().eval()
    module.running_mean, module.running_var = moments
    ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    got = normalize(x, moments, weight=ones, bias=zeros)
    torch.testing.assert_close(got, module(x), rtol=1e-12, atol=1e-12)
    one = (float(x[2, 1, 0, 3]) - float(moments.mean[1])) / math.sqrt(float(moments.variance[1]) + 1e-5)
    assert float(got[2, 1, 0, 3]) == pytest.approx(one, rel=1e-12)
