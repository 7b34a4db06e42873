"""Where the elements of a tensor lie: what a kernel is told about its strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import triton.language as tl
from torch import Tensor

from convext.triton_kernels.index import three_axes
from convext.triton_kernels.pixels import coalesce


@dataclass(frozen=True)
class Lying:
    """Shape and strides of a tensor [first, channels, *space]."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def channel(self) -> int:
        """Stride of the channels."""
        return self.strides[1]

    @property
    def pixels_inner(self) -> bool:
        """Whether neighbours in memory are pixels (or taps) rather than channels."""
        return self.shape[1] > 1 and self.channel != 1

    @property
    def outer(self) -> tuple[int, int, int, int]:
        """Strides of the first axis and of three axes of space; 0 for axes of size 1, and for missing ones."""
        first, _, *space = (stride if size > 1 else 0 for size, stride in zip(self.shape, self.strides, strict=True))
        return (first, *three_axes(space, 0))

    @property
    def extent(self) -> int:
        """Elements from its first to its last."""
        return sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def tap_stride(self) -> int | None:
        """What leads from every place to the next, where one stride does."""
        sizes, strides = coalesce(self.shape[2:], self.strides[2:])
        return strides[0] if len(sizes) == 1 else None

    def addressable(self, itemsize: int) -> bool:
        """Whether TMA can address it: channels side by side, everything else at multiples of 16 bytes."""
        steps = [stride for size, stride in zip(self.shape, self.strides, strict=True) if size > 1 and stride != 1]
        return self.channel == 1 and all(step > 0 and step * itemsize % 16 == 0 for step in steps)

    @classmethod
    def of(cls, t: Tensor) -> Lying:
        return cls(tuple(t.shape), t.stride())


def offset_type(*tensors: Lying) -> tl.dtype:
    """64 bits where a tensor reaches over 2^31 elements."""
    return tl.int64 if max(t.extent for t in tensors) >= 1 << 31 else tl.int32


def descriptor_strides(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> list[int]:
    """Strides for TMA of a tensor whose last axis is dense, the last one among them.

    Along an axis of size 1 any stride leads nowhere, but NVIDIA's rules hold for it too (cuTensorMapEncodeTiled): a
    multiple of 16 bytes and of the stride of the next inner axis, and no less than that axis is long.

    Args:
        shape: sizes of all axes.
        strides: of all but the last, in elements; that of an axis of size 1 is not read.
        itemsize: bytes of an element.
    """
    *outer, last = shape
    unit = 16 // itemsize
    extent, found = -(-last // unit) * unit, [1]
    for size, stride in zip(reversed(outer), reversed(strides), strict=True):
        found.append(extent if size == 1 else stride)
        extent = found[-1] * size
    return found[::-1]
