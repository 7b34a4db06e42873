"""Our own depthwise kernel for CPUs (csrc/cpu/faces), with an activation or a sum before its store.

The weight is laid out once with its channels innermost, as the kernel reads it where x has them innermost as well:
nothing is copied then. The result has the format of x.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from convext.conversion.fusion import packed
from convext.operators.activated import activated
from convext.problem.epilogue import IDENTITY, Epilogue
from convext.providers.cpu import library, native


def takes(conv: Any, epilogue: Epilogue, adds: bool) -> bool:
    """Whether the kernel computes `conv` with what follows it: depthwise, and a sum that no activation follows."""
    return (
        not conv.transposed
        and conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.padding_mode == "zeros"
        and all(isinstance(side, int) for side in conv.padding)
        and not nn.utils.parametrize.is_parametrized(conv)
        and (not adds or epilogue.name == IDENTITY)
        and library.unavailable() is None
    )


class Packed(packed.Packed):
    """A depthwise convolution's weight with its channels innermost, and what follows the sum."""

    def __init__(self, conv: Any, epilogue: Epilogue) -> None:
        super().__init__(conv)
        self._innermost = self.weight.movedim(0, -1).contiguous().movedim(-1, 0)
        padding, stride, dilation, groups = self.geometry
        self._geometry = tuple(stride), tuple(padding), tuple(dilation), groups, "cpu.stencil"
        self._epilogue = epilogue.name, epilogue.scalars

    def takes(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether `run` computes it. Not what is empty, nor what torch refuses."""
        shape = self.result_of(x.shape)
        fits = residual is None or (residual.shape == shape and residual.dtype is x.dtype)
        return x.dtype in native.DTYPES and shape is not None and fits

    def run(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """epilogue(conv(x) + bias), or conv(x) + bias + residual."""
        size = self.result_of(x.shape)[2:]  # type: ignore[index]
        return activated("fprop", x, self._innermost, bias, residual, size, *self._geometry, *self._epilogue)
