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
_WIDEST = 16  # float32 of a vector of AVX-512

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
    """AVX-512 where it was measured to be faster than AVX2, on the way that the kernels take (csrc/cpu/faces/ways.h).

    Means over random problems, one thread of a Zen 5, that many times as fast as AVX2:

        in place                  1.2 to 2.0; but 8 to 15 channels, which fill vectors of AVX2 alone, are packed: 0.4
        packed, channels first    forwards and input gradients 1.1 to 1.7, weight gradients of groups 0.7 to 1.0
        packed, channels last     forwards and input gradients 1.4 to 1.7, weight gradients 0.7 to 1.2; on a Zen 4 0.5,
                                  since windows of 16 channels leave room for small blocks only
    """
    group = p.c // p.groups
    if p.c == p.k and group in _SPREAD.get(p.dtype, (1,)):
        innermost = a.stride(1) == 1 and (p.face != "wgrad" or b.stride(1) == 1)
        return library.isa(narrow=p.channels_last and not (innermost and p.k >= _WIDEST))
    if p.face == "wgrad":
        return library.isa(narrow=p.channels_last or group > 1)
    return library.isa(narrow=p.channels_last and not library.has_wide_units())


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
