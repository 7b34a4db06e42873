"""plain.swap: fprop by torch's input gradient with flipped weights, and dgrad by torch's convolution, at stride 1.

With a stride of 1 either is the other, of weights flipped along their axes and with a group's channels transposed:

    y[k, o] = sum x[c, o + t d - p] w[k, c, t]      x in place of a gradient, taps counted from the end:
                                                    o = i - (T - 1 - t) d + p'  with  p' = (T - 1) d - p

torch runs the two on different kernels, of which now one, now the other is many times slower.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from convext.problem import ConvProblem
from convext.providers import aten, onednn

# Channels of a group beyond which a forward in NCHW errs more than twice as much as an input gradient: oneDNN sums the
# former's products one after the other, 3x3 of 128 channels with five times the error, and the latter's in blocks,
# where a row's pads are at most REACH. Measured with AVX2, 1-D to 3-D, 4 to 512 channels: to 16 it is never more.
CHANNELS, REACH = 16, 4


def why_not(problem: ConvProblem) -> str | None:
    """fprop and dgrad at stride 1, whose other side has no negative padding, in dtypes that were measured.

    In float16 torch's input gradient of some 3-D problems errs fifty times as much as its forward, and so does that of
    bfloat16 where oneDNN does not compute it: torch rounds the sum at each tap.
    """
    if problem.dtype not in (torch.float32, torch.bfloat16):
        return f"computes float32 and bfloat16, not {problem.dtype}"
    if max(problem.stride) > 1:
        return f"is for a stride of 1, but got {problem.stride}"
    if problem.empty:
        return "a tensor of the problem has no elements"
    if wrong := aten.fault(swapped(problem)):
        return f"would be torch's: {wrong}"
    if min(_pad(problem)) < 0:
        return f"pads {_pad(problem)} on the other side, where torch pads by 0 or more"
    if problem.dtype == torch.bfloat16 and problem.dtype not in onednn.dtypes():
        return "would have torch round bfloat16 sums at each tap: oneDNN does not compute it on this processor"
    channels = problem.k // problem.groups
    blocks = problem.face == "dgrad" and not problem.channels_last and _pad(problem)[-1] <= REACH
    if blocks and problem.dtype == torch.float32 and problem.taps > 1 and channels > CHANNELS:
        return f"would have torch add up sums of {channels} channels x {problem.taps} taps one after the other"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The flipped weights."""
    elements = problem.k * (problem.c // problem.groups) * problem.taps
    return [f"flips a copy of w: {elements * problem.dtype.itemsize:,} bytes", *aten.copies(swapped(problem))]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    groups, k, c = problem.groups, problem.k // problem.groups, problem.c // problem.groups
    axes = list(range(3, 3 + problem.rank))
    w = b.unflatten(0, (groups, k)).transpose(1, 2).flip(axes).reshape(groups * c, k, *problem.kernel)
    return aten.run(swapped(problem), a, w, bias)


def swapped(problem: ConvProblem) -> ConvProblem:
    """The other face that computes the same."""
    p = problem
    return replace(
        p, face="dgrad" if p.face == "fprop" else "fprop", c=p.k, k=p.c, input=p.output, output=p.input, pad=_pad(p)
    )


def _pad(problem: ConvProblem) -> tuple[int, ...]:
    steps = zip(problem.kernel, problem.dilation, problem.pad, strict=True)
    return tuple((k - 1) * d - p for k, d, p in steps)
