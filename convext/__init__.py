"""Convolution layers and kernels for PyTorch: drop-in, on GPUs and CPUs, right to any order of derivative."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from convext import causal_conv1d, functional
from convext.causal.layer import ShortConvolution
from convext.choice.registry import Kernel, kernels, register, warn_of_a_misspelling
from convext.choice.settings import backend, precision
from convext.conversion import Change, Report, convert, everywhere, report, revert
from convext.nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convext.tools import recomputation, teaching

__version__ = "0.1.0"

# Modules under the names that they had before they moved into rooms: code that imports them goes on.
_FORMER = {
    "aten": "providers.aten",
    "layout": "problem.layout",
    "ops": "operators",
    "registry": "choice.registry",
    "settings": "choice.settings",
}
for _name, _home in _FORMER.items():
    sys.modules[f"{__name__}.{_name}"] = import_module(f"{__name__}.{_home}")

warn_of_a_misspelling()
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
    "distributed",
    "everywhere",
    "explain",
    "functional",
    "fuse",
    "kernels",
    "layers",
    "lint",
    "precision",
    "register",
    "report",
    "revert",
    "streaming",
]


# What not every program needs is imported at first use, which type checkers cannot see: the catalogue, what needs
# torch.distributed or torch.fx, commands.
_ROOMS = ("analysis", "blocks", "distributed", "layers")
_HOMES = {"explain": "commands.explain", "fuse": "conversion.fusion.fuse", "lint": "analysis", "streaming": "streams"}
if TYPE_CHECKING:
    from convext import analysis, blocks, distributed, layers
    from convext.analysis import lint
    from convext.commands.explain import explain
    from convext.conversion.fusion.fuse import fuse
    from convext.streams import streaming
else:

    def __getattr__(name):
        if name in _ROOMS:
            return import_module(f"convext.{name}")
        if name in _HOMES:
            return getattr(import_module(f"convext.{_HOMES[name]}"), name)
        if name in _FORMER:
            return sys.modules[f"{__name__}.{name}"]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is for users: not what this file imports for itself."""
    return [*__all__, *(name for name in globals() if name.startswith("__") and name != "__getattr__")]
