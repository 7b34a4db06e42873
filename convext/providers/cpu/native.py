"""What the compiled CPU kernels (csrc/cpu/) share: the problems that they take, and the call.

They read operands of any strides where they lie, copy a window at a time into scratch in float32 (or float64), and sum
there; depthwise ones and small groups whose channels are innermost they sum where they lie. Nothing of the size of a
tensor is allocated but the result, and an epilogue is computed before that is stored.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.problem.epilogue import NAMES, Epilogue
from convext.providers.cpu import library

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NOTHING = Epilogue()
NUMBER = {name: i for i, name in enumerate(NAMES)}  # as csrc/cpu/shared/problem.h counts them

# Channels of a group that are not packed (csrc/cpu/faces/ways.h); 1 in other dtypes.
_SPREAD = {torch.float32: (1, 2, 4, 8), torch.bfloat16: (1, 2, 4, 8)}

MAX_WINDOW = 1 << 20  # elements that one result reads from, of all channels of a group: they have to fit in scratch


def why_not(problem: ConvProblem) -> str | None:
    """What neither kernel takes."""
    if problem.dtype not in DTYPES:
        return f"computes float32, float64, float16 and bfloat16, not {problem.dtype}"
    if problem.rank > 3:
        return f"has up to 3 spatial axes, but the problem has {problem.rank}"
    if problem.empty:
        return "a tensor of the problem has no elements"
    channels = max(problem.c, problem.k) // problem.groups
    window = channels * math.prod(d * (k - 1) + 1 for k, d in zip(problem.kernel, problem.dilation, strict=True))
    if window > MAX_WINDOW:
        return f"copies windows of up to {MAX_WINDOW:,} elements, but one result reads from {window:,}"
    return None


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    return convolve(_isa(problem, a, b), problem, a, b, bias)


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """Computes `epilogue(run(problem, a, b, bias)) + residual` in the same pass."""
    return convolve(_isa(problem, a, b), problem, a, b, bias, epilogue, residual)


def _isa(p: ConvProblem, a: Tensor, b: Tensor) -> str:
    """The widest that is trusted also where channels are innermost, if nothing is packed."""
    unpacked = p.c == p.k and a.stride(1) == 1 and p.c // p.groups in _SPREAD.get(p.dtype, (1,))
    if p.face == "wgrad":
        unpacked = unpacked and b.stride(1) == 1
    return library.isa(p.channels_last and not unpacked)


def convolve(
    isa: str, problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None,
    epilogue: Epilogue = _NOTHING, residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`run_activated` on one of the instruction sets that the machine has."""
    p = problem
    first, second = (*epilogue.scalars, 0.0, 0.0)[:2]
    if bias is not None:
        bias = bias.contiguous()
    if residual is not None:
        residual = layout.dense(residual, p.channels_last)
    op = torch.ops.convext_cpu.convolve.default
    size = p.open_shape[2:]
    geometry = size, p.stride, p.pad, p.dilation, p.groups, p.channels_last
    return cast(Tensor, op(isa, p.face, a, b, bias, *geometry, residual, NUMBER[epilogue.name], first, second))
