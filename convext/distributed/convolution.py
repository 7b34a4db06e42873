"""A face of which operands are DTensors: each rank computes its own part of the result.

A layer above the operators: operands become what a rank holds, halos included, and that is a problem like any other,
for the faces take the size of the open tensor and the padding before it. Derivatives are the faces' and the exchange's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from convext import functional, operators
from convext.distributed.exchange import Exchange
from convext.distributed.indices import Split, split
from convext.distributed.intervals import Axis, Mode, route, share
from convext.distributed.placement import everywhere, part, space, whole
from convext.problem import Face, Ints, open_shape


def convolve(
    face: Face, a: DTensor, b: Tensor, bias: Tensor | None,
    size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int, kernel: str,
    mode: Mode = "zeros", name: str = "a convolution",
) -> Tensor:  # fmt: skip
    """`convext.operators.convolve` of "fprop" or "dgrad", whose input is a DTensor.

    Args:
        face, size, stride, pad, dilation, groups, kernel: as there.
        a: sharded along any of its axes, or whole.
        b, bias: DTensors, or plain tensors that are the same on all ranks; so are their gradients then. Gradients of
            DTensors are partial sums along axes of the mesh that share out images or space.
        mode: for "fprop", what is around the input: zeros, or what `torch.nn.functional.pad` puts there.
        name: of the layer, for errors.

    Returns:
        A DTensor that is sharded as the input is; by channels where the weight is sharded so; a partial sum where
        the input's channels are shared out.

    Raises:
        RuntimeError: operands that do not fit; two axes of the mesh shard one dimension; an exchange that failed.
    """
    mesh, w = a.device_mesh, everywhere(b, a.device_mesh)
    shape = open_shape(face, a.shape, w.shape, size, groups)
    splits = [split(face, a, w, axis, groups) for axis in range(mesh.ndim)]
    summed = [s.sums_weights for s in splits]
    x = part(a, [s.input for s in splits], [s.sums_input for s in splits])
    weight = part(w, [s.weight for s in splits], summed)
    added = None if bias is None else _bias(everywhere(bias, mesh), splits, summed)
    axes = {
        2 + i: Axis(face == "dgrad", a.shape[2 + i], size[i], w.shape[2 + i], stride[i], pad[i], dilation[i], mode)
        for i in range(len(size))
    }
    x, rows, before = _window(x, a, axes, name)
    groups = groups * weight.shape[0] // w.shape[0] if groups > 1 else 1
    channels = weight.shape[0] if face == "fprop" else weight.shape[1] * groups
    if 0 in (x.shape[0], channels, *rows) or 0 in (x.numel(), weight.numel()):
        y = _nothing((x.shape[0], channels, *rows), x, weight, added)
    else:
        y = operators.convolve(face, x, weight, added, rows, stride, before, dilation, groups, kernel)
    return whole(y, mesh, [s.result for s in splits], shape)


def _window(x: Tensor, a: DTensor, axes: dict[int, Axis], name: str) -> tuple[Tensor, list[int], list[int]]:
    """What this rank, which has `x` of `a`, reads of it, how many rows of the result it owns, and the padding left."""
    mesh, sharded = a.device_mesh, space(a)
    rows, before = [axis.result for axis in axes.values()], [axis.pad for axis in axes.values()]
    for dim, axis in axes.items():
        if dim in sharded:
            ranks, rank = mesh.size(sharded[dim]), mesh.get_local_rank(sharded[dim])
            path = route(axis, ranks, rank)
            x = Exchange(path, dim, mesh.get_group(sharded[dim]), name).gather(x)
            rows[dim - 2], before[dim - 2] = len(share(axis.result, ranks, rank)), path.window.pad
    return _padded(x, axes, sharded, before), rows, before


def _padded(x: Tensor, axes: dict[int, Axis], sharded: Collection[int], before: list[int]) -> Tensor:
    """`x` with what is not zeros around those axes that lie on one rank."""
    pads = [(0, 0)] * len(axes)
    for dim, axis in axes.items():
        if dim not in sharded and axis.mode != "zeros":
            last = (axis.result - 1) * axis.stride + (axis.kernel - 1) * axis.dilation - axis.pad
            pads[dim - 2], before[dim - 2] = (axis.pad, max(0, last - axis.input + 1)), 0
    return functional.pad(x, tuple(pads), axes[2].mode) if any(map(any, pads)) else x


def _bias(bias: DTensor, splits: Sequence[Split], summed: Sequence[bool]) -> Tensor:
    """This rank's share of the bias. Of ranks whose results are summed, the first one adds it."""
    partial = [axis for axis, s in enumerate(splits) if s.result.is_partial()]
    sums = [s or axis in partial for axis, s in enumerate(summed)]
    local = part(bias, [s.bias for s in splits], sums)
    first = all(bias.device_mesh.get_local_rank(axis) == 0 for axis in partial)
    return local.where(torch.tensor(first, device=local.device), local.new_zeros(()))


def _nothing(shape: Sequence[int], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A result without elements, or a sum of no terms. It takes part in the backward pass, as the other ranks' do."""
    y = x.new_zeros(shape) + 0 * (x.sum() + weight.sum())
    return y if bias is None else y + bias.view(-1, *[1] * (len(shape) - 2))
