"""A face of which operands are DTensors: each rank computes its own part of the result.

A layer above the operators: operands become what a rank holds, halos included, and that is a problem like any other,
for the faces take the size of the open tensor and the padding before it. Derivatives are the faces' and the exchange's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from convext import functional, operators
from convext.distributed.geometry import Geometry
from convext.distributed.halos import overlap, worth
from convext.distributed.halos.intervals import Axis, Mode
from convext.distributed.halos.overlap import Call
from convext.distributed.halos.windows import Borders, Last, Local, begun, complete
from convext.distributed.indices import Split, split
from convext.distributed.placement import everywhere, part, space, whole
from convext.functional.padding import pad_sides
from convext.functional.whose import is_torchs_own
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
    geometry = Geometry(face == "dgrad", size, w.shape[2:], stride, pad, dilation, groups, mode)
    axes = geometry.axes(a.shape[2:])
    mine, last = begun(x, a, axes, name)
    groups = groups * weight.shape[0] // w.shape[0] if groups > 1 else 1
    channels = weight.shape[0] if face == "fprop" else weight.shape[1] * groups

    def computed(mine: Local, weight: Tensor, bias: Tensor | None) -> Tensor:
        if face == "fprop" and is_torchs_own(mine.x, weight):
            return _torchs_own(mine, axes, weight, bias, stride, dilation, groups)
        return operators.convolve(face, mine.x, weight, bias, mine.rows, stride, mine.pad, dilation, groups, kernel)

    if 0 in (x.shape[0], channels, *mine.rows, weight.numel()):
        y = _nothing((x.shape[0], channels, *mine.rows), complete(mine, last, a, axes).x, weight, added)
    elif last is not None and _hides(face, mine, last, weight, stride, dilation, groups):
        call = Call(face, stride, dilation, groups, kernel, Borders.of(axes, space(a)), computed)
        y = overlap.convolve(call, mine, last, weight, added)
    else:
        y = computed(complete(mine, last, a, axes), weight, added)
    return whole(y, mesh, [s.result for s in splits], shape)


def _hides(face: Face, mine: Local, last: Last, weight: Tensor, stride: Ints, dilation: Ints, groups: int) -> bool:
    """Whether inner rows are computed while the last halos are under way."""
    if last.inner is None or not mine.x.is_floating_point():
        return False
    axis, halo = last.exchange.dim - 2, last.exchange.route.halo
    shapes = tuple(mine.x.shape), tuple(weight.shape), mine.rows
    geometry = tuple(stride), mine.pad, tuple(dilation), groups
    return worth.pays(worth.costs(face, *shapes, *geometry, mine.x.dtype, axis, halo, last.inner))


_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _torchs_own(
    mine: Local, axes: Sequence[Axis], weight: Tensor, bias: Tensor | None, stride: Ints, dilation: Ints, groups: int
) -> Tensor:
    """The convolution by functions that ask what is best off CUDA, which is torch's own but for what was measured."""
    x, pad, rank = mine.x, mine.pad, len(axes)
    after = tuple(max(0, n) for n in mine.after(axes))
    if pad != after:
        x, pad = pad_sides(x, tuple(zip(pad, after, strict=True)), "zeros"), (0,) * rank
    return _CONV[rank](x, weight, bias, stride, pad, dilation, groups)


def _bias(bias: DTensor, splits: Sequence[Split], summed: Sequence[bool]) -> Tensor:
    """This rank's share of the bias. Of ranks whose results are summed, the first one adds it."""
    partial = [axis for axis, s in enumerate(splits) if s.result.is_partial()]
    sums = [s or axis in partial for axis, s in enumerate(summed)]
    mine = part(bias, [s.bias for s in splits], sums)
    first = all(bias.device_mesh.get_local_rank(axis) == 0 for axis in partial)
    return mine if first else mine.where(torch.tensor(False, device=mine.device), mine.new_zeros(()))


def _nothing(shape: Sequence[int], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A result without elements, or a sum of no terms. It takes part in the backward pass, as the other ranks' do."""
    y = x.new_zeros(shape) + 0 * (x.sum() + weight.sum())
    return y if bias is None else y + bias.view(-1, *[1] * (len(shape) - 2))
