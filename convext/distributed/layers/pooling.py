"""Poolings and nearest upsampling of DTensors: windows as a convolution's, with another sum in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from torch.nn import functional as F

from convext.distributed import geometry
from convext.distributed.geometry import Geometry
from convext.distributed.halos.intervals import share
from convext.distributed.halos.windows import Local, local
from convext.distributed.layers.sharded import Sharded
from convext.distributed.placement import own, space, whole, without_sums

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Pooling(Sharded):
    """What poolings and upsampling share: their channels do not mix, so that any axis but space is any rank's."""

    def on_shards(self, input: DTensor) -> Tensor:
        input = without_sums(input)
        g = geometry.of_layer(self, input.shape)
        axes = g.axes(input.shape[2:])
        mine = local(own(input), input, axes, self.place.name)
        shape = (*mine.x.shape[:2], *mine.rows)
        y = mine.x.sum() + mine.x.new_zeros(shape) if 0 in shape else self.computed(g, mine, mine.after(axes), input)
        return whole(y, input.device_mesh, input.placements, (*input.shape[:2], *g.size))

    def computed(self, g: Geometry, mine: Local, after: tuple[int, ...], input: DTensor) -> Tensor:
        """This rank's rows, from its window, after which its last rows read so much more."""
        raise NotImplementedError


class MaxPool(Pooling):
    """`torch.nn.MaxPool1d`, 2d and 3d."""

    def computed(self, g: Geometry, mine: Local, after: tuple[int, ...], input: DTensor) -> Tensor:
        x = _bordered(mine, after, -math.inf)
        return _MAX[len(g.kernel)](x, g.kernel, g.stride, 0, g.dilation)


class AvgPool(Pooling):
    """`torch.nn.AvgPool1d`, 2d and 3d, and the adaptive ones to sizes that divide the input's."""

    def on_shards(self, input: DTensor) -> Tensor:
        g = geometry.of_layer(self, input.shape)
        if all(size == 1 for size in g.size) and g.kernel == tuple(input.shape[2:]):
            return self._over_all(input)
        return super().on_shards(input)

    def _over_all(self, input: DTensor) -> Tensor:
        """One result a channel: a sum over the ranks, and no halos of everything."""
        axes = tuple(range(2, input.dim()))
        means = own(input).sum(axes, keepdim=True) / math.prod(input.shape[2:])
        shared = set(space(input).values())
        sums = [Partial() if axis in shared else p for axis, p in enumerate(input.placements)]
        return without_sums(whole(means, input.device_mesh, sums, (*input.shape[:2], *[1] * len(axes))))

    def computed(self, g: Geometry, mine: Local, after: tuple[int, ...], input: DTensor) -> Tensor:
        x, rank, size = _bordered(mine, after, 0.0), len(g.kernel), math.prod(g.kernel)
        y = _MEAN[rank](x, g.kernel, g.stride)
        if (divisor := getattr(self, "divisor_override", None)) is not None:
            return y * (size / divisor)
        counts = [torch.tensor(n, dtype=y.dtype, device=y.device) for n in self._counts(g, input, mine.rows)]
        if all(bool((n == k).all()) for n, k in zip(counts, g.kernel, strict=True)):
            return y
        for i, n in enumerate(counts):
            y = y * (g.kernel[i] / n).view(-1, *[1] * (rank - 1 - i))
        return y

    def _counts(self, g: Geometry, input: DTensor, rows: Sequence[int]) -> list[list[int]]:
        """How many positions each of this rank's rows is the mean of, on each axis: as torch counts them."""
        sharded, mesh, found = space(input), input.device_mesh, []
        padded = getattr(self, "count_include_pad", True)
        for i, axis in enumerate(g.axes(input.shape[2:])):
            first, last = (-axis.pad, axis.input + axis.pad) if padded else (0, axis.input)
            mine = range(axis.result)
            if 2 + i in sharded:
                mine = share(axis.result, mesh.size(sharded[2 + i]), mesh.get_local_rank(sharded[2 + i]))
            starts = [row * axis.stride - axis.pad for row in mine]
            found.append([min(start + axis.kernel, last) - max(start, first) for start in starts])
        return found


class Upsample(Pooling):
    """`torch.nn.Upsample` to the nearest, by whole numbers."""

    def computed(self, g: Geometry, mine: Local, after: tuple[int, ...], input: DTensor) -> Tensor:
        layer: Any = self
        times = [held * f for held, f in zip(mine.x.shape[2:], g.kernel, strict=True)]
        y = F.interpolate(mine.x, size=times, mode=layer.mode)
        for i, (pad, rows) in enumerate(zip(mine.pad, mine.rows, strict=True)):
            y = y.narrow(2 + i, pad, rows)
        return y


def _bordered(mine: Local, after: tuple[int, ...], value: float) -> Tensor:
    """The window with `value` around it wherever its rows read on."""
    around = tuple(zip(mine.pad, after, strict=True))
    flat = [side for pair in reversed(around) for side in pair]
    return F.pad(mine.x, flat, value=value) if any(flat) else mine.x
