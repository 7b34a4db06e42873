"""What a layer reads along each axis of space: one description of convolutions, poolings and upsampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from convext.distributed.halos.intervals import Axis, Mode
from convext.functional.geometry import conv_transpose_geometry, expand
from convext.functional.padding import is_torchs, pad_sides, resolve_padding
from convext.problem import Ints, output_size
from convext.problem.conv_problem import Face


@dataclass(frozen=True)
class Geometry:
    """A layer's geometry for an input of one size.

    Attributes:
        scatters: whether rows of the input are spread, as by a transposed convolution, or gathered.
        size: of the result, one value an axis of space.
        kernel, stride, pad, dilation: one value an axis; `pad` is before it.
        groups: of channels.
        mode: what lies around the input: "zeros" (for a pooling: nothing), "circular", "reflect" or "replicate".
    """

    scatters: bool
    size: Ints
    kernel: Ints
    stride: Ints
    pad: Ints
    dilation: Ints
    groups: int = 1
    mode: Mode = "zeros"

    @property
    def face(self) -> Face:
        """The face of a convolution with this geometry."""
        return "dgrad" if self.scatters else "fprop"

    def axes(self, input: Ints) -> list[Axis]:
        """Each axis of space, for an input of this spatial size."""
        each = zip(input, self.size, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        return [Axis(self.scatters, i, o, k, s, p, d, self.mode) for i, o, k, s, p, d in each]


def of_layer(layer: nn.Module, input: Ints) -> Geometry:
    """The geometry of a convolution, pooling or upsampling layer for an input of shape [N, C, *space].

    Raises:
        RuntimeError: the layer does not take an input of this shape.
        ValueError: the layer reads rows in a way that is none of these.
    """
    if isinstance(layer, nn.modules.conv._ConvNd):
        found = _transposed(layer, input) if layer.transposed else _convolution(layer, input)
    elif isinstance(layer, nn.Upsample):
        found = _upsampling(layer, tuple(input[2:]))
    else:
        found = _pooling(layer, tuple(input[2:]))
    if min(found.size) < 1:
        raise RuntimeError(f"{layer} does not take an input of shape {list(input)}: it has no results")
    return found


def _convolution(layer: Any, input: Ints) -> Geometry:
    rank, kernel, stride, dilation = len(input) - 2, layer.kernel_size, layer.stride, layer.dilation
    if is_torchs(layer.padding, stride, rank):
        around = layer._reversed_padding_repeated_twice
        pads = tuple((around[2 * i], around[2 * i + 1]) for i in reversed(range(rank)))
    else:
        pads = resolve_padding(layer.padding, input[2:], kernel, stride, dilation)
    begin, end = (tuple(pair[side] for pair in pads) for side in (0, 1))
    mode = layer.padding_mode
    if mode != "zeros":  # torch refuses to mirror or to wrap more than there is
        pad_sides(torch.empty((1, 1, *input[2:]), device="meta"), pads, mode)
    size = output_size(input[2:], kernel, stride, begin, end, dilation)
    return Geometry(False, size, kernel, stride, begin, dilation, layer.groups, cast(Mode, mode))


def _transposed(layer: Any, input: Ints) -> Geometry:
    common = layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups, len(input) - 2
    found = conv_transpose_geometry(input, layer.weight.shape, None, *common)
    if found is None:
        raise RuntimeError(f"{layer} does not take an input of shape {list(input)}")
    size, stride, pad, dilation, groups = found
    return Geometry(True, size, layer.kernel_size, stride, pad, dilation, groups)


def _pooling(layer: Any, input: tuple[int, ...]) -> Geometry:
    rank = len(input)
    if isinstance(layer, nn.modules.pooling._AdaptiveAvgPoolNd):
        asked = expand(layer.output_size, rank) or ()
        size = tuple(i if o is None else o for i, o in zip(input, asked, strict=True))
        if any(i % o for i, o in zip(input, size, strict=True)):
            raise ValueError(f"{layer}: expected sizes that divide the input's, {list(input)}, but got {list(size)}")
        kernel = tuple(i // o for i, o in zip(input, size, strict=True))
        return Geometry(False, size, kernel, kernel, (0,) * rank, (1,) * rank)
    names = "kernel_size", "stride", "padding"
    kernel, stride, pad = (cast("tuple[int, ...]", expand(getattr(layer, name), rank)) for name in names)
    dilation = cast("tuple[int, ...]", expand(getattr(layer, "dilation", 1), rank))
    spare = tuple(s - 1 if layer.ceil_mode else 0 for s in stride)
    sizes = list(output_size(input, kernel, stride, pad, tuple(map(sum, zip(pad, spare, strict=True))), dilation))
    for i, last in enumerate(sizes):
        if layer.ceil_mode and (last - 1) * stride[i] >= input[i] + pad[i]:  # it would begin in the padding after
            sizes[i] -= 1
    return Geometry(False, tuple(sizes), kernel, stride, pad, dilation)


def _upsampling(layer: nn.Upsample, input: tuple[int, ...]) -> Geometry:
    rank = len(input)
    if layer.size is not None:
        size = cast("tuple[int, ...]", expand(layer.size, rank))
        times = tuple(o // i for i, o in zip(input, size, strict=True))
    else:
        times = tuple(int(f) for f in expand(layer.scale_factor, rank) or ())
        size = tuple(i * f for i, f in zip(input, times, strict=True))
    if any(i * f != o or f < 1 for i, f, o in zip(input, times, size, strict=True)):
        raise ValueError(f"{layer}: expected multiples of the input's sizes, {list(input)}, but got {list(size)}")
    return Geometry(True, size, times, times, (0,) * rank, (1,) * rank)
