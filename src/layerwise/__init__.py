"""Layerwise: the whole of deep learning in one package.

``lw.train``, ``lw.open``, ``lw.build``, ``lw.find``, ``lw.models`` and what handles word vectors are loaded when first asked for, so that
importing the package costs
nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from layerwise.errors import LayerwiseError

if TYPE_CHECKING:
    from layerwise.api import Card, Run, VectorTable, build, embedding, find, models, open, read_vectors, train, write_vectors

__version__ = "0.1.0"
__all__ = [
    "Card", "LayerwiseError", "Run", "VectorTable", "build", "embedding", "find", "models", "open", "read_vectors", "train",
    "write_vectors",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load the API on first use (PEP 562)."""
    if name in __all__:
        return getattr(import_module("layerwise.api"), name)
    raise AttributeError(f"module 'layerwise' has no attribute '{name}'")


class _Package(ModuleType):
    """The package, on which importing the rooms ``train`` and ``models`` does not hide the functions of the same names.

    Python sets a subpackage as an attribute of its parent; ``lw.train`` must stay the function, whatever was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
