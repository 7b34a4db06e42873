"""A rank's window of a DTensor: own rows and halos along each axis of space, and the problem that they pose."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor

from convext import functional
from convext.distributed.halos.edges import Inner, inner
from convext.distributed.halos.exchange import Exchange
from convext.distributed.halos.intervals import Axis, route, share
from convext.distributed.placement import space


@dataclass(frozen=True)
class Local:
    """A rank's problem.

    Attributes:
        x: what it reads, [N, C, *space], of its share of images and channels.
        rows: of the result, one value an axis of space: those that it owns.
        pad: the layer's padding before `x` on each axis.
    """

    x: Tensor
    rows: tuple[int, ...]
    pad: tuple[int, ...]

    def after(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """How far its last rows read beyond `x` on each axis."""
        each = zip(axes, self.rows, self.pad, self.x.shape[2:], strict=True)
        return tuple((rows - 1) * a.stride + (a.kernel - 1) * a.dilation + 1 - pad - n for a, rows, pad, n in each)


@dataclass(frozen=True)
class Last:
    """The last exchange of a problem, which has not begun.

    Attributes:
        exchange: of halos.
        inner: what of the result own rows are enough for; None where nothing can be computed without halos.
    """

    exchange: Exchange
    inner: Inner | None


def begun(x: Tensor, of: DTensor, axes: Sequence[Axis], name: str) -> tuple[Local, Last | None]:
    """The problem of this rank, which holds `x` of a tensor, with the halos of all sharded axes but the last: those are
    exchanged one after the other, so that corners come with the second one's.

    Raises:
        RuntimeError: two axes of the mesh shard one dimension; an exchange failed.
    """
    mesh, sharded, last = of.device_mesh, space(of), None
    rows, pad = [axis.result for axis in axes], [axis.pad for axis in axes]
    borders = any(2 + i not in sharded and axis.mode != "zeros" for i, axis in enumerate(axes))
    for dim, mesh_axis in sorted(sharded.items()):
        if last is not None:
            x = _gathered(x, last.exchange, pad)
        axis, ranks, rank = axes[dim - 2], mesh.size(mesh_axis), mesh.get_local_rank(mesh_axis)
        rows[dim - 2] = len(share(axis.result, ranks, rank))
        exchange = Exchange(route(axis, ranks, rank), dim, mesh.get_group(mesh_axis), name)
        last = Last(exchange, None if borders else inner(axis, ranks, rank))
    return Local(x, tuple(rows), tuple(pad)), last


def complete(mine: Local, last: Last | None, of: DTensor, axes: Sequence[Axis]) -> Local:
    """The problem with all its halos.

    Raises:
        RuntimeError: the exchange failed.
    """
    x, pad = mine.x, list(mine.pad)
    if last is not None:
        x = _gathered(x, last.exchange, pad)
    x = _padded(x, axes, space(of), pad)
    return Local(x, mine.rows, tuple(pad))


def local(x: Tensor, of: DTensor, axes: Sequence[Axis], name: str) -> Local:
    """`begun` and `complete` in one."""
    return complete(*begun(x, of, axes, name), of, axes)


def _gathered(x: Tensor, exchange: Exchange, pad: list[int]) -> Tensor:
    pad[exchange.dim - 2] = exchange.route.window.pad
    return exchange.gather(x)


def _padded(x: Tensor, axes: Sequence[Axis], sharded: Collection[int], pad: list[int]) -> Tensor:
    """`x` with what is not zeros around those axes that lie on one rank, whose `pad` is none then."""
    around = [(0, 0)] * len(axes)
    for i, axis in enumerate(axes):
        if 2 + i not in sharded and axis.mode != "zeros":
            last = (axis.result - 1) * axis.stride + (axis.kernel - 1) * axis.dilation - axis.pad
            around[i], pad[i] = (axis.pad, max(0, last - axis.input + 1)), 0
    return functional.pad(x, tuple(around), axes[0].mode) if any(map(any, around)) and x.numel() else x
