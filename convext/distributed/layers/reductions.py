"""Sums over ranks, with a gradient: that of each rank's part is the sum of all ranks' gradients by the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from convext.distributed.halos.exchange import naming


def summed(t: Tensor, mesh: DeviceMesh, axes: Sequence[int], name: str) -> Tensor:
    """The sum of `t` over the ranks along some axes of a mesh, on each of them. Differentiable to any order.

    Raises:
        RuntimeError: a rank did not answer; names the layer.
    """
    for axis in axes:
        t = cast(Tensor, _Sum.apply(t, mesh.get_group(axis), name))
    return t


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, group: dist.ProcessGroup, name: str) -> Tensor:
        ctx.rest = group, name
        total = t.clone(memory_format=torch.contiguous_format)
        with naming(name, "the sum over the ranks of its group"):
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Sum.apply(gradient, *ctx.rest)), None, None
