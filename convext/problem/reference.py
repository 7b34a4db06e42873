"""The three faces in plain torch and float64: the oracle of the tests and of the benchmark's gate.

One pass a tap. With x padded so that every index lies inside, tap t of output o reads x[o * stride + t * dilation],
which over all o is one strided slice:

    fprop   y          += w[t] * slice(x)
    dgrad   slice(x)   += w[t] * y
    wgrad   w[t]        = sum over n, o of y * slice(x)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from convext.problem import ConvProblem


def compute(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """The open tensor of `problem` in float64, dense, on the operands' device.

    Args:
        problem: which face of which convolution.
        a, b: the face's operands, any real dtype and strides.
        bias: one value for each channel of the result, or None.
    """
    p, g = problem, problem.groups
    a, b = a.double(), b.double()
    # Channels split into groups: x [n, g, c, ...], w [g, k, c, ...], y [n, g, k, ...]
    if p.face == "fprop":
        x, w = _padded(p, a).unflatten(1, (g, -1)), b.unflatten(0, (g, -1))
        y = a.new_zeros(p.y_shape).unflatten(1, (g, -1))
        for tap, window in _taps(p):
            y += torch.einsum("ngc...,gkc->ngk...", x[window], w[(..., *tap)])
        result = y.flatten(1, 2)
    elif p.face == "dgrad":
        y, w = a.unflatten(1, (g, -1)), b.unflatten(0, (g, -1))
        x = a.new_zeros(p.n, p.c, *_extent(p)).unflatten(1, (g, -1))
        for tap, window in _taps(p):
            x[window].add_(torch.einsum("ngk...,gkc->ngc...", y, w[(..., *tap)]))  # `+=` is not differentiable here
        result = x.flatten(1, 2)[_inside(p)]
    else:
        x, y = _padded(p, a).unflatten(1, (g, -1)), b.unflatten(1, (g, -1))
        w = a.new_zeros(p.w_shape).unflatten(0, (g, -1))
        for tap, window in _taps(p):
            w[(..., *tap)] = torch.einsum("ngco,ngko->gkc", x[window].flatten(3), y.flatten(3))
        result = w.flatten(0, 1)
    if bias is not None:
        result = result + bias.double().view(-1, *[1] * p.rank)
    return result.contiguous()


def _extent(p: ConvProblem) -> list[int]:
    """Size of x with the zeros before it and after it, and never less than x itself."""
    return [begin + size + max(end, 0) for begin, size, end in zip(p.pad, p.input, p.end, strict=True)]


def _inside(p: ConvProblem) -> Any:
    """Index of x within its zeros."""
    return (..., *(slice(begin, begin + size) for begin, size in zip(p.pad, p.input, strict=True)))


def _padded(p: ConvProblem, x: Tensor) -> Tensor:
    result = x.new_zeros(p.n, p.c, *_extent(p))
    result[_inside(p)] = x
    return result


def _taps(p: ConvProblem) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Each tap, with the index of the inputs that it pairs with the outputs."""
    for tap in product(*map(range, p.kernel)):
        window = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s) if o else slice(0, 0)
            for t, d, o, s in zip(tap, p.dilation, p.output, p.stride, strict=True)
        )
        yield tap, (..., *window)
