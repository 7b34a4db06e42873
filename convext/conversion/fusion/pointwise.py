"""Our own pointwise kernel for CPUs (csrc/cpu/pointwise), with a sum and an activation before its store.

The weight is laid out once. The result is channels last, whatever the input's format.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.conversion.fusion import packed
from convext.problem.epilogue import Epilogue
from convext.providers.cpu import library, pointwise


def is_pointwise(conv: Any) -> bool:
    """Whether `conv` has one tap, one group and no padding, and its weight is a constant in float32 on a CPU."""
    return (
        not (conv.transposed or nn.utils.parametrize.is_parametrized(conv))
        and conv.weight[0, 0].numel() == conv.groups == 1
        and conv.padding in ("valid", (0,) * len(conv.stride))
        and conv.weight.is_cpu
        and conv.weight.dtype is torch.float32
    )


def takes(conv: Any) -> bool:
    """Whether the kernel computes `conv`, with whatever follows it."""
    return is_pointwise(conv) and conv.weight.dim() in (4, 5) and library.unavailable() is None


class Packed(packed.Packed):
    """A pointwise convolution's weight as the kernel reads it, and what follows the sum."""

    def __init__(self, conv: Any, epilogue: Epilogue) -> None:
        super().__init__(conv)
        can = self.weight.is_cpu and self.weight.dtype is torch.float32  # or it was moved since
        self._packed = pointwise.pack(self.weight) if can else None
        self._epilogue = epilogue

    def takes(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether `run` computes it. Not what is empty, nor what torch refuses, and no residual that broadcasts."""
        shape = self.result_of(x.shape)
        fits = residual is None or (residual.shape == shape and residual.dtype is x.dtype)
        return self._packed is not None and shape is not None and fits

    def run(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """epilogue(conv(x) + bias + residual)."""
        k, stride = self.weight.shape[0], self.geometry[1]
        return pointwise.run(self._epilogue, x, self._packed, bias, k, stride, residual)  # type: ignore[arg-type]
