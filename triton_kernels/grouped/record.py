"""Grouped convolution with few channels a group: groups are packed side by side until they fill a tensor core.

    fprop   y[k, o] = sum over c and t of  w[k, c, t] * x[c, i]      i = o * stride + t * dilation - pad
    dgrad   x[c, i] = sum over k and t of  w[k, c, t] * y[k, o]      c and k of one group      grouped_image.py
    wgrad   w[k, c, t] = sum over o of     y[k, o] * x[c, i]                                   grouped_weight.py

The useful part of a product is one group's share of the pack, and the rest is zeros; groups of 16 channels and more
fill a product by themselves (igemm.py). Products take channels side by side: in NCHW all three tensors are copied.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from convext.problem import OPEN, ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import NOTHING, Ending, ending
from convext.triton_kernels.grouped.launch import image_launch, weight_launch
from convext.triton_kernels.grouped.tiles import NARROWEST, WIDEST, packed_width
from convext.triton_kernels.passes.reduce import add_in_order
from convext.triton_kernels.passes.transpose import dense

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
    """Those of all three tensors in NCHW, whose channels a product takes side by side.

    Loaded and stored one by one they cost more: on an H200 the copies make 3x3 layers with 2 and 4 channels in a group
    2.5 to 3.3 times as fast (tiles_sm_90.jsonl).
    """
    if problem.empty or problem.channels_last:
        return []
    return [
        f"copies {role} to channels {'first' if role == OPEN[problem.face] else 'last'}: "
        f"{math.prod(problem.shape(role)) * problem.dtype.itemsize:,} bytes"
        for role in "xwy"
    ]


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
    if problem.empty or math.prod(problem.open_shape) == 0:  # a sum over no terms, or no sums
        result = layout.empty(problem.open_shape, problem.channels_last, a).zero_()
        return result if bias is None else result.add_(bias.view(-1, *[1] * problem.rank))
    if not problem.channels_last:
        a, b = dense(a, channels_last=True), dense(b, channels_last=True)
        result = _computed(replace(problem, channels_last=True), a, b, bias, after.lying(channels_last=True))
        return dense(result, channels_last=False)
    result = layout.empty(problem.open_shape, True, a)
    if problem.face == "wgrad":
        launch, partial = weight_launch(problem, a, b, result)
        launch()
        if partial is not None:
            add_in_order(partial, result)
    else:
        image_launch(problem, a, b, bias, result, after)()
    return result
