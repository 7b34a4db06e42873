"""plain.shuffle: transposed convolutions whose kernel is their stride, as one product, and a permutation of its pixels.

x[c, o * s + t] = sum over k of y[k, o] w[k, c, t]         no two outputs meet
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convext.problem import ConvProblem
from convext.problem.layout import empty


def why_not(problem: ConvProblem) -> str | None:
    """The dgrad of one group with kernel == stride and nothing padded, cropped or added; float32."""
    p = problem
    if p.kernel != p.stride or p.groups > 1 or max(p.pad) > 0 or max(p.dilation) > 1:
        return (
            "is for kernel = stride, one group, no padding or dilation, but got "
            f"kernel={p.kernel}, stride={p.stride}, groups={p.groups}, pad={p.pad}, dilation={p.dilation}"
        )
    if p.input != tuple(o * s for o, s in zip(p.output, p.stride, strict=True)):
        return f"gives {p.stride} times the size of y, {p.output}, but the result has {p.input}"
    if p.dtype != torch.float32:
        return f"computes float32, not {p.dtype}"
    if p.empty:
        return "a tensor of the problem has no elements"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The product, before its pixels are in place."""
    pixels = problem.n * problem.c * math.prod(problem.input)
    return [f"permutes a copy of the result: {pixels * problem.dtype.itemsize:,} bytes"]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes x from `a`, y, and `b`, w, plus `bias`."""
    p = problem
    products = b.flatten(1).T @ a.flatten(2)  # [N, C * taps, pixels of y]
    pixels = products.view(p.n, p.c, *p.kernel, *p.output)
    order = [axis for i in range(p.rank) for axis in (2 + p.rank + i, 2 + i)]  # o0 t0 o1 t1 ..
    result = empty(p.x_shape, p.channels_last, a)
    split = result.unflatten(2, (p.output[0], p.kernel[0]))
    for axis in range(1, p.rank):
        split = split.unflatten(2 + 2 * axis, (p.output[axis], p.kernel[axis]))
    split.copy_(pixels.permute(0, 1, *order))
    if bias is not None:
        result += bias.view(-1, *[1] * p.rank)
    return result
