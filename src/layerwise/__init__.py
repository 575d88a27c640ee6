"""Layerwise: the whole of deep learning in one package."""

__version__ = "0.1.0"
