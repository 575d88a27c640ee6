"""Mean pooling to a given number of places as two matrix products, beside torch's kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from layerwise.nn.layers import AdaptiveMean, make_mean_matrix


@pytest.mark.parametrize("places", [1, 2, 6, 7])
@pytest.mark.parametrize("side", [1, 3, 6, 7, 13, 14])
def test_the_matrices_take_the_means_that_torch_takes(side: int, places: int) -> None:
    x = torch.randn(2, 3, side, side + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = make_mean_matrix(side, places) @ x @ make_mean_matrix(side + 2, places).T
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, places), rtol=0, atol=1e-12)


def test_elsewhere_torchs_own_kernel_is_used_and_there_is_nothing_to_save() -> None:
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(AdaptiveMean(4)(x), F.adaptive_avg_pool2d(x, 4))
    assert not AdaptiveMean(4).state_dict()
