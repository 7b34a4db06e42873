"""A rank's window of a DTensor: own rows and halos along each axis of space, and the problem that they pose."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from convext.distributed.halos.edges import Inner, inner
from convext.distributed.halos.exchange import Exchange
from convext.distributed.halos.intervals import Axis, Mode, route, share
from convext.distributed.placement import space
from convext.functional.padding import pad_sides


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
class Borders:
    """What is around those axes that lie on one rank and is no zeros.

    Attributes:
        sides: rows before and after each axis of space.
        mode: what they are, as for `convext.functional.padding.pad_sides`.
    """

    sides: tuple[tuple[int, int], ...]
    mode: Mode

    @classmethod
    def of(cls, axes: Sequence[Axis], sharded: Collection[int]) -> Borders:
        """Those of an input of which some dimensions are sharded."""
        sides = [(0, 0)] * len(axes)
        for i, axis in enumerate(axes):
            if 2 + i not in sharded and axis.mode != "zeros":
                last = (axis.result - 1) * axis.stride + (axis.kernel - 1) * axis.dilation - axis.pad
                sides[i] = axis.pad, max(0, last - axis.input + 1)
        return cls(tuple(sides), axes[0].mode)

    def around(self, mine: Local) -> Local:
        """A problem with them around it, and no padding there. Differentiable."""
        pad = tuple(0 if any(sides) else p for sides, p in zip(self.sides, mine.pad, strict=True))
        return Local(self.padded(mine.x), mine.rows, pad)

    def folded(self, gradient: Tensor, shape: Sequence[int]) -> Tensor:
        """The gradient by a tensor of `shape`, from the one by what `around` makes of it. Differentiable."""
        if not any(map(any, self.sides)):
            return gradient
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = gradient.new_zeros(shape, requires_grad=True)
            return torch.autograd.grad(self.padded(x), x, gradient, create_graph=differentiable)[0]

    def padded(self, x: Tensor) -> Tensor:
        """A tensor with them around it."""
        return pad_sides(x, self.sides, self.mode) if any(map(any, self.sides)) and x.numel() else x


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
    for dim, mesh_axis in sorted(sharded.items()):
        if last is not None:
            x = _gathered(x, last.exchange, pad)
        axis, ranks, rank = axes[dim - 2], mesh.size(mesh_axis), mesh.get_local_rank(mesh_axis)
        rows[dim - 2] = len(share(axis.result, ranks, rank))
        exchange = Exchange(route(axis, ranks, rank), dim, mesh.get_group(mesh_axis), name)
        last = Last(exchange, inner(axis, ranks, rank))
    return Local(x, tuple(rows), tuple(pad)), last


def complete(mine: Local, last: Last | None, of: DTensor, axes: Sequence[Axis]) -> Local:
    """The problem with all its halos.

    Raises:
        RuntimeError: the exchange failed.
    """
    x, pad = mine.x, list(mine.pad)
    if last is not None:
        x = _gathered(x, last.exchange, pad)
    return Borders.of(axes, space(of)).around(Local(x, mine.rows, tuple(pad)))


def local(x: Tensor, of: DTensor, axes: Sequence[Axis], name: str) -> Local:
    """`begun` and `complete` in one."""
    return complete(*begun(x, of, axes, name), of, axes)


def _gathered(x: Tensor, exchange: Exchange, pad: list[int]) -> Tensor:
    pad[exchange.dim - 2] = exchange.route.window.pad
    return exchange.gather(x)
