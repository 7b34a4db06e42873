"""What each rank computes and receives of a layer, by its geometry alone: no rank has to be there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from convext.distributed.geometry import Geometry
from convext.distributed.halos.edges import Inner, inner
from convext.distributed.halos.intervals import Axis, route, share
from convext.distributed.plans import BatchParallel, ChannelParallel, Plan, SpatialParallel
from convext.problem import Ints


@dataclass(frozen=True)
class Last:
    """The last exchange of a rank's forward.

    Attributes:
        axis: of space.
        input, pad: what the rank holds before it, and the layer's padding before the other axes of that.
        halo: rows that it receives.
        inner: what it can compute meanwhile, if anything.
    """

    axis: int
    input: tuple[int, ...]
    pad: tuple[int, ...]
    halo: int
    inner: Inner | None


@dataclass(frozen=True)
class Load:
    """One rank's part of a layer's forward. A backward pass sends as many bytes back.

    Attributes:
        coordinate: the rank's, one value an axis of the mesh.
        input: shape of what it reads: its images, all channels, its window.
        result: its rows of the result, one value an axis of space.
        pad: the layer's padding before the window.
        elements: of the halos that it receives.
        least: elements that it reads and does not hold: no exchange can do with fewer.
        senders: ranks that it has a message of, one for each axis of space that is sharded.
        last: its last exchange; None where space is not shared out.
    """

    coordinate: tuple[int, ...]
    input: tuple[int, ...]
    result: tuple[int, ...]
    pad: tuple[int, ...]
    elements: int
    least: int
    senders: tuple[int, ...]
    last: Last | None


def loads(geometry: Geometry, input: Ints, ranks: Ints, plans: Sequence[Plan]) -> list[Load]:
    """The loads of all ranks of a mesh of shape `ranks`, of a layer that takes [N, C, *space]."""
    return [load(geometry, input, ranks, plans, at) for at in product(*map(range, ranks))]


def load(geometry: Geometry, input: Ints, ranks: Ints, plans: Sequence[Plan], at: tuple[int, ...]) -> Load:
    """The load of the rank with the coordinate `at`."""
    images, axes = input[0], geometry.axes(input[2:])
    window, result, pad = list(input[2:]), list(geometry.size), list(geometry.pad)
    held, read = list(input[2:]), list(input[2:])
    elements, senders = 0, []
    shared: dict[int, int] = {}
    for mesh_axis, plan in enumerate(plans):
        if isinstance(plan, BatchParallel):
            images = len(share(images, ranks[mesh_axis], at[mesh_axis]))
        elif isinstance(plan, SpatialParallel):
            shared[plan.axis % len(axes)] = mesh_axis
    for i, mesh_axis in shared.items():
        window[i] = held[i] = len(share(input[2 + i], ranks[mesh_axis], at[mesh_axis]))
    channels, last = images * input[1], None
    for i, mesh_axis in sorted(shared.items()):
        path = route(axes[i], ranks[mesh_axis], at[mesh_axis])
        meanwhile = inner(axes[i], ranks[mesh_axis], at[mesh_axis])
        last = Last(i, (images, input[1], *window), tuple(pad), path.halo, meanwhile)
        elements += channels * path.halo * math.prod(window[:i] + window[i + 1 :])
        window[i], result[i] = path.window.rows, len(share(axes[i].result, ranks[mesh_axis], at[mesh_axis]))
        pad[i], held[i], read[i] = path.window.pad, *_read(axes[i], ranks[mesh_axis], at[mesh_axis])
        senders.append(len(path.receives))
    least = channels * (math.prod(read) - math.prod(held))
    return Load(at, (images, input[1], *window), tuple(result), tuple(pad), elements, least, tuple(senders), last)


@lru_cache(maxsize=65536)
def _read(axis: Axis, ranks: int, rank: int) -> tuple[int, int]:
    """How many rows a rank reads that it holds, and how many it reads."""
    sources = {axis.source(p) for row in share(axis.result, ranks, rank) for p in axis.reads(row)} - {None}
    return len(sources & set(share(axis.input, ranks, rank))), len(sources)


def gathered(input: Ints, ranks: Ints, plans: Sequence[Plan]) -> int:
    """Elements of others' channels that the first rank of a dense layer reads where channels are shared out."""
    by_channels = [n for n, plan in zip(ranks, plans, strict=True) if isinstance(plan, ChannelParallel)]
    own = min((len(share(input[1], n, 0)) for n in by_channels), default=input[1])
    return math.prod((input[0], *input[2:])) * (input[1] - own)
