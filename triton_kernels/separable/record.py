"""A depthwise convolution of images, and a pointwise one of its result, in one launch that never stores t.

    t = first(depthwise(x, w) + bias)        y = second(pointwise(t, v) + second bias) (+ residual)

Forward alone. What a program computes stands in `image.py`, when that should be faster than two launches in `cost.py`.
In both memory formats operands are read where they lie, but for w where channels are innermost, and for a residual in
another format than y's.
"""

from __future__ import annotations

import math

from torch import Tensor

from convext.problem import layout
from convext.problem.separable import SeparableProblem
from convext.triton_kernels.ending import ending
from convext.triton_kernels.passes.transpose import first_innermost
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.separable.cost import predicted
from convext.triton_kernels.separable.launch import separable_launch
from convext.triton_kernels.separable.tiles import DTYPES, ROW_TAPS

WORTH = 1.2  # what a prediction has to promise before "auto" follows it


def why_not(problem: SeparableProblem) -> str | None:
    """None for images, one filter a channel and few taps in a row, else one sentence."""
    p, y = problem.depthwise, problem.pointwise
    if p.rank != 2:
        return f"takes images, with 2 spatial axes, but the problem has {p.rank}"
    if p.k != p.c:
        return f"takes one filter for each channel of x, but got {p.k} for {p.c}"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    if p.channels_last != y.channels_last:
        return "takes t and y in one memory format"
    if p.empty or y.empty:
        return "a tensor of the problem has no elements"
    if max(p.kernel) > ROW_TAPS:
        return f"the kernel {p.kernel} has more than {ROW_TAPS} taps on an axis, whose products registers do not hold"
    pixels = p.n * math.prod(p.output)
    if pixels >= 2**30:
        return f"{pixels:,} pixels, and they are counted in 32 bits"
    return None


def slower(problem: SeparableProblem) -> str | None:
    """None where one launch should win `WORTH` over two, else one sentence with the predicted seconds."""
    p = problem.depthwise
    found = predicted(problem, power_of_two(p.input[1], limit=16 // p.dtype.itemsize))
    if WORTH * found.one < found.two:
        return None
    return (
        f"should take {1e6 * found.one:.1f} us, and two launches {1e6 * found.two:.1f}: {problem.pointwise.k} channels "
        f"of y, for which each of {p.n * p.c * math.prod(p.output):,} elements of t is computed {found.times} times"
    )


def copies(problem: SeparableProblem) -> list[str]:
    """That of w, whose taps each program reads again."""
    p = problem.depthwise
    if not p.channels_last:
        return []
    return [f"puts the channels of w last in a copy: {p.k * p.taps * p.dtype.itemsize:,} bytes"]


def run(
    problem: SeparableProblem, x: Tensor, w: Tensor, bias: Tensor | None,
    v: Tensor, second_bias: Tensor | None, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """Both halves of a problem that it takes; operands and residual have any strides."""
    y = layout.empty(problem.pointwise.open_shape, problem.pointwise.channels_last, x)
    if problem.depthwise.channels_last and w.stride(0) != 1:
        w = first_innermost(w)
    residual = ending(problem.pointwise, problem.second, residual).residual
    separable_launch(problem, x, w, bias, v, second_bias, residual, y)()
    return y
