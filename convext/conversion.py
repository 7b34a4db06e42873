"""Swap a model's convolutions for convext's, in place or in a copy, and back.

A layer is swapped by giving the module its new class. Parameters, buffers, hooks, training mode and every reference to
the module stay what they were, so nothing can be lost, and undoing it is as exact.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch

from convext import nn

_SWAP: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, name): getattr(nn, name)
    for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
}


@dataclass
class Conversion:
    """What `convert` did.

    Attributes:
        model: the converted model.
        converted: names of the layers that were swapped.
        left_alone: names of convolutions that were not, with the reason.
    """

    model: torch.nn.Module
    converted: list[str] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)

    def undo(self) -> torch.nn.Module:
        """Gives every swapped layer its former class back, and returns the model."""
        for name in self.converted:
            module = self.model.get_submodule(name)
            for before, after in _SWAP.items():
                if type(module) is after:
                    module.__class__ = before
        self.converted = []
        return self.model

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} layers converted, {len(self.left_alone)} left alone"]
        return "\n".join(lines + [f"  {name}: {reason}" for name, reason in self.left_alone.items()])


def convert(model: torch.nn.Module, inplace: bool = True) -> Conversion:
    """Swaps `torch.nn`'s convolutions in `model` for convext's.

    Args:
        model: any module, a convolution itself included.
        inplace: swap in `model`; else in a copy that shares its parameters and buffers.

    Returns:
        The converted model with a report; its `undo()` puts everything back.
    """
    if not inplace:
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        model = copy.deepcopy(model, shared)
    report = Conversion(model)
    for name, module in model.named_modules():
        if type(module) in _SWAP:
            module.__class__ = _SWAP[type(module)]
            report.converted.append(name)
        elif (reason := _why_left_alone(module)) is not None:
            report.left_alone[name] = reason
    return report


def _why_left_alone(module: torch.nn.Module) -> str | None:
    """Why a convolution is not swapped; None for what is no convolution, or is convext's already."""
    kind = type(module)
    if not isinstance(module, torch.nn.modules.conv._ConvNd) or isinstance(module, tuple(_SWAP.values())):
        return None
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        return f"{kind.__name__} has no shape yet: run the model once, then convert"
    if torch.nn.utils.parametrize.is_parametrized(module):
        return f"{kind.__name__} is parametrized: its class is made for its parametrization"
    return f"{kind.__module__}.{kind.__qualname__} is a subclass, whose forward may be its own"
