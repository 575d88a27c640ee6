"""Small layers: activations by name, vectors for categories, and reproducible adaptive mean pooling.

Activations are torch's own (softmax with its axis fixed); tests hold them equal to `layerwise.functional.activations`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.errors import make_unknown_name_error

MAX_WIDTH = 50


class Softmax(nn.Module):
    """Softmax over units (E04): inputs (N, K), or over the maps at each pixel: (N, C, H, W). Has no weights."""

    def forward(self, z: Tensor) -> Tensor:
        """Return e^{zᵢ}/Σⱼ e^{zⱼ} along axis 1, in z's shape."""
        return z.softmax(1)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softmax": Softmax,
    "linear": nn.Identity,
    "leaky-relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


def make_activation(name: str) -> nn.Module:
    """Return the activation of this name (E04, E05), or raise `UsageError` with the nearest.

    ``prelu`` has one learned slope for the whole layer, initially ¼ (He et al., 2015); penalties on weights exclude it.
    """
    if name not in ACTIVATIONS:
        raise make_unknown_name_error("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def embedding_width(rows: int) -> int:
    """Return the length of a category's vectors: half the number of its values, at most 50."""
    return min(MAX_WIDTH, (rows + 1) // 2)


class CategoryEmbedding(nn.Module):
    """Replaces category numbers by vectors: inputs (N, F + K), whose last K columns are category numbers, to (N, F + Σ
    widths).

    ``rows``: the number of vectors of each of the K categories. Number 0, for values unseen in training, stays the zero
    vector. C. Guo, F. Berkhahn, Entity embeddings of categorical variables, arXiv 1604.06737 (2016).
    """

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__()
        self._width = sum(embedding_width(count) for count in rows)
        self.tables = nn.ModuleList(nn.Embedding(count, embedding_width(count), padding_idx=0) for count in rows)

    @property
    def width(self) -> int:
        """The sum of the vectors' lengths."""
        return self._width

    def forward(self, inputs: Tensor) -> Tensor:
        """Look up the vector of every category."""
        count = len(self.tables)
        numbers = inputs[:, -count:].long()
        vectors = [table(numbers[:, at]) for at, table in enumerate(self.tables)]
        return torch.cat([inputs[:, :-count], *vectors], 1)


class AdaptiveMean(nn.AdaptiveAvgPool2d):
    """The means of the windows ⌊i·H/p⌋ … ⌈(i + 1)·H/p⌉ − 1 of rows, and likewise of columns: (N, C, H, W) to (N, C, p,
    p), for any H and W.

    On CUDA torch's own kernel adds its gradients in an arbitrary order, which ``train.deterministic`` forbids. There
    the same means are two matrix products, P x Qᵀ, with a fixed order.
    """

    def __init__(self, grid: int) -> None:
        super().__init__(grid)
        self.grid = grid

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, grid, grid)."""
        if input.is_cuda and torch.are_deterministic_algorithms_enabled():
            rows, columns = (make_mean_matrix(side, self.grid).to(input) for side in input.shape[2:])
            return rows @ input @ columns.T
        return F.adaptive_avg_pool2d(input, self.output_size)


def make_mean_matrix(inputs: int, outputs: int) -> Tensor:
    """Return the matrix P (outputs, inputs), float64, that averages each window of adaptive pooling along one axis."""
    window, index = torch.arange(outputs)[:, None], torch.arange(inputs)[None]
    inside = (index >= window * inputs // outputs) & (index < -(-(window + 1) * inputs // outputs))
    return inside / inside.sum(1, keepdim=True, dtype=torch.float64)
