"""Grouped convolution with few channels a group: groups are packed side by side until they fill a tensor core.

    fprop   y[k, o] = sum over c and t of  w[k, c, t] * x[c, i]      i = o * stride + t * dilation - pad
    dgrad   x[c, i] = sum over k and t of  w[k, c, t] * y[k, o]      c and k of one group      grouped_image.py
    wgrad   w[k, c, t] = sum over o of     y[k, o] * x[c, i]                                   grouped_weight.py

The useful part of a product is one group's share of the pack, and the rest is zeros; groups of 16 channels and more
fill a product by themselves (igemm.py). Operands are read where they lie, in both layouts and with any strides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import NOTHING, Ending, ending
from convext.triton_kernels.grouped.launch import image_launch, weight_launch
from convext.triton_kernels.grouped.tiles import NARROWEST, WIDEST, packed_width
from convext.triton_kernels.passes.reduce import add_in_order

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


LONGEST_AXIS = 1 << 29  # indices on one axis are 32-bit, padding and taps included


def why_not(problem: ConvProblem) -> str | None:
    """None for groups of which one side has 2 to 15 channels, and the other up to 8 times as many."""
    p = problem
    k, c = p.k // p.groups, p.c // p.groups
    if p.groups == 1:
        return "one group, and a pack is of several"
    if c < 2:
        return f"{c} channel of x in each of {p.groups} groups: depthwise, and a product would be mostly zeros"
    if min(k, c) >= NARROWEST:
        return f"{min(k, c)} channels in each of {p.groups} groups, which fill a product of {NARROWEST} without packing"
    if min(k, c) == 0:
        return "groups without channels"
    widest = packed_width(k, c, NARROWEST)
    if widest > WIDEST:
        return f"{c} to {k} channels in a group: packed to {NARROWEST} one way, {widest} the other"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    reach = max(
        max(i, o * s, t * d) + pad
        for i, o, t, s, d, pad in zip(p.input, p.output, p.kernel, p.stride, p.dilation, p.pad, strict=True)
    )
    if reach > LONGEST_AXIS:
        return f"indices up to {reach:,} on one axis, of {LONGEST_AXIS:,}"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The channels-last copy of contiguous weights."""
    taps_apart = problem.taps > 1 and problem.c > problem.groups and not problem.channels_last
    if problem.face == "wgrad" or problem.empty or not taps_apart:
        return []
    return [f"copies w to channels last: {math.prod(problem.w_shape) * problem.dtype.itemsize:,} bytes"]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    return _computed(problem, a, b, bias, NOTHING)


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """`epilogue(run(problem, a, b, bias)) + residual` of an fprop or dgrad, at its store."""
    after = ending(problem, epilogue, residual)
    return after.applied(run(problem, a, b, bias)) if problem.empty else _computed(problem, a, b, bias, after)


def _computed(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, after: Ending) -> Tensor:
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if result.numel() == 0:
        return result
    if problem.empty:  # a sum over no terms
        result.zero_()
        return result if bias is None else result.add_(bias.view(-1, *[1] * problem.rank))
    if problem.face == "wgrad":
        launch, partial = weight_launch(problem, a, b, result)
        launch()
        if partial is not None:
            add_in_order(partial, result)
    else:
        image_launch(problem, a, b, bias, result, after)()
    return result
