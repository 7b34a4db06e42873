"""cuda.stencil: depthwise convolutions in CUDA C++ (csrc/stencil.cu), all three faces, in 1-D, 2-D and 3-D.

The kernels read operands of any strides where they lie, and write the result in its memory format. The common taps are
compiled in (csrc/stencil_launch.cuh lists them); every other problem takes a general path, one result a thread.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from convext import native
from convext.problem import ConvProblem

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not(problem: ConvProblem) -> str | None:
    """Depthwise, float32, float16 or bfloat16, with elements."""
    if problem.groups != problem.c:
        return f"is depthwise: groups must be the channels of x, {problem.c}, but got groups={problem.groups}"
    if problem.dtype not in DTYPES:
        return f"computes float32, float16 and bfloat16, not {problem.dtype}"
    if problem.rank > 3:
        return f"has up to 3 spatial axes, but the problem has {problem.rank}"
    if problem.empty:
        return "a tensor of the problem has no elements"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie."""
    return []


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    p = problem
    size = p.open_shape[2:]
    if bias is not None:
        bias = bias.contiguous()
    op = native.operators(a.device.type).stencil
    return cast(Tensor, op(p.face, a, b, bias, size, p.stride, p.pad, p.dilation, p.groups, p.channels_last))
