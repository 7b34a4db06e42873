"""A depthwise layer and the pointwise one after it, in one pass by our own kernel for CPUs (csrc/cpu/separable).

    x ──> depthwise' ──> t ──> pointwise' ──> y        apart: t is written, and read
    x ──> both ──────────────────────────────> y       together: a block of t at a time stays in the caches

Both weights are laid out once. Inputs and results are channels last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.choice import settings
from convext.conversion.fusion import packed, pointwise, stencil
from convext.conversion.fusion.epilogues import is_watched
from convext.conversion.fusion.layer import PACKED, Fused
from convext.operators.autograd import reverse_mode
from convext.operators.keys import remember
from convext.operators.plain import is_plain
from convext.problem import layout
from convext.problem.epilogue import IDENTITY
from convext.problem.separable import SeparableProblem
from convext.providers.cpu import separable

APART, TOGETHER = WAYS = ("apart", "together")


def takes(first: Fused, second: Fused) -> bool:
    """Whether the kernel may compute both: on a CPU, in float32, of enough channels; not a sum before an activation."""
    conv = second.conv
    return (
        stencil.takes(first.conv, first.epilogue, first.adds)
        and not first.adds
        and pointwise.is_pointwise(conv)
        and max(conv.stride) == 1
        and not (second.adds and second.epilogue.name != IDENTITY)
        and conv.in_channels >= separable.lanes()
    )


class Packed(packed.Packed):
    """Both weights as the kernel reads them, and what follows each sum."""

    def __init__(self, first: Fused, second: Fused) -> None:
        super().__init__(first.conv)
        self._innermost = stencil.channels_innermost(self.weight)
        self._second = packed.Packed(second.conv)
        self._packed = separable.pack(self._second.weight)
        self._described = first.epilogue, second.epilogue, second.adds
        self._problems: dict[torch.Size, SeparableProblem] = {}

    def are_of(self, first: Tensor, second: Tensor) -> bool:
        """Whether these weights are what was laid out."""
        return self.is_of(first) and self._second.is_of(second)

    def takes(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether `run` computes it. Not what is empty, nor what torch refuses, and no residual that broadcasts."""
        shape = self.result_of(x.shape)
        if shape is None or not layout.is_channels_last(x):
            return False
        if residual is None:
            return True
        return residual.shape == self._second.result_of(shape) and residual.dtype is x.dtype

    def run(self, x: Tensor, bias: Tensor | None, second_bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """second(pointwise(first(depthwise(x) + bias)) + second_bias) + residual."""
        problem = self._problems.get(x.shape)
        if problem is None:
            problem = self._problem(x)
            remember(self._problems, x.shape, problem)
        return separable.run_packed(problem, x, self._innermost, bias, self._packed, second_bias, residual)

    def _problem(self, x: Tensor) -> SeparableProblem:
        padding, stride, dilation, _ = self.geometry
        shape = self.result_of(x.shape)
        geometry = shape[2:], stride, padding, dilation  # type: ignore[index]
        shapes = x.shape, self.weight.shape, self._second.weight.shape
        return SeparableProblem.of(*self._described, *shapes, *geometry, x.dtype, (True, True))


class Separable(nn.Module):
    """second(first(x)) or second(first(x), residual): two layers of an inference.

    x and the result as of the two layers. "together" is for plain eager code on a CPU, where no gradient is asked for,
    "auto" chooses and neither layer has a hook; all else goes through the layers one after the other.

    Attributes:
        first: the depthwise one.
        second: the pointwise one.
        way: "apart", or "together" where that was measured to be faster on this machine.
    """

    def __init__(self, first: Fused, second: Fused) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.way = APART

    def forward(self, x: Tensor, *residual: Tensor) -> Tensor:
        if self.way == TOGETHER and is_plain(x, *residual) and settings.BACKEND == "auto" and x.is_cpu:
            first, second = self.first.conv, self.second.conv
            operands = first.weight, first.bias, second.weight, second.bias
            same = first.weight.dtype is second.weight.dtype is x.dtype is torch.float32
            watched = is_watched(self.first) or is_watched(self.second)
            if same and not watched and not reverse_mode(x, *residual, *operands):
                laid_out = self._packed_for(first.weight, second.weight)
                added = residual[0] if residual else None
                if laid_out.takes(x, added):
                    return laid_out.run(x, first.bias, second.bias, added)
        y: Tensor = self.second(self.first(x), *residual)
        return y

    def _packed_for(self, first: Tensor, second: Tensor) -> Packed:
        kept: Packed | None = self.__dict__.get(PACKED)
        if kept is None or not kept.are_of(first, second):
            self.__dict__[PACKED] = kept = Packed(self.first, self.second)
        return kept

    def forget(self) -> None:
        """Frees the weights that are laid out: the next call makes its own anew."""
        self.__dict__.pop(PACKED, None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the weights as they are laid out: the next call makes them anew."""
        return {name: value for name, value in self.__dict__.items() if name != PACKED}

    def extra_repr(self) -> str:
        return f"way={self.way}"
