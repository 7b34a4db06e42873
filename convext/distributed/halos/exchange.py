"""Halos from rank to rank, and their gradients back: one message to each rank that reads, one from each that holds.

    gather   own rows          ->  window     sends own rows, receives halos
    scatter  window            ->  own rows   sends halos, receives own rows and adds them: the transpose

Each is the derivative of the other, so the two are right to any order. While messages are under way, a rank copies
the rows that it has itself. (What a convolution does meanwhile instead is in `overlap`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from convext.distributed.halos.intervals import Route
from convext.problem import layout


@dataclass(frozen=True)
class Exchange:
    """A route along one dimension of a tensor, in a process group.

    Attributes:
        route: who sends what.
        dim: the dimension whose rows these are.
        group: the ranks of the route, in its order.
        name: the layer for which it is, for errors.
    """

    route: Route
    dim: int
    group: dist.ProcessGroup
    name: str

    def gather(self, x: Tensor) -> Tensor:
        """The window of this rank, from its own rows `x`. Differentiable to any order.

        Raises:
            RuntimeError: a rank did not answer within the time-out of its group, or has died; names the layer.
        """
        return x if self.route.is_local else cast(Tensor, _Gather.apply(x, self))

    def begin(self, x: Tensor) -> Swap:
        """Own rows go to the ranks that read them, halos come from those that hold them."""
        sends = self.route.sends.items()
        sent = {rank: torch.cat([_run(x, self.dim, run) for run in runs], self.dim) for rank, runs in sends}
        return Swap(self, x, sent, self.route.receives)

    def begin_back(self, halos: dict[int, Tensor], like: Tensor) -> Swap:
        """Halos go to the ranks that hold these rows, own rows come from those that read them."""
        return Swap(self, like, halos, {rank: sum(map(len, runs)) for rank, runs in self.route.sends.items()})

    def add_back(self, own: Tensor, received: dict[int, Tensor]) -> None:
        """Adds what `begin_back` received to own rows, in place."""
        for rank, rows in received.items():
            first = 0
            for run in self.route.sends[rank]:
                _run(own, self.dim, run).add_(rows.narrow(self.dim, first, len(run)))
                first += len(run)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        route, dim = exchange.route, exchange.dim
        swap = exchange.begin(x)
        window = layout.empty(with_rows(x, dim, route.window.rows), layout.is_channels_last(x), x)
        places = list(_places(window, exchange))
        for holder, first, place in places:
            if holder is None:
                place.zero_()
            elif holder == route.rank:
                place.copy_(x.narrow(dim, first, place.shape[dim]))
        messages = swap.wait()
        for holder, first, place in places:
            if holder in messages:
                place.copy_(messages[holder].narrow(dim, first, place.shape[dim]))
        return window

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Scatter.apply(gradient, ctx.exchange)), None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, window: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        route, dim = exchange.route, exchange.dim
        sent = {rank: window.new_zeros(with_rows(window, dim, rows)) for rank, rows in route.receives.items()}
        places = list(_places(window, exchange))
        _add(places, sent, dim)
        swap = exchange.begin_back(sent, window)
        own = layout.empty(with_rows(window, dim, len(route.own)), layout.is_channels_last(window), window).zero_()
        _add(places, {route.rank: own}, dim)
        exchange.add_back(own, swap.wait())
        return own

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Gather.apply(gradient, ctx.exchange)), None


def _places(window: Tensor, exchange: Exchange) -> Iterator[tuple[int | None, int, Tensor]]:
    """Each part of a window: who holds it, its first row in that rank's message, and the part itself."""
    row = 0
    for holder, first, rows in exchange.route.parts:
        yield holder, first, window.narrow(exchange.dim, row, rows)
        row += rows


def _add(places: Sequence[tuple[int | None, int, Tensor]], messages: dict[int, Tensor], dim: int) -> None:
    """Adds each part of a window to its rows in the message of the rank that holds it."""
    for holder, first, place in places:
        if holder in messages:
            messages[holder].narrow(dim, first, place.shape[dim]).add_(place)


def _run(x: Tensor, dim: int, run: range) -> Tensor:
    return x.narrow(dim, run.start, len(run))


def with_rows(like: Tensor, dim: int, rows: int) -> list[int]:
    """The shape of `like` but for so many rows."""
    return [*like.shape[:dim], rows, *like.shape[dim + 1 :]]


class Swap:
    """Messages under way: one to each of some ranks, one from each of some."""

    def __init__(self, exchange: Exchange, like: Tensor, sent: dict[int, Tensor], rows: dict[int, int]) -> None:
        self._name, group = exchange.name, exchange.group
        self._sent = {rank: t.contiguous() for rank, t in sent.items()}  # kept until they have left
        self._received = {rank: like.new_empty(with_rows(like, exchange.dim, n)) for rank, n in rows.items()}
        operations = [dist.P2POp(dist.isend, t, group=group, group_peer=rank) for rank, t in self._sent.items()]
        operations += [dist.P2POp(dist.irecv, t, group=group, group_peer=rank) for rank, t in self._received.items()]
        operations = [operation for operation in operations if operation.tensor.numel()]
        with self._named():
            self._works = dist.batch_isend_irecv(operations) if operations else []

    def wait(self) -> dict[int, Tensor]:
        """What was received, by rank."""
        with self._named():
            for work in self._works:
                work.wait()
        return self._received

    def _named(self) -> Any:
        others = sorted({*self._sent, *self._received})
        return naming(self._name, f"the exchange of halos with ranks {others} of its group")


@contextmanager
def naming(layer: str, what: str) -> Iterator[None]:
    """Has an error of torch.distributed name the layer and what it was doing.

    Raises:
        RuntimeError: in place of one that torch raised within.
    """
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"layer {layer!r}: {what} failed: {error}") from error
