"""Whether computing inner rows while halos are under way is worth its launches: a rule on paper, the same everywhere.

    waiting     max(messages, copy of the window) + the problem
    meanwhile   max(messages, the problem of own rows) + edges

Bytes and products at the figures of one H100 and its link within a node, whatever the device is: between nodes there is
more to hide. Nothing of it was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from convext.distributed.halos.edges import Inner
from convext.problem import ConvProblem, Face, roofline

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Links:
    """What leaves one GPU at most, in bytes a second one way, and how many GPUs share a node.

    Attributes:
        nvlink, infiniband: within a node, and between nodes.
        latency: seconds that a round of messages takes at least.
        node: GPUs.
        source: where the figures come from.
    """

    nvlink: float = 450e9
    infiniband: float = 50e9
    latency: float = 20e-6
    node: int = 8
    source: str = (
        "NVLink 4: 900 GB/s both ways, by NVIDIA's H100 data sheet (376 to 380 GB/s one way seen by users of its "
        "p2pBandwidthLatencyTest, NCCL issue 1264); InfiniBand NDR: one ConnectX-7 of 400 Gb/s a GPU, by the DGX H100 "
        "user guide; 20 us for a round of messages is assumed"
    )


LAUNCH = 5e-6  # seconds that a small kernel takes at least: assumed
EDGE = 3  # launches: the window, its problem, the copy into the result


@dataclass(frozen=True)
class Costs:
    """A forward on one rank, in seconds.

    Attributes:
        messages: of the last exchange.
        copy: of the window, which a problem with its halos is.
        problem: of own rows, which has as many results.
        edges: that are computed after it.
    """

    messages: float
    copy: float
    problem: float
    edges: float

    @property
    def hidden(self) -> float:
        """How much of the messages the problem of own rows hides."""
        return min(self.messages, self.problem)

    @property
    def waiting(self) -> float:
        return max(self.messages, self.copy) + self.problem

    @property
    def meanwhile(self) -> float:
        return max(self.messages, self.problem) + self.edges


@lru_cache(maxsize=8192)
def costs(
    face: Face, x: Sizes, weight: Sizes, rows: Sizes, stride: Sizes, pad: Sizes, dilation: Sizes, groups: int,
    dtype: torch.dtype, axis: int, halo: int, inner: Inner,
) -> Costs:  # fmt: skip
    """What a forward costs.

    Args:
        face, weight, stride, dilation, groups, dtype: of the layer.
        x: shape of what the rank holds before the exchange.
        rows, pad: of its problem, one value an axis of space.
        axis: of space, along which rows are exchanged.
        halo: rows that it receives.
        inner: what it computes meanwhile.
    """
    around = math.prod((*x[: 2 + axis], *x[3 + axis :])) * dtype.itemsize

    def seconds(held: int, results: int) -> float:
        sizes = (*x[: 2 + axis], held, *x[3 + axis :]), (*rows[:axis], results, *rows[axis + 1 :])
        problem = ConvProblem.of(face, sizes[0], weight, sizes[1], stride, pad, dilation, groups, dtype)
        return roofline.ideal_seconds(problem, roofline.H100)

    edges = sum(EDGE * LAUNCH + seconds(edge.window.rows, edge.rows) for edge in inner.edges)
    messages = Links.latency + halo * around / Links.nvlink
    copy = 2 * (x[2 + axis] + halo) * around / roofline.H100.bandwidth
    return Costs(messages, copy, seconds(x[2 + axis], rows[axis]), edges)


def pays(costs: Costs) -> bool:
    """Whether to compute meanwhile."""
    return costs.meanwhile < costs.waiting
