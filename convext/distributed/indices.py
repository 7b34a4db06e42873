"""Which index of the form the ranks along each axis of a mesh share among them.

    T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]

    index      what is split of (first operand, w) -> result, for a convolution; "sum" is a partial sum
    n          x by images, w on all ranks     -> y by images
    k          x on all ranks, w by k          -> y by channels
    c          x by channels, w by c           -> sum
    groups     x by channels, w by k           -> y by channels: each rank has whole groups
    space      x by rows, w on all ranks       -> y by rows: halos are exchanged
    nothing    all on all ranks

A transposed convolution reads y and leaves x open, so k and c change places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from convext.distributed.halos.intervals import share
from convext.problem import Face

Index = Literal["n", "k", "c", "groups", "space", "nothing"]


@dataclass(frozen=True)
class Split:
    """What one axis of a mesh splits, and how operands and result are placed along it.

    Attributes:
        index: the index.
        input, weight, bias, result: their placements.
    """

    index: Index
    input: Placement
    weight: Placement
    bias: Placement
    result: Placement

    @property
    def sums_input(self) -> bool:
        """Whether the gradient of the input is a sum over the ranks: each has some channels of the result."""
        return self.input.is_replicate() and self.result.is_shard()

    @property
    def sums_weights(self) -> bool:
        """Whether gradients of weight and bias are sums over the ranks."""
        return self.index in ("n", "space")


def split(face: Face, a: DTensor, w: DTensor, axis: int, groups: int) -> Split:
    """What `axis` of the mesh splits of a face "fprop" or "dgrad" whose operands lie as `a` and `w` do.

    What is sharded stays so. Where two shardings do not go together, the input's is given up for that of a dense
    layer's results, and the channels of a grouped layer where ranks would share a group.
    """
    everywhere = Replicate()
    input, weight = a.placements[axis], w.placements[axis]
    summed, open = (1, 0) if face == "fprop" else (0, 1)  # the axes of w
    if input.is_shard(0):
        return Split("n", input, everywhere, everywhere, input)
    if isinstance(input, Shard) and input.dim > 1:
        return Split("space", input, everywhere, everywhere, input)
    if groups > 1:
        sharded = [i.is_shard(1) or j.is_shard(0) for i, j in zip(a.placements, w.placements, strict=True)]
        channels = a.shape[1], w.shape[0], w.shape[1] * groups
        if sharded[axis] and not any(sharded[:axis]) and whole_groups(channels, groups, a.device_mesh.size(axis)):
            return Split("groups", Shard(1), Shard(0), Shard(0), Shard(1))
    elif weight.is_shard(open):
        return Split("k" if face == "fprop" else "c", everywhere, weight, Shard(0), Shard(1))
    elif input.is_shard(1) or weight.is_shard(summed):
        return Split("c" if face == "fprop" else "k", Shard(1), Shard(summed), everywhere, Partial())
    return Split("nothing", everywhere, everywhere, everywhere, everywhere)


def whole_groups(channels: Sequence[int], groups: int, ranks: int) -> bool:
    """Whether DTensor's shares of these numbers of channels are whole groups, and the same ones on each rank."""
    for rank in range(ranks):
        shares = [share(count, ranks, rank) for count in channels]
        sizes = [count // groups for count in channels]
        if any(s.start % n or s.stop % n for s, n in zip(shares, sizes, strict=True)):
            return False
        if len({(s.start // n, s.stop // n) for s, n in zip(shares, sizes, strict=True)}) > 1:
            return False
    return True
