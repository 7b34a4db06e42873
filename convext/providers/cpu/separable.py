"""cpu.separable: a depthwise convolution and the pointwise one of its result, in C++ (csrc/cpu/separable).

What the depthwise half leaves of a block of pixels stays in the caches, and is multiplied there. In float32, channels
last; the pointwise weight is packed first, which whoever keeps it does once.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from convext.problem import layout
from convext.problem.separable import SeparableProblem
from convext.providers.cpu import library
from convext.providers.cpu.native import NUMBER
from convext.providers.cpu.pointwise import lanes, pack

# Measured: 25 layers of MobileNets, EfficientNet-B0 and Xception at batches 1, 2 and 4, one thread, AMD EPYC (Zen 4),
# against the halves one after the other: the depthwise one by our kernel or oneDNN's, whichever was faster, the
# pointwise one by oneDNN's. Saved are a call with what it allocates, 80 us, and t's way to memory and back, 0.3 ns an
# element. That is worth the less the more there is to multiply, which takes as long either way.
MEASURED = "amd-avx512"
CALL, ELEMENT = 80e-6, 0.3e-9  # seconds
PRODUCTS = 55e9  # of t and v, a second; a tap of w costs as much as 4
WORTH = 1.2


def why_not(problem: SeparableProblem) -> str | None:
    """float32, channels last, one filter a channel, and at least a vector of channels of x."""
    p, y = problem.depthwise, problem.pointwise
    if p.dtype is not torch.float32:
        return f"computes float32, not {p.dtype}"
    if p.rank > 3:
        return f"has up to 3 spatial axes, but the problem has {p.rank}"
    if p.empty or y.empty:
        return "a tensor of the problem has no elements"
    if not (p.groups == p.c == p.k):
        return f"takes one filter for each channel of x, but got {p.k} for {p.c}"
    if not (p.channels_last and y.channels_last):
        return "is of images whose channels are innermost, but these are outermost"
    if p.c < lanes():
        return f"takes at least {lanes()} channels of x, but got {p.c}"
    return None


def slower(problem: SeparableProblem) -> str | None:
    """Where it is expected to win less than `WORTH` on the machine that it was measured on, and all other machines."""
    if library.machine() != MEASURED:
        return f"was measured on {MEASURED} alone, and this is {library.machine()}"
    gain = expected_gain(problem)
    if gain < WORTH:
        return (
            f"is expected to be {gain:.2f} times as fast as the halves one after the other, less than {WORTH}: "
            f"{problem.pointwise.k} channels of y and {problem.depthwise.taps} taps for each element of t, "
            f"{problem.pointwise.c} channels of {_pixels(problem)} pixels"
        )
    return None


def expected_gain(problem: SeparableProblem) -> float:
    """How many times as fast as one after the other, as `CALL`, `ELEMENT` and `PRODUCTS` have it."""
    elements = problem.pointwise.c * _pixels(problem)
    takes = elements * (problem.pointwise.k + 4 * problem.depthwise.taps) / PRODUCTS
    return 1 + (CALL + ELEMENT * elements) / takes


def run(
    problem: SeparableProblem, x: Tensor, w: Tensor, bias: Tensor | None,
    v: Tensor, second_bias: Tensor | None, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """Both halves of a problem that it takes; operands and residual have any strides."""
    return run_packed(problem, x, w, bias, pack(v), second_bias, residual)


def run_packed(
    problem: SeparableProblem, x: Tensor, w: Tensor, bias: Tensor | None,
    packed: Tensor, second_bias: Tensor | None, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """The same with v as `pack` lays it out. A w [C, 1, *k] whose first stride is 1 is read where it lies."""
    return convolve(library.isa(), problem, x, w, bias, packed, second_bias, residual)


def convolve(
    isa: str, problem: SeparableProblem, x: Tensor, w: Tensor, bias: Tensor | None,
    packed: Tensor, second_bias: Tensor | None, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    """`run_packed` on one of the instruction sets that the machine has, with v packed for that."""
    p, y = problem.depthwise, problem.pointwise
    bias = None if bias is None else bias.contiguous()
    second_bias = None if second_bias is None else second_bias.contiguous()
    residual = None if residual is None else layout.dense(residual, True)
    if x.stride(1) != 1:
        x = layout.dense(x, True)
    first, second = ((NUMBER[e.name], *(*e.scalars, 0.0, 0.0)[:2]) for e in (problem.first, problem.second))
    geometry = p.output, p.stride, p.pad, p.dilation
    op = torch.ops.convext_cpu.separable.default
    return cast(Tensor, op(isa, x, w, bias, packed, second_bias, y.k, residual, *geometry, *first, *second))


def _pixels(problem: SeparableProblem) -> int:
    return problem.pointwise.n * math.prod(problem.pointwise.output)
