"""Convolution kernels for PyTorch: drop-in layers, faster on a GPU, right to any order of derivative."""

from convext import functional
from convext.conversion import Conversion, convert
from convext.nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convext.registry import kernels
from convext.settings import backend, precision

__version__ = "0.1.0"
__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Conversion",
    "backend",
    "convert",
    "functional",
    "kernels",
    "precision",
]
