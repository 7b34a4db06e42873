"""Weak scaling on paper: what halos cost where every GPU keeps its share of space, from the bytes of every message.

    python -m convext.benchmarks.scaling

Nothing is timed and no rank is started: each layer's routes are those that `convext.distributed` takes, for all ranks,
their messages are matched, and figures of the links turn bytes into seconds. Products run at the roofline, so a real
step computes longer beside the same bytes. The last exchange of a layer is hidden where
`convext.distributed.halos.worth` says so; else a window is copied while its halos are under way.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

import torch
from torch import nn

from convext.distributed.explanation import costs, local_problem
from convext.distributed.geometry import Geometry, of_layer
from convext.distributed.halos import worth
from convext.distributed.halos.intervals import Axis, route
from convext.distributed.halos.traffic import Load, loads
from convext.distributed.halos.worth import Links
from convext.distributed.plans import SpatialParallel
from convext.problem import FACES, roofline


@dataclass(frozen=True)
class Network:
    """Layers that follow each other, with the share of each axis of space that one GPU has of their inputs.

    Attributes:
        name: what it is.
        layers: (layer, rows of one GPU on each axis, how often).
        rank: axes of space.
    """

    name: str
    layers: tuple[tuple[nn.Module, int, int], ...]
    rank: int


def _conv3d(c: int, k: int) -> nn.Module:
    return nn.Conv3d(c, k, 3, padding=1, device="meta")


def networks() -> list[Network]:
    """A U-Net of volumes, and stages of large depthwise kernels in two and three dimensions."""
    unet = (
        (_conv3d(32, 32), 128, 3), (_conv3d(64, 64), 64, 3), (_conv3d(128, 128), 32, 3), (_conv3d(256, 256), 16, 2),
        (nn.MaxPool3d(2), 128, 1), (nn.MaxPool3d(2), 64, 1), (nn.MaxPool3d(2), 32, 1),
    )  # fmt: skip

    def stage(conv: type[nn.Module], rows: int) -> tuple[tuple[nn.Module, int, int], ...]:
        wide: list[nn.Module] = [conv(96, 96, 7, padding=3, groups=96, device="meta")]  # type: ignore[call-arg]
        wide += [conv(96, 384, 1, device="meta"), conv(384, 96, 1, device="meta")]  # type: ignore[call-arg]
        return tuple((layer, rows, 3) for layer in wide)

    return [
        Network("U-Net, 3x3x3, 128 x 128 x 128 voxels a GPU", unet, 3),
        Network("7x7x7 depthwise blocks, 64 x 64 x 64 voxels a GPU", stage(nn.Conv3d, 64), 3),
        Network("7x7 depthwise blocks, 1024 x 1024 pixels a GPU", stage(nn.Conv2d, 1024), 2),
    ]


def meshes(ranks: int, rank: int) -> Iterator[tuple[int, ...]]:
    """Ranks along one axis, and along all of them as evenly as powers of two go."""
    yield (ranks,)
    bits = int(math.log2(ranks))
    yield tuple(2 ** (bits // rank + (i < bits % rank)) for i in range(rank))


@dataclass(frozen=True)
class Step:
    """What one GPU does in a training step: the slowest of all at each layer.

    Attributes:
        computing: seconds, at the roofline.
        exchanging: seconds, forward and backward, by the links.
        waiting: seconds of exchanges and of windows' copies, if each layer waits for its halos.
        rest: the same seconds where layers compute meanwhile as the rule has it, and what edges take then.
        bytes: that it receives, forward and backward.
        messages: that it receives.
    """

    computing: float
    exchanging: float
    waiting: float
    rest: float
    bytes: int
    messages: int

    @property
    def efficiency(self) -> float:
        """Share of the time in which it computes."""
        return self.computing / (self.computing + self.rest)


def simulate(network: Network, mesh: Sequence[int], links: Links, dtype: torch.dtype = torch.bfloat16) -> Step:
    """One step on a mesh whose axes share out the first axes of space. Raises where messages sent are not received."""
    step = Step(0.0, 0.0, 0.0, 0.0, 0, 0)
    for layer, rows, times in network.layers:
        one = _layer(layer, (rows,) * network.rank, tuple(mesh), links, dtype)
        sums = (getattr(step, f.name) + times * getattr(one, f.name) for f in fields(Step))
        step = Step(*sums)
    return step


def _layer(layer: nn.Module, rows: tuple[int, ...], mesh: tuple[int, ...], links: Links, dtype: torch.dtype) -> Step:
    channels = getattr(layer, "in_channels", 32)
    input = (1, channels, *(r * n for r, n in zip(rows, mesh, strict=False)), *rows[len(mesh) :])
    geometry = of_layer(layer, input)
    axes = geometry.axes(input[2:])
    found = loads(geometry, input, mesh, [SpatialParallel(axis) for axis in range(len(mesh))])
    exchanges = [
        _Exchanges(axes[: len(mesh)], mesh, load.coordinate, rows, channels * dtype.itemsize) for load in found
    ]
    balance: Counter[tuple[int, int]] = Counter()
    for mine in exchanges:
        balance.update(mine.sent)
        balance.subtract(mine.received)
    if any(balance.values()):
        raise RuntimeError(f"{layer}: messages do not match on a mesh of {list(mesh)}")
    kinds = {load.input: load for load in found if isinstance(layer, nn.modules.conv._ConvNd)}
    computing = (sum(_seconds(layer, geometry, load, dtype).values()) for load in kinds.values())
    rest = (_rest(layer, geometry, *pair, links, dtype) for pair in zip(found, exchanges, strict=True))
    # A backward pass sends as much back.
    return Step(
        max(computing, default=0.0), 2 * max(sum(mine.seconds(links)) for mine in exchanges),
        max(mine.waiting(links) for mine in exchanges), max(rest),
        2 * max(load.elements for load in found) * dtype.itemsize, 2 * max(sum(load.senders) for load in found),
    )  # fmt: skip


def _seconds(layer: nn.Module, geometry: Geometry, load: Load, dtype: torch.dtype) -> dict[str, float]:
    """What the three faces of a rank's problem take at the roofline."""
    forward = local_problem(layer, geometry, load, dtype, "cuda")
    return {face: roofline.ideal_seconds(replace(forward, face=face), roofline.H100) for face in FACES}


