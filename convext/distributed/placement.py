"""Between a DTensor and what a rank holds of it: both ways with gradients, to any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from convext.problem.layout import is_channels_last

Placements = Sequence[Placement]


def whole(local: Tensor, mesh: DeviceMesh, placements: Placements, shape: Sequence[int]) -> DTensor:
    """The DTensor of `shape` of which `local` is this rank's part. Its gradient arrives as it is placed."""
    return cast(DTensor, _Whole.apply(local, mesh, tuple(placements), torch.Size(shape)))


class _Whole(torch.autograd.Function):
    """`DTensor.from_local`. `_Part` is its derivative, and it is `_Part`'s; torch's own have first derivatives only."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, mesh: DeviceMesh, placements: Any, shape: torch.Size) -> DTensor:
        ctx.mesh, ctx.placements = mesh, placements
        strides = _strides(shape, is_channels_last(local))
        return DTensor.from_local(local.detach(), mesh, placements, run_check=False, shape=shape, stride=strides)

    @staticmethod
    def backward(ctx: Any, gradient: DTensor) -> tuple[Tensor, None, None, None]:
        # A partial sum's gradient is that of the sum, whole on every rank.
        placements = tuple(Replicate() if p.is_partial() else p for p in ctx.placements)
        return _Part.apply(_moved(gradient, placements), ctx.placements), None, None, None


class _Part(torch.autograd.Function):
    """`DTensor.to_local`."""

    @staticmethod
    def forward(ctx: Any, t: DTensor, gradients: Any) -> Tensor:
        ctx.rest = t.device_mesh, gradients, t.shape
        local = t.to_local().detach()
        if local.dim() > 2 and local.shape[0] == 1:
            # torch's views give a single image any stride, and channels last is known by strides.
            return local.as_strided(local.shape, (local.numel(), *local.stride()[1:]))
        return local

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Whole.apply(gradient, *ctx.rest)), None


def _moved(t: DTensor, placements: Placements) -> DTensor:
    """`t`, placed as told. Where it is, torch is not asked: its redistribution would sum a gradient that is partial."""
    return t if tuple(placements) == t.placements else t.redistribute(t.device_mesh, placements)


def _strides(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    order = (0, *range(2, len(shape)), 1) if channels_last else range(len(shape))
    strides, extent = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = extent
        extent *= max(shape[dim], 1)
    return tuple(strides)


def everywhere(t: Tensor, mesh: DeviceMesh) -> DTensor:
    """`t` itself where it is a DTensor; a plain tensor is the same on all ranks, and so will be its gradient."""
    if isinstance(t, DTensor):
        return t
    return whole(t, mesh, [Replicate()] * mesh.ndim, t.shape)


def parameter(t: Any) -> Any:
    """`t`, whose gradient is summed before it arrives: optimizers do not take partial sums."""
    return _Parameter.apply(t) if isinstance(t, DTensor) else t


class _Parameter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: DTensor) -> Tensor:
        ctx.mesh, ctx.placements = t.device_mesh, t.placements
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, gradient: DTensor) -> DTensor:
        return gradient.redistribute(ctx.mesh, ctx.placements)


def part(t: DTensor, placements: Placements, summed: Sequence[bool]) -> Tensor:
    """This rank's part of `t`, placed as told.

    `summed` says for each axis of the mesh whether its ranks see shares of the work, so that a gradient of `t` is the
    sum of theirs.
    """
    gradients = tuple(Partial() if s else p for s, p in zip(summed, placements, strict=True))
    return cast(Tensor, _Part.apply(_moved(t, placements), gradients))


def own(t: DTensor) -> Tensor:
    """This rank's part of `t`, as it is placed."""
    return part(t, t.placements, [False] * len(t.placements))


def space(t: DTensor) -> dict[int, int]:
    """{dimension of the tensor: axis of the mesh} for dimensions of space that are sharded.

    Raises:
        RuntimeError: two axes of the mesh shard one dimension.
    """
    found: dict[int, int] = {}
    for axis, placement in enumerate(t.placements):
        if isinstance(placement, Shard) and placement.dim > 1:
            if placement.dim in found:
                raise RuntimeError(
                    f"expected each axis of space on one axis of the mesh, but got {t.placements} of a tensor of shape "
                    f"{list(t.shape)}: flatten these axes of the mesh into one"
                )
            found[placement.dim] = axis
    return found


def without_sums(t: DTensor) -> DTensor:
    """`t` with its partial sums summed."""
    return t.redistribute(t.device_mesh, [Replicate() if p.is_partial() else p for p in t.placements])
