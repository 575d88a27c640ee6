"""The orthogonal map between two clouds of points of which pairs are known.

``N`` pairs, ``D`` dimensions. P. H. Schönemann, A generalized solution of the orthogonal Procrustes problem,
Psychometrika 31 (1966); for word vectors C. Xing et al., NAACL 2015, and S. Smith et al., ICLR 2017. The one idea: a
map that only turns and mirrors keeps every angle within a language.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def procrustes(x: NDArray[np.floating], y: NDArray[np.floating]) -> Doubles:
    """Return the orthogonal W (D, D) that makes ‖X W − Y‖ smallest: W = U Vᵀ with U Σ Vᵀ = XᵀY, in float64.

    Args:
        x, y: points (N, D), row i of one belonging to row i of the other.

    Raises `ValueError` for other shapes.
    """
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"pairs of points need two equal shapes (N, D), received {x.shape} and {y.shape}")
    u, _, vt = np.linalg.svd(x.astype(np.float64).T @ y.astype(np.float64))
    found: Doubles = u @ vt
    return found
