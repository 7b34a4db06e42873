"""Convolution kernels for PyTorch: drop-in layers, faster on a GPU, right to any order of derivative."""

from convext.settings import backend, precision

__version__ = "0.1.0"
__all__ = ["backend", "precision"]
