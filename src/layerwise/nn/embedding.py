"""Vectors for categories."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 50


def width_of(rows: int) -> int:
    """Return how long the vectors of a category are: half as many numbers as it has values, 50 at most."""
    return min(LARGEST, (rows + 1) // 2)


class CategoryEmbedding(nn.Module):
    """Puts vectors in the place of categories' numbers: inputs (N, F + K), whose last K are numbers of categories, to
    (N, F + Σ widths).

    ``rows``: how many vectors each of the K categories has. Number 0, a value that training never had, is the zero
    vector and stays so. C. Guo, F. Berkhahn, Entity embeddings of categorical variables, arXiv 1604.06737 (2016).
    """

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__()
        self._width = sum(width_of(count) for count in rows)
        self.tables = nn.ModuleList(nn.Embedding(count, width_of(count), padding_idx=0) for count in rows)

    @property
    def width(self) -> int:
        """The sum of the vectors' lengths."""
        return self._width

    def forward(self, inputs: Tensor) -> Tensor:
        """Look every category's vector up."""
        count = len(self.tables)
        numbers = inputs[:, -count:].long()
        vectors = [table(numbers[:, at]) for at, table in enumerate(self.tables)]
        return torch.cat([inputs[:, :-count], *vectors], 1)
