"""Our own depthwise kernel for CPUs (csrc/cpu/faces), with an activation or a sum before its store.

The weight is laid out once with its channels innermost, as the kernel reads it where x has them innermost as well:
nothing is copied then. The result has the format of x.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from convext.conversion.fusion import packed
from convext.operators.keys import remember
from convext.problem import ConvProblem, layout
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


def channels_innermost(weight: Tensor) -> Tensor:
    """A depthwise weight as the kernel reads it where it lies."""
    return weight.movedim(0, -1).contiguous().movedim(-1, 0)


class Packed(packed.Packed):
    """A depthwise convolution's weight with its channels innermost, and what follows the sum."""

    def __init__(self, conv: Any, epilogue: Epilogue) -> None:
        super().__init__(conv)
        self._innermost = channels_innermost(self.weight)
        self._epilogue = epilogue
        self._problems: dict[tuple[Any, ...], ConvProblem] = {}  # by how an input lies

    def takes(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether `run` computes it. Not what is empty, nor what torch refuses."""
        shape = self.result_of(x.shape)
        fits = residual is None or (residual.shape == shape and residual.dtype is x.dtype)
        return x.dtype in native.DTYPES and shape is not None and fits

    def run(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """epilogue(conv(x) + bias), or conv(x) + bias + residual."""
        lies = x.shape, x.stride()
        problem = self._problems.get(lies)
        if problem is None:
            problem = self._problem(x)
            remember(self._problems, lies, problem)
        return native.run_activated(problem, self._epilogue, x, self._innermost, bias, residual)

    def _problem(self, x: Tensor) -> ConvProblem:
        padding, stride, dilation, groups = self.geometry
        size = self.result_of(x.shape)[2:]  # type: ignore[index]
        geometry = size, stride, padding, dilation, groups
        return ConvProblem.of("fprop", x.shape, self.weight.shape, *geometry, x.dtype, layout.is_channels_last(x))
