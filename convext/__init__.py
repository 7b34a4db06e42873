"""Convolution layers and kernels for PyTorch: drop-in, on GPUs and CPUs, right to any order of derivative."""

from importlib import import_module
from typing import Any

from convext import causal_conv1d, functional
from convext.causal.layer import ShortConvolution
from convext.choice.registry import Kernel, kernels, register
from convext.choice.settings import backend, precision
from convext.commands.explain import explain
from convext.conversion import Change, Report, convert, report, revert
from convext.nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convext.tools import recomputation, teaching

__version__ = "0.1.0"

teaching.install()
recomputation.keep_settings()

__all__ = [
    "Change",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Kernel",
    "Report",
    "ShortConvolution",
    "analysis",
    "backend",
    "blocks",
    "causal_conv1d",
    "convert",
    "explain",
    "functional",
    "kernels",
    "layers",
    "lint",
    "precision",
    "register",
    "report",
    "revert",
]


def __getattr__(name: str) -> Any:
    """The catalogue, imported at first use."""
    if name in ("analysis", "blocks", "layers"):
        return import_module(f"convext.{name}")
    if name == "lint":
        return import_module("convext.analysis").lint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
