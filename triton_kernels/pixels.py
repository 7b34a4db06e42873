"""The pixels of a strided tensor as one flat index.

A pixel is a place in the batch and on the spatial axes; channels lie beside it. Adjacent axes that every tensor steps
through evenly are one axis, so a dense tensor has one or two however many it was declared with:

    NHWC   [N, H, W]  ->  [N*H*W]            NCHW   [N, H, W]  ->  [N, H*W]            x[:, :, ::2]   [N, H/2, W]

A load is as wide as the compiler can prove strides and extents divisible. It is told by passing `value // V` and the
constant V, and multiplying in the kernel; of hints it takes no notice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

NEITHER, CHANNEL, PIXEL = 0, 1, 2  # which axis of a tensor has stride 1


def coalesce(sizes: Sequence[int], *strides: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """`sizes` and the strides of each tensor over them, with the fewest axes that reach the same elements in order."""
    merged: list[list[int]] = []  # [size, stride of the first tensor, of the second, ...]
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1:], steps, strict=True)):
            merged[-1] = [merged[-1][0] * size, *steps]
        else:
            merged.append([size, *steps])
    return tuple(zip(*(merged or [[1] * (1 + len(strides))]), strict=True))


def power_of_two(*values: int, limit: int = 16) -> int:
    """The largest power of two, up to `limit`, that divides every value."""
    common = math.gcd(limit, *values)
    return common & -common


@dataclass(frozen=True)
class Plane:
    """How a kernel steps through a tensor of channels and coalesced pixels.

    Attributes:
        vector: V, the divisor of `strides`; at most 16 bytes of elements.
        unit: which axis has stride 1: NEITHER, CHANNEL or PIXEL (then the last of them).
        strides: of the channels, then of each pixel axis; divided by `vector` but for the unit one.
    """

    vector: int
    unit: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, channel: int, pixels: Sequence[int], itemsize: int) -> Plane:
        """From strides in elements."""
        unit = CHANNEL if channel == 1 else PIXEL if pixels[-1] == 1 else NEITHER
        strides = (channel, *pixels)
        stepped = [s for i, s in enumerate(strides) if not _is_unit(i, unit, len(strides))]
        vector = power_of_two(*stepped, limit=16 // itemsize)
        return cls(
            vector, unit,
            tuple(s if _is_unit(i, unit, len(strides)) else s // vector for i, s in enumerate(strides)),
        )  # fmt: skip


def _is_unit(i: int, unit: int, count: int) -> bool:
    return (unit == CHANNEL and i == 0) or (unit == PIXEL and i == count - 1)


def pixel_strides(t: Tensor) -> tuple[int, ...]:
    """Strides of the batch and of the spatial axes."""
    return (t.stride(0), *t.stride()[2:])


@triton.jit
def channel_stride(strides, V: tl.constexpr, UNIT: tl.constexpr):
    """The stride of a `Plane`'s channels, in elements. Its V-th part fits 32 bits more often than it does."""
    if UNIT == 1:
        return strides[0]
    else:
        return tl.cast(strides[0], tl.int64) * V


@triton.jit
def pixel_offset(q, sizes, SIZE: tl.constexpr, strides, V: tl.constexpr, UNIT: tl.constexpr, AXES: tl.constexpr):
    """Offsets of the pixels q in a `Plane` over `sizes`, in elements, 64-bit. The last size is in units of SIZE."""
    offset = tl.zeros_like(q).to(tl.int64)
    for r in tl.static_range(AXES):
        if r == AXES - 1:
            index = q
        elif r == 0:
            index = q % (sizes[AXES - 1] * SIZE)
            q = q // (sizes[AXES - 1] * SIZE)
        else:
            index = q % sizes[AXES - 1 - r]
            q = q // sizes[AXES - 1 - r]
        if r == 0 and UNIT == 2:
            offset += index
        else:
            offset += index.to(tl.int64) * (tl.cast(strides[AXES - r], tl.int64) * V)
    return offset
