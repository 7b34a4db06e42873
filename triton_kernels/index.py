"""Indices of the axes of a problem, for every kernel. Those outside a tensor read zeros."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl  # noqa: F401  Triton's interpreter looks for it in the module of every function


def three_axes(values: Sequence[int], fill: int) -> tuple[int, int, int]:
    """The (depth, height, width) of one to three spatial values: missing leading axes are `fill`."""
    d, h, w = (*[fill] * (3 - len(values)), *values)
    return d, h, w


@triton.jit
def inside(i, size):
    """Whether `0 <= i < size`."""
    return (i >= 0) & (i < size)


@triton.jit
def unravel(q, size):
    """`(q // size, q % size)` for non-negative q: the slower index and the index along an axis of `size`."""
    slow = q // size
    return slow, q - slow * size
