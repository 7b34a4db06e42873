"""What the ranks of a mesh do for one layer: their problems, the bytes that they exchange, and the least possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from convext.distributed import geometry
from convext.distributed.geometry import Geometry
from convext.distributed.halos import worth
from convext.distributed.halos.traffic import Load, gathered, loads
from convext.distributed.plans import BatchParallel, ChannelParallel, Plan, SpatialParallel, listed
from convext.problem import ConvProblem, Ints


def explain(
    layer: nn.Module, input: Ints, mesh: DeviceMesh | Sequence[int], plan: Plan | Sequence[Plan],
    dtype: torch.dtype = torch.float32,
) -> str:  # fmt: skip
    """Says what each rank computes and receives, on paper: no rank has to be there.

    Args:
        layer: a convolution, pooling or upsampling layer, torch's or convext's.
        input: the shape of its whole input, [N, C, *space].
        mesh: of ranks, or its shape.
        plan: one for each axis of the mesh.
        dtype: of the input.

    Returns:
        The ranks, those with the same problem in one line; bytes and messages; whether the exchange is hidden, by the
        rule of `convext.distributed.halos.worth`; what is summed in a backward pass.

    Raises:
        ValueError: not one plan for each axis, or a layer without a geometry.
        RuntimeError: a layer that does not take this input.
    """
    ranks = tuple(mesh.shape) if isinstance(mesh, DeviceMesh) else tuple(mesh)
    plans = listed(plan, len(ranks))
    g, item = geometry.of_layer(layer, input), dtype.itemsize
    found = loads(g, input, ranks, plans)
    lines = [f"{_sizes(input)} -> {_sizes(g.size)} over {_sizes(ranks)} ranks by {', '.join(map(str, plans))}"]
    for load, count in _alike(found):
        rank = f"rank {_sizes(load.coordinate)}" + (f" and {count - 1} more" if count > 1 else "")
        lines.append(
            f"  {rank}: reads {_sizes(load.input)}, pad {_sizes(load.pad)}, computes {_sizes(load.result)}; receives "
            f"{load.elements * item:,} bytes (at least {load.least * item:,}) in {sum(load.senders)} message(s)"
        )
        lines += _hidden(layer, g, load, dtype)
    total, least = (sum(getattr(load, name) for load in found) * item for name in ("elements", "least"))
    lines.append(f"  halos: {total:,} bytes in all, least possible {least:,}; as many back in a backward pass")
    mixes = isinstance(layer, nn.modules.conv._ConvNd) and g.groups == 1
    if mixes and (channels := gathered(input, ranks, plans)):
        lines.append(f"  channels: each rank gathers {channels * item:,} bytes of its input, or sums its results")
    lines += _gradients(layer, ranks, plans)
    return "\n".join(lines)


def _alike(found: Sequence[Load]) -> list[tuple[Load, int]]:
    """The first rank of each kind, and how many there are of it."""
    kinds: dict[Any, list[Load]] = {}
    for load in found:
        kinds.setdefault((load.input, load.result, load.pad, load.elements, load.senders, load.last), []).append(load)
    return [(alike[0], len(alike)) for alike in kinds.values()]


def _hidden(layer: nn.Module, g: Geometry, load: Load, dtype: torch.dtype) -> list[str]:
    """Whether a rank computes while it exchanges, and by which figures."""
    if not load.elements:
        return []
    found = costs(layer, g, load, dtype)
    if found is None:
        why = "nothing of it can be computed from own rows alone"
        if not isinstance(layer, nn.modules.conv._ConvNd):
            why = "only convolutions compute meanwhile"
        return [f"    not hidden: {why}; own rows are copied meanwhile"]
    last, name = load.last, "its messages" if len(load.senders) == 1 else "the last axis' messages"
    rows = f"{last.inner.rows} of {load.result[last.axis]} rows"  # type: ignore[union-attr]
    messages, behind, waiting, meanwhile = (
        f"{seconds * 1e6:.0f}" for seconds in (found.messages, found.hidden, found.waiting, found.meanwhile)
    )
    if worth.pays(found):
        told = f"hidden: {behind} of {messages} us of {name}, behind {rows}"
        told = f"{told}: {meanwhile} us in all, {waiting} if it waited"
    else:
        told = f"not hidden: {messages} us of {name}: {waiting} us in all, {meanwhile} if it computed {rows} meanwhile"
    return [f"    {told} (on paper)"]


def costs(layer: Any, g: Geometry, load: Load, dtype: torch.dtype) -> worth.Costs | None:
    """What a convolution costs on the rank of a load; None where nothing can be computed meanwhile."""
    last = load.last
    if last is None or last.inner is None or not isinstance(layer, nn.modules.conv._ConvNd):
        return None
    geometry = tuple(g.stride), last.pad, tuple(g.dilation), g.groups
    shapes = last.input, tuple(layer.weight.shape), load.result
    return worth.costs(g.face, *shapes, *geometry, dtype, last.axis, last.halo, last.inner)


def _gradients(layer: Any, ranks: Ints, plans: Sequence[Plan]) -> list[str]:
    over = [n for n, plan in zip(ranks, plans, strict=True) if not isinstance(plan, ChannelParallel)]
    size = sum(p.numel() * p.element_size() for p in layer.parameters())
    return [f"  gradients of {size:,} bytes are summed over {_sizes(over)} ranks"] if over and size else []


def largest(layer: nn.Module, input: DTensor) -> ConvProblem:
    """The forward of the rank that reads most.

    Raises:
        ValueError: `layer` is no convolution.
    """
    if not isinstance(layer, nn.modules.conv._ConvNd):
        raise ValueError(f"expected a convolution layer, but got {type(layer).__name__}")
    g = geometry.of_layer(layer, input.shape)
    most = max(loads(g, input.shape, tuple(input.device_mesh.shape), plans_of(input)), key=lambda load: load.input)
    return local_problem(layer, g, most, input.dtype, input.device.type)


def local_problem(layer: Any, g: Geometry, load: Load, dtype: torch.dtype, device: str) -> ConvProblem:
    """The forward of a convolution on the rank of a load."""
    rest = load.result, g.stride, load.pad, g.dilation, g.groups, dtype, False, device
    return ConvProblem.of(g.face, load.input, tuple(layer.weight.shape), *rest)


def plans_of(input: DTensor) -> tuple[Plan, ...]:
    """The plans by which an input lies as it does."""
    found: list[Plan] = []
    for placement in input.placements:
        dim = placement.dim if isinstance(placement, Shard) else 1
        found.append(BatchParallel() if dim == 0 else ChannelParallel() if dim == 1 else SpatialParallel(dim - 2))
    return tuple(found)


def _sizes(values: Ints) -> str:
    return "x".join(map(str, values))
