"""A model whose layers compute on the ranks of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from convext.distributed.indices import whole_groups
from convext.distributed.layers import swaps
from convext.distributed.layers.sharded import Place
from convext.distributed.placement import everywhere, whole
from convext.distributed.plans import ChannelParallel, Plan, listed


def parallelize(model: nn.Module, mesh: DeviceMesh, plan: Plan | Sequence[Plan]) -> nn.Module:
    """Has a model compute on the ranks of a mesh, in place: its layers take and return DTensors.

    Args:
        model: whose layers `torch.nn` or convext has. What it computes between them, it computes by DTensor's rules.
        mesh: of one or more axes. Parameters and buffers become those of its first rank.
        plan: one for each axis of the mesh. `[BatchParallel(), SpatialParallel(0)]` on a mesh of 2 x 4: two batches,
            each image in four parts.

    Returns:
        The model. A plain tensor that it is called with is one that all ranks have, of which each takes its part; to
        load only that, see `assemble`. Results are DTensors: `full_tensor()` gathers one, `to_local()` is the part.
        Parameters stay plain tensors, so DDP, FSDP2 and optimizers take them, unless `plan` has a `ChannelParallel`:
        then they are DTensors. Their gradients are of the whole.

    Raises:
        ValueError: not one plan for each axis; two for one axis of space; or layers that no rule is known for, by name.
    """
    plans = listed(plan, mesh.ndim)
    found = swaps.of_model(model)
    names = tuple(mesh.mesh_dim_names or map(str, range(mesh.ndim)))
    _as_on_first_rank(model, mesh)
    for name, module in model.named_modules():
        if module in found:
            module.__class__ = found[module]
            module.place = Place(name, plans, names)  # type: ignore[assignment]
    if any(isinstance(p, ChannelParallel) for p in plans):
        _share_parameters(model, mesh, plans)

    def place(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        placed = [_placed(value, mesh, plans) for value in arguments]
        return tuple(placed), {name: _placed(value, mesh, plans) for name, value in keywords.items()}

    model.register_forward_pre_hook(place, with_kwargs=True)
    return model


def assemble(part: Tensor, shape: Sequence[int], mesh: DeviceMesh, plan: Plan | Sequence[Plan]) -> DTensor:
    """An input of a model of which each rank has loaded its own part.

    Args:
        part: rows `share(size, ranks, rank)` of each axis that a plan shares out.
        shape: of the whole.
        mesh, plan: as for `parallelize`.

    Raises:
        ValueError: the part has another shape than this rank's.
    """
    plans = listed(plan, mesh.ndim)
    placements = [p.placement(len(shape)) for p in plans]
    expected = torch.empty(shape, device="meta")
    for axis, placement in enumerate(placements):
        if isinstance(placement, Shard):
            chunks = expected.chunk(mesh.size(axis), placement.dim)
            rank = mesh.get_local_rank(axis)
            expected = chunks[rank] if rank < len(chunks) else expected.narrow(placement.dim, 0, 0)
    if part.shape != expected.shape:
        raise ValueError(
            f"expected this rank's part of {list(shape)} to be {list(expected.shape)}, but got {list(part.shape)}"
        )
    return whole(part, mesh, placements, shape)


def _as_on_first_rank(model: nn.Module, mesh: DeviceMesh) -> None:
    """All ranks start from one model. It is also the first call of these groups, which has to be everybody's."""
    with torch.no_grad():
        for axis in range(mesh.ndim):
            for t in (*model.parameters(), *model.buffers()):
                dist.broadcast(t.data, group=mesh.get_group(axis), group_src=0)


def _placed(value: Any, mesh: DeviceMesh, plans: Sequence[Plan]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return everywhere(value, mesh).redistribute(mesh, [p.placement(value.dim()) for p in plans])


def _share_parameters(model: nn.Module, mesh: DeviceMesh, plans: Sequence[Plan]) -> None:
    """Makes every parameter, and what a norm remembers of channels, a DTensor."""
    for name, module in model.named_modules():
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for key, t in tensors.items():
            if not t.dim():
                continue
            lies = [_parameter_placement(name, module, key, p, mesh.size(i)) for i, p in enumerate(plans)]
            shared = distribute_tensor(t.detach(), mesh, lies)
            if isinstance(t, nn.Parameter):
                module.register_parameter(key, nn.Parameter(shared, t.requires_grad))
            else:
                module.register_buffer(key, shared)


def _parameter_placement(name: str, module: nn.Module, key: str, plan: Plan, ranks: int) -> Placement:
    if not isinstance(plan, ChannelParallel):
        return Replicate()
    if isinstance(module, nn.modules.conv._ConvNd):
        layer: Any = module
        if layer.groups > 1:
            channels = layer.in_channels, layer.out_channels
            return Shard(0) if whole_groups(channels, layer.groups, ranks) else Replicate()
        summed, open = (0, 1) if layer.transposed else (1, 0)
        if any(fnmatch(name, pattern) for pattern in plan.by_input):
            return Shard(summed) if key == "weight" else Replicate()
        return Shard(open) if key == "weight" else Shard(0)
    return Shard(0) if swaps.is_by_channel(module) else Replicate()
