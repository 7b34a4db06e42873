"""A convolution that computes while its halos are under way.

    forward     own rows -> start - result from own rows alone - wait -> edges, written over the result's
    backward    edges -> start - gradients by own rows and by the weight - wait -> others' terms, added to own rows

The parts are nodes of autograd's graph, and the second line is the first one read backwards: of the nodes that can run,
autograd runs the one that was made last. A start and a wait have a tensor without elements between them, so that the
transpose of one is the other, to any order:

    departed    own rows -> own rows, token       transpose of `landed`
    landed      own rows, token -> own rows       adds what others computed for them
    launched    gradients of halos -> token       transpose of `arrived`
    arrived     token -> halos
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from convext import operators
from convext.distributed.halos.edges import Edge
from convext.distributed.halos.exchange import Exchange, Swap, with_rows
from convext.distributed.halos.windows import Borders, Last, Local
from convext.problem import FACE_OPENING, OPERANDS, Face, Ints


@dataclass(frozen=True)
class Call:
    """What is to be computed, but for its operands.

    Attributes:
        face: "fprop" or "dgrad".
        stride, dilation, groups, kernel: as for `convext.operators.convolve`.
        borders: what is around axes that lie on one rank.
        forward: computes a problem from (problem, weight, bias), differentiably.
    """

    face: Face
    stride: Ints
    dilation: Ints
    groups: int
    kernel: str
    borders: Borders
    forward: Callable[[Local, Tensor, Tensor | None], Tensor]


def convolve(call: Call, mine: Local, last: Last, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The result of a rank that has yet to make its last exchange. Differentiable to any order, and deterministic.

    Where the result is of a lower precision, its edges are rounded once, as all of it is; in the backward pass, what
    another rank adds to a gradient is rounded first, and so is what halos add to the weight's.

    Args:
        call: what is computed.
        mine: the problem, with own rows only along the last axis.
        last: the exchange, with an `inner`.
        weight, bias: this rank's.

    Raises:
        RuntimeError: the exchange failed; names the layer.
        ValueError: `call.kernel` names one that does not take the problem, or one of its edges.
    """
    if last.inner is None:
        raise ValueError("expected a rank that can compute something without halos")
    flight = _Flight(last.exchange)
    dim = last.exchange.dim
    x, token = _Departed.apply(mine.x, flight)
    own = _along(mine, dim, x, mine.rows[dim - 2], last.inner.pad)
    y = call.forward(call.borders.around(own), weight, bias)
    result, _ = _Edges.apply(y, token, weight, x.detach(), bias, flight, call, mine, last.inner.edges)
    return cast(Tensor, result)


def _along(mine: Local, dim: int, x: Tensor, rows: int, pad: int) -> Local:
    """`mine` with other operands along one dimension."""
    i = dim - 2
    return Local(x, (*mine.rows[:i], rows, *mine.rows[i + 1 :]), (*mine.pad[:i], pad, *mine.pad[i + 1 :]))


class _Flight:
    """Messages under way from one node of a graph to another, and, in a backward pass, those back."""

    swap: Swap
    back: _Flight

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def wait(self) -> dict[int, Tensor]:
        """What was received, by rank. Nothing of it is kept here: this lives as long as the graph does."""
        received = self.swap.wait()
        del self.swap
        return received

    def halos(self, like: Tensor, none: Sequence[int]) -> Tensor:
        """All halos, by rank, once they are there; where there are none, a tensor of the shape `none`."""
        found = list(self.wait().values())
        return torch.cat(found, self.exchange.dim) if found else like.new_empty(none)

    def begin_back(self, halos: Tensor) -> None:
        """Sends gradients of halos."""
        receives, dim = self.exchange.route.receives, self.exchange.dim
        each = halos.split(list(receives.values()), dim) if receives else ()
        self.swap = self.exchange.begin_back(dict(zip(receives, each, strict=True)), halos)

    def turned(self) -> _Flight:
        """The messages back, which the other node will find here."""
        self.back = _Flight(self.exchange)
        return self.back


class _Departed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, flight: _Flight) -> tuple[Tensor, Tensor]:
        ctx.flight, flight.swap = flight, flight.exchange.begin(x)
        return x.detach(), x.new_empty(0)  # `view_as` would give a single image any stride

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, token: Tensor) -> tuple[Tensor, None]:
        # Nobody else sees the gradient of the view, unless it is differentiated in turn.
        own = gradient.clone() if torch.is_grad_enabled() else gradient
        return cast(Tensor, _Landed.apply(own, token, ctx.flight.back)), None


class _Landed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, token: Tensor, flight: _Flight) -> Tensor:
        ctx.flight = flight
        flight.exchange.add_back(own, flight.wait())
        ctx.mark_dirty(own)
        return own

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_Departed.apply(gradient, ctx.flight.turned()), None


class _Launched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, halos: Tensor, flight: _Flight) -> Tensor:
        ctx.flight, ctx.none = flight, with_rows(halos, flight.exchange.dim, 0)
        flight.begin_back(halos)
        return halos.new_empty(0)

    @staticmethod
    def backward(ctx: Any, token: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _Arrived.apply(token, ctx.flight.back, ctx.none)), None


