"""Which tensors of a model are shared out along an axis of a mesh.

BatchParallel()      images
SpatialParallel(0)   rows of the first axis of space; halos are exchanged
ChannelParallel()    channels of results, and with them the parameters
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.distributed.tensor import Placement, Replicate, Shard


@dataclass(frozen=True)
class BatchParallel:
    """Each rank has its share of the images. Gradients of parameters are summed over the ranks."""

    def placement(self, dims: int) -> Placement:
        """How a tensor of so many dimensions is placed."""
        return Shard(0)


@dataclass(frozen=True)
class SpatialParallel:
    """Each rank has its share of the rows of one axis of space, and gets from others what its layers read beyond it.

    Attributes:
        axis: 0 is the first axis of space (H of [N, C, H, W]), -1 the last.
    """

    axis: int

    def placement(self, dims: int) -> Placement:
        """How a tensor of so many dimensions is placed: one that lacks the axis lies whole on each rank."""
        dim = 2 + self.axis if self.axis >= 0 else dims + self.axis
        return Shard(dim) if 2 <= dim < dims else Replicate()


@dataclass(frozen=True)
class ChannelParallel:
    """Each rank has its share of the channels of each convolution's result, of its weight and of what follows.

    A grouped layer whose groups can be shared out needs no communication, a dense one gathers its input.

    Attributes:
        by_input: names of dense layers, `fnmatch` patterns, whose ranks each read their share of the channels instead:
            the input stays where it is, and results are summed.
    """

    by_input: tuple[str, ...] = ()

    def placement(self, dims: int) -> Placement:
        """How a model's input is placed: on all ranks."""
        return Replicate()


Plan = BatchParallel | SpatialParallel | ChannelParallel


def listed(plan: Plan | Sequence[Plan], axes: int) -> tuple[Plan, ...]:
    """One plan for each axis of a mesh.

    Raises:
        ValueError: not one for each; or two for one axis of space.
    """
    plans = (plan,) if isinstance(plan, Plan) else tuple(plan)
    if len(plans) != axes or not all(isinstance(p, Plan) for p in plans):
        raise ValueError(f"expected a plan for each of the mesh's {axes} axes, but got {list(plans)}")
    space = [p.axis for p in plans if isinstance(p, SpatialParallel)]
    if len(set(space)) < len(space) or (space and min(space) < 0 <= max(space)):
        raise ValueError(f"expected each axis of space once, counted from one end, but got {space}")
    return plans
