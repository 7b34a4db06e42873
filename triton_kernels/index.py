"""The index equation, for every kernel: `i = o * stride + t * dilation - pad`.

Convolution kernels read x at the input index `i` of an output `o` and a tap `t`, or y at the output index of an input
and a tap. Indices outside a tensor read zeros, so each helper comes with, or is, the mask that says what is inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl  # noqa: F401  Triton's interpreter looks for it in the module of every function


def three_axes(values: Sequence[int], fill: int) -> tuple[int, int, int]:
    """The (depth, height, width) of one to three spatial values: missing leading axes are `fill`."""
    d, h, w = (*[fill] * (3 - len(values)), *values)
    return d, h, w


@triton.jit
def input_index(o, t, stride, dilation, pad):
    """The input index that output `o` reads through tap `t`; it may lie outside the input."""
    return o * stride + t * dilation - pad


@triton.jit
def output_index(i, t, stride, dilation, pad):
    """The output that reads input `i` through tap `t`, and whether there is one; it may lie outside the output."""
    scaled = i + pad - t * dilation
    o = scaled // stride
    return o, o * stride == scaled


@triton.jit
def inside(i, size):
    """Whether `0 <= i < size`."""
    return (i >= 0) & (i < size)


@triton.jit
def unravel(q, size):
    """`(q // size, q % size)` for non-negative q: the slower index and the index along an axis of `size`."""
    slow = q // size
    return slow, q - slow * size
