"""Layerwise: train, evaluate, inspect and export the networks of the field, from the neuron of 1943 on, on your own
data.

``lw.train``, ``lw.open``, ``lw.build``, ``lw.find``, ``lw.list_models`` and what handles word vectors are loaded when
first asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerwise.errors import LayerwiseError

if TYPE_CHECKING:
    from layerwise.api import (
        ModelSpec,
        Run,
        VectorTable,
        build,
        embedding,
        find,
        list_models,
        open,
        read_vectors,
        train,
        write_vectors,
    )

__version__ = "0.1.0"
__all__ = [
    "LayerwiseError",
    "ModelSpec",
    "Run",
    "VectorTable",
    "build",
    "embedding",
    "find",
    "list_models",
    "open",
    "read_vectors",
    "train",
    "write_vectors",
]


def __getattr__(name: str) -> Any:
    """Load the API on first use (PEP 562)."""
    if name in __all__:
        return getattr(import_module("layerwise.api"), name)
    raise AttributeError(f"module 'layerwise' has no attribute '{name}'")