class _Arrived(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, flight: _Flight, none: Sequence[int]) -> Tensor:
        ctx.flight = flight
        return flight.halos(token, none)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Launched.apply(gradient, ctx.flight.turned())), None, None


class _Edges(torch.autograd.Function):
    """Waits for the halos, computes the edges anew and writes them over. Returns the result, and the halos.

    Up to rounding this adds a convolution of the halos to a result without them, and so its derivatives are of that
    term alone. It waits itself so that, backwards, gradients of halos leave before the weight's is computed.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, token: Tensor, weight: Tensor, x: Tensor, bias: Tensor | None,
        flight: _Flight, call: Call, mine: Local, edges: tuple[Edge, ...],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        dim, terms = flight.exchange.dim, []
        halos = flight.halos(x, with_rows(x, dim, 0))
        for edge in edges:
            window = _window(edge, flight.exchange, halos, x)
            problem = call.borders.around(_along(mine, dim, window, edge.rows, edge.window.pad))
            y.narrow(dim, edge.first, edge.rows).copy_(call.forward(problem, weight, bias))
            terms.append(_Term(call, window.shape, problem.x.shape[2:], problem.pad, flight.exchange, edge))
        ctx.flight, ctx.terms = flight, terms
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(halos, weight)
        ctx.mark_dirty(y)
        return y, halos

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, by_halos: Tensor | None) -> tuple[Tensor | None, ...]:
        halos, weight = ctx.saved_tensors
        terms = [] if gradient is None else ctx.terms
        token = by_weight = None
        if ctx.needs_input_grad[1]:
            back = torch.zeros_like(halos) if by_halos is None else by_halos.clone()
            for term in terms:
                term.add_by_halos(back, gradient, weight)
            token = cast(Tensor, _Launched.apply(back, ctx.flight.turned()))
        if ctx.needs_input_grad[2] and terms:
            by_weight = sum(term.by_weight(gradient, halos, weight) for term in terms)
        return gradient, token, by_weight, *(None,) * 6


@dataclass(frozen=True)
class _Term:
    """What halos add to one edge of a result, a convolution of its window; and the derivatives of that.

    Attributes:
        call, exchange, edge: what is computed, and of which rows.
        window: its shape.
        size, pad: of the problem: the window's, with the borders around it.
    """

    call: Call
    window: Ints
    size: Ints
    pad: Ints
    exchange: Exchange
    edge: Edge

    def add_by_halos(self, halos: Tensor, gradient: Tensor, weight: Tensor) -> None:
        """Adds this edge's gradient by halos, in place. (`gradient` is in the autocast dtype where there was one.)"""
        face = FACE_OPENING[OPERANDS[self.call.face][0]]
        found = self._convolve(face, self._edge_of(gradient), weight.to(gradient.dtype), self.size)
        found = self.call.borders.folded(found, self.window)
        for place, rows in _halo_parts(self.edge, self.exchange):
            _narrow(halos, self.exchange, rows).add_(_narrow(found, self.exchange, place))

    def by_weight(self, gradient: Tensor, halos: Tensor, weight: Tensor) -> Tensor:
        """This edge's gradient by the weight."""
        window = self.call.borders.padded(_window(self.edge, self.exchange, halos.to(gradient.dtype), None))
        pair = window, self._edge_of(gradient)
        x, y = pair if self.call.face == "fprop" else pair[::-1]
        return self._convolve("wgrad", x, y, weight.shape[2:]).to(weight.dtype)

    def _edge_of(self, gradient: Tensor) -> Tensor:
        return gradient.narrow(self.exchange.dim, self.edge.first, self.edge.rows)

    def _convolve(self, face: Face, a: Tensor, b: Tensor, size: Ints) -> Tensor:
        call = self.call
        return operators.convolve(
            face, a, b, None, size, call.stride, self.pad, call.dilation, call.groups, call.kernel
        )


def _offsets(exchange: Exchange) -> dict[int, int]:
    """Where each rank's rows begin among all halos."""
    found, first = {}, 0
    for rank, rows in exchange.route.receives.items():
        found[rank] = first
        first += rows
    return found


def _halo_parts(edge: Edge, exchange: Exchange) -> list[tuple[range, range]]:
    """Rows of an edge's window that are halos, and which ones."""
    found, row, offsets = [], 0, _offsets(exchange)
    for holder, first, rows in edge.parts:
        if holder in offsets:
            found.append((range(row, row + rows), range(offsets[holder] + first, offsets[holder] + first + rows)))
        row += rows
    return found


def _window(edge: Edge, exchange: Exchange, halos: Tensor, own: Tensor | None) -> Tensor:
    """What an edge reads; of halos alone, with zeros for own rows, if these are not given."""
    offsets, dim, found = _offsets(exchange), exchange.dim, []
    for holder, first, rows in edge.parts:
        if holder in offsets:
            found.append(halos.narrow(dim, offsets[holder] + first, rows))
        elif holder is not None and own is not None:
            found.append(own.narrow(dim, first, rows))
        else:
            found.append(halos.new_zeros(with_rows(halos, dim, rows)))
    return torch.cat(found, dim)


def _narrow(t: Tensor, exchange: Exchange, rows: range) -> Tensor:
    return t.narrow(exchange.dim, rows.start, len(rows))
