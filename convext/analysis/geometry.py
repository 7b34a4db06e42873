"""Closed forms along one axis: which inputs a stack of dilated layers reads, and how often transposed taps meet.

Axes are independent: a two-dimensional map is the outer product of two of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """How many of the positions of a receptive field are read at all."""

    read: int
    field: int

    @property
    def ratio(self) -> float:
        return self.read / self.field

    def __str__(self) -> str:
        return f"{self.read}/{self.field}"


def paths(kernel_size: int, dilations: Sequence[int]) -> Tensor:
    """In how many ways each position of the receptive field reaches the output of a stack with stride 1.

    Returns int64 [1 + sum((k-1) d)]: the convolution of the layers' combs. Zeros are holes.
    """
    count = torch.ones(1, dtype=torch.int64)
    for dilation in dilations:
        size = len(count) + (kernel_size - 1) * dilation
        wider = torch.zeros(size, dtype=torch.int64)
        for tap in range(kernel_size):
            wider[tap * dilation : tap * dilation + len(count)] += count
        count = wider
    return count


def coverage(kernel_size: int, dilations: Sequence[int]) -> Coverage:
    """Positions read of the receptive field of a stack with stride 1: 9 of 17 for k = 3, dilations 2, 2, 2, 2.

    Less than all is *gridding*: neighbouring outputs share no inputs, and the result shows the grid.
    """
    count = paths(kernel_size, dilations)
    return Coverage(int(count.count_nonzero()), len(count))


def hdc(kernel_size: int, dilations: Sequence[int]) -> int:
    """The largest distance M2 between two non-zero weights that a stack leaves (Wang et al., arXiv 1702.08502, eq. 2).

        M_n = d_n;   M_i = max(M_{i+1} - 2 d_i,  2 d_i - M_{i+1},  d_i)

    Their criterion for a stack without holes is M2 <= kernel_size: 1, 2, 5 gives 2, and 1, 2, 9 gives 5.
    """
    if len(dilations) < 2:
        raise ValueError(f"expected at least two dilations, got {list(dilations)}")
    *inner, largest = dilations
    for d in reversed(inner[1:]):
        largest = max(largest - 2 * d, 2 * d - largest, d)
    return largest


def overlap(kernel_size: int, stride: int, dilation: int = 1) -> tuple[int, ...]:
    """How many inputs meet in each output of a transposed convolution, over one period of `stride` outputs.

    Away from the border. Unequal counts are the *checkerboard* (Odena et al., 2016): (2, 1) for k = 3, stride 2; zeros
    are outputs that nothing reaches. Equal if and only if the taps fall on all phases alike; without dilation, if
    `stride` divides `kernel_size`.
    """
    counts = [0] * stride
    for tap in range(kernel_size):
        counts[tap * dilation % stride] += 1
    return tuple(counts)


def dead_taps(size: int, kernel_size: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> list[int]:
    """Taps that read nothing but zeros of the padding, for every output of an axis of `size` inputs.

    They cost parameters and time and never learn: with dilation 18, a 3x3 kernel on an 8x8 map is a 1x1 kernel.
    """
    begin, end = padding
    outputs = (size + begin + end - dilation * (kernel_size - 1) - 1) // stride + 1
    return [
        tap
        for tap in range(kernel_size)
        if not any(0 <= o * stride + tap * dilation - begin < size for o in range(outputs))
    ]


def dense_kernel(weight: Tensor, dilation: int | Sequence[int]) -> Tensor:
    """The kernel without dilation that does what `weight` does with it: [K, C, k, ..] -> [K, C, (k-1)d + 1, ..].

    Zeros in between: 3x3 with dilation 2 is a 5x5 kernel with 16 holes.
    """
    rank = weight.dim() - 2
    each = (dilation,) * rank if isinstance(dilation, int) else tuple(dilation)
    size = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], each, strict=True)]
    dense = weight.new_zeros(*weight.shape[:2], *size)
    index: Any = (..., *(slice(None, None, d) for d in each))
    dense[index] = weight
    return dense
