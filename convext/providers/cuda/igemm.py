"""cuda.igemm: dense, dilated, pointwise, grouped and transposed convolutions in CUDA C++, all three faces, in 1-D, 2-D
and 3-D, as one implicit matrix product on tensor cores (csrc/igemm/problem.h).

The kernels read operands of any strides. Fast are those whose channels lie next to each other, each group in whole
16-byte vectors: where a group's channels are whole vectors, operands of another order are copied into that one first.
Contiguous ones, and a contiguous result, the operator copies itself (csrc/passes/transpose.cu).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convext.problem import OPEN, OPERANDS, ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.providers.cuda.launches import NOTHING, Launch, ending

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
VECTOR_BYTES = 16


def why_not(problem: ConvProblem) -> str | None:
    """Any convolution with elements in float16, bfloat16, or float32 where TF32 products are allowed."""
    p = problem
    if p.dtype not in DTYPES:
        return f"computes float32, float16 and bfloat16, not {p.dtype}"
    if p.dtype is torch.float32 and p.precision == "ieee":
        return "forms float32 products as tf32 or tf32x3, but the problem's precision is ieee"
    if p.rank > 3:
        return f"has up to 3 spatial axes, but the problem has {p.rank}"
    if p.empty:
        return "a tensor of the problem has no elements"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The operands and the result whose memory format is changed by a copy."""
    if not _vectors(problem) or problem.channels_last:
        return []
    result = () if problem.face == "wgrad" else (OPEN[problem.face],)
    roles = [role for role in (*OPERANDS[problem.face], *result) if not _one_order(problem, role)]
    size = {role: math.prod(problem.shape(role)) * problem.dtype.itemsize for role in roles}
    return [f"{role} is copied between contiguous and channels last: {size[role]:,} bytes" for role in roles]


def _vectors(problem: ConvProblem) -> bool:
    """Whether the channels of a group are whole 16-byte vectors, in x and in y."""
    vector = VECTOR_BYTES // problem.dtype.itemsize
    return problem.c // problem.groups % vector == 0 and problem.k // problem.groups % vector == 0


def _one_order(problem: ConvProblem, role: str) -> bool:
    """Whether both memory formats of a tensor are one, because it has one channel or one position."""
    _, channels, *space = problem.shape(role)
    return channels == 1 or math.prod(space) == 1


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    return run_activated(problem, NOTHING, a, b, bias, None)


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """The same with `epilogue`, and `residual` added, where the product is stored: from there it is read as it lies."""
    p = problem
    if _vectors(p):
        a, b = (t if t.is_contiguous() else layout.dense(t, True) for t in (a, b))
    if bias is not None:
        bias = bias.contiguous()
    result = layout.empty(p.open_shape, p.channels_last, a)
    geometry = p.stride, p.pad, p.dilation, p.groups, *ending(epilogue), p.precision
    Launch("igemm", (p.face,), (a, b, bias, residual, result), geometry)()
    return result