def _rest(
    layer: nn.Module, geometry: Geometry, load: Load, mine: _Exchanges, links: Links, dtype: torch.dtype
) -> float:
    """Seconds of a step in which one rank does other than its problem, by the rule."""
    forward = costs(layer, geometry, load, dtype)
    if forward is None or not worth.pays(forward):
        return mine.waiting(links)
    *_, last = mine.seconds(links) or [0.0]
    behind = _seconds(layer, geometry, load, dtype)
    ahead = behind.pop(geometry.face)
    exposed = max(0.0, last - ahead) + max(0.0, last - sum(behind.values()))
    return mine.waiting(links, but_last=True) + exposed + 3 * forward.edges  # one face forwards, two backwards


class _Exchanges:
    """One rank's messages, one axis of the mesh after the other: {(sender, receiver): bytes}."""

    def __init__(
        self, axes: Sequence[Axis], mesh: tuple[int, ...], at: tuple[int, ...], rows: tuple[int, ...], item: int
    ) -> None:
        self.sent: Counter[tuple[int, int]] = Counter()
        self.received: Counter[tuple[int, int]] = Counter()
        self._rounds: list[tuple[Counter[tuple[int, int]], float]] = []  # and what a copy of the window takes
        shape, me = list(rows), _flat(at, mesh)
        for i, axis in enumerate(axes):
            path = route(axis, mesh[i], at[i])
            row = item * math.prod(shape[:i] + shape[i + 1 :])
            ranks = [_flat((*at[:i], other, *at[i + 1 :]), mesh) for other in range(mesh[i])]
            received = Counter({(ranks[other], me): count * row for other, count in path.receives.items()})
            self.sent.update({(me, ranks[other]): sum(map(len, runs)) * row for other, runs in path.sends.items()})
            self.received.update(received)
            self._rounds.append((received, 2 * path.window.rows * row / roofline.H100.bandwidth))
            shape[i] = path.window.rows

    def seconds(self, links: Links) -> list[float]:
        """Of each round: messages of one axis share the links, and the next axis waits for them."""
        return [_in_flight(received, links) for received, _ in self._rounds]

    def waiting(self, links: Links, but_last: bool = False) -> float:
        """Forwards a window is copied meanwhile; backwards its gradient is added to zeros, which takes two copies."""
        rounds = self._rounds[:-1] if but_last else self._rounds
        each = [(_in_flight(received, links), copy) for received, copy in rounds]
        return sum(max(seconds, copy) + max(seconds, 2 * copy) for seconds, copy in each if seconds)


def _in_flight(received: Counter[tuple[int, int]], links: Links) -> float:
    """Messages of several ranks share the links."""
    if not received:
        return 0.0
    far = sum(count for (a, b), count in received.items() if a // links.node != b // links.node)
    near = sum(received.values()) - far
    return links.latency + max(near / links.nvlink, far / links.infiniband)


def _flat(coordinate: Sequence[int], mesh: Sequence[int]) -> int:
    """A rank's number: the last axis of a mesh counts fastest."""
    number = 0
    for at, size in zip(coordinate, mesh, strict=True):
        number = number * size + at
    return number


def main() -> None:
    """Prints a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512], metavar="N", help="powers of two")
    links = Links()
    for network, ranks in product(networks(), parser.parse_args().ranks):
        for mesh in meshes(ranks, network.rank):
            step = simulate(network, mesh, links)
            print(
                f"| {network.name} | {ranks} | {' x '.join(map(str, mesh))} | {step.computing * 1e3:.2f} | "
                f"{step.bytes / 1e6:.1f} | {step.messages} | {step.exchanging * 1e3:.2f} | "
                f"{step.waiting * 1e3:.2f} | {step.rest * 1e3:.2f} | {step.efficiency:.0%} |"
            )


if __name__ == "__main__":
    main()
