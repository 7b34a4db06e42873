"""Which rows of an axis each rank owns, which ones it reads, and who holds them: integers only, no torch.

    rows of the input    |--- rank 0 ---|--- rank 1 ---|--- rank 2 ---|
    window of rank 1                [h0 |--------------| h2]

A rank computes its own rows of the open tensor, those that DTensor gives it. Its window is the part of the input, the
zeros or the mirrored or wrapped rows around it included, from which it can: own rows, and halos that others hold. Rows
of a window that nothing reads (between the taps of a dilation, between strides) are gaps: they are not sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

Mode = Literal["zeros", "circular", "reflect", "replicate"]


@dataclass(frozen=True)
class Axis:
    """One axis of a layer: which rows of its input each row of its result reads.

        gather    result row o reads input rows  o * stride + t * dilation - pad
        scatter   result row i reads input rows  o  for which  o * stride + t * dilation - pad = i

    for t in 0 .. kernel - 1. Convolutions and poolings gather; transposed convolutions scatter, and so does nearest
    upsampling, with a kernel as wide as its stride.

    Attributes:
        scatters: which of the two.
        input, result: rows of the input and of the result, over all ranks.
        kernel, stride, pad, dilation: of the layer on this axis; `pad` is before the first row.
        mode: what rows outside a gathered input are: zeros, or rows of the input.
    """

    scatters: bool
    input: int
    result: int
    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    mode: Mode = "zeros"

    def reads(self, row: int) -> list[int]:
        """The positions that a row of the result reads. Those outside 0 .. input - 1 are zeros, or rows by `mode`."""
        if not self.scatters:
            return [row * self.stride + t * self.dilation - self.pad for t in range(self.kernel)]
        ends = (row + self.pad - t * self.dilation for t in range(self.kernel))
        return [end // self.stride for end in ends if end % self.stride == 0]

    def source(self, position: int) -> int | None:
        """The row of the input that is read at a position; None where that is zeros."""
        last = self.input - 1
        if 0 <= position <= last:
            return position
        if self.mode == "circular":
            return position % self.input
        if self.mode == "reflect":
            return -position if position < 0 else 2 * last - position
        return None if self.mode == "zeros" else min(max(position, 0), last)


class Piece(NamedTuple):
    """Some rows of a window, and where they come from: rows `start` .. `start + rows - 1` of the input, or a gap."""

    start: int | None
    rows: int


@dataclass(frozen=True)
class Window:
    """What a rank needs of the input for its rows of the result.

    Attributes:
        pad: the layer's padding before the first row of the window: with it the window is a problem of its own.
        pieces: the window, in its order.
    """

    pad: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


def share(size: int, ranks: int, rank: int) -> range:
    """The rows of an axis that a rank owns, by DTensor's rule: as torch.chunk divides, the last ranks may be empty."""
    chunk = -(-size // ranks)
    return range(min(rank * chunk, size), min((rank + 1) * chunk, size))


@lru_cache(maxsize=65536)
def window(axis: Axis, rows: range) -> Window:
    """The window from which `rows` of the result are computed; empty for no rows."""
    if not rows:
        return Window(0, ())
    positions = sorted({p for row in rows for p in axis.reads(row) if axis.source(p) is not None})
    if axis.scatters:
        first = (rows.start + axis.pad) // axis.stride  # from here on the padding before the window is not negative
        first = min([first, *positions[:1]])
        pad = axis.pad + rows.start - first * axis.stride
    else:
        origin = rows.start * axis.stride - axis.pad
        first = positions[0] if positions else max(origin, 0)
        pad = first - origin
    last = positions[-1] if positions else first  # no row is read: one row of zeros
    read = set(positions)
    sources = [axis.source(p) if p in read else None for p in range(first, last + 1)]
    return Window(pad, tuple(_pieces(sources)))


def _pieces(sources: Iterable[int | None]) -> list[Piece]:
    """Rows that follow each other become one piece."""
    found: list[Piece] = []
    for source in sources:
        start, rows = found[-1] if found else (None, 0)
        follows = rows > 0 and source == (None if start is None else start + rows)
        if follows:
            found[-1] = Piece(start, rows + 1)
        else:
            found.append(Piece(source, 1))
    return found


@lru_cache(maxsize=65536)
def message(axis: Axis, ranks: int, source: int, target: int) -> tuple[range, ...]:
    """The rows that `source` holds and `target` reads, each once, in ascending order. For a rank itself: its own."""
    held = share(axis.input, ranks, source)
    pieces = window(axis, share(axis.result, ranks, target)).pieces
    read = {row for start, rows in pieces if start is not None for row in range(start, start + rows)}
    return tuple(
        range(start, start + rows) for start, rows in _pieces(sorted(read.intersection(held))) if start is not None
    )


def holders(axis: Axis, ranks: int, rank: int) -> set[int]:
    """The ranks that hold what `rank` reads."""
    chunk = max(1, -(-axis.input // ranks))
    pieces = window(axis, share(axis.result, ranks, rank)).pieces
    read = [(start, start + rows - 1) for start, rows in pieces if start is not None]
    return {holder for first, last in read for holder in range(first // chunk, last // chunk + 1)}


@lru_cache(maxsize=1024)
def readers(axis: Axis, ranks: int) -> tuple[tuple[int, ...], ...]:
    """For each rank those others that read what it holds."""
    found: list[list[int]] = [[] for _ in range(ranks)]
    for rank in range(ranks):
        for holder in holders(axis, ranks, rank) - {rank}:
            found[holder].append(rank)
    return tuple(map(tuple, found))


@dataclass(frozen=True)
class Route:
    """What one rank sends, receives and puts where, so that it holds its window.

    Attributes:
        rank: which of the ranks this is.
        own: the rows that it holds.
        window: what it needs.
        sends: for each other rank that reads rows of this one, these rows, counted from `own.start`.
        receives: for each rank that holds rows which this one reads, how many these are.
        parts: the window, in its order: (rank that holds it, or None for a gap; first row of that rank's message, or,
            for own rows, counted from `own.start`; rows).
    """

    rank: int
    own: range
    window: Window
    sends: dict[int, tuple[range, ...]]
    receives: dict[int, int]
    parts: tuple[tuple[int | None, int, int], ...]

    @property
    def halo(self) -> int:
        """Rows that are received: no exchange can do with fewer, for each of them is read here and held elsewhere."""
        return sum(self.receives.values())

    @property
    def is_local(self) -> bool:
        """Whether the window is what the rank holds, nothing is sent, and nothing is copied."""
        whole = ((self.rank, 0, len(self.own)),) if self.own else ()
        return not self.sends and self.parts == whole


@lru_cache(maxsize=8192)
def route(axis: Axis, ranks: int, rank: int) -> Route:
    """The route of `rank` among `ranks` that share an axis."""
    own, needed = share(axis.input, ranks, rank), window(axis, share(axis.result, ranks, rank))
    sends = {
        other: tuple(range(rows.start - own.start, rows.stop - own.start) for rows in message(axis, ranks, rank, other))
        for other in readers(axis, ranks)[rank]
    }
    receives = {other: sum(map(len, rows)) for other, rows in _received(axis, ranks, rank).items()}
    return Route(rank, own, needed, sends, receives, parts(needed, axis, ranks, rank))


def _received(axis: Axis, ranks: int, rank: int) -> dict[int, tuple[range, ...]]:
    return {other: message(axis, ranks, other, rank) for other in sorted(holders(axis, ranks, rank) - {rank})}


def parts(needed: Window, axis: Axis, ranks: int, rank: int) -> tuple[tuple[int | None, int, int], ...]:
    """A window of `rank`, or of some of its rows, as `Route.parts` tells it."""
    received = _received(axis, ranks, rank)
    return tuple(part for piece in needed.pieces for part in _parts(piece, axis, ranks, rank, received))


def _parts(
    piece: Piece, axis: Axis, ranks: int, rank: int, received: dict[int, tuple[range, ...]]
) -> list[tuple[int | None, int, int]]:
    """A piece, cut where another rank's rows begin."""
    if piece.start is None:
        return [(None, 0, piece.rows)]
    chunk = -(-axis.input // ranks)
    found: list[tuple[int | None, int, int]] = []
    row, stop = piece.start, piece.start + piece.rows
    while row < stop:
        holder = row // chunk
        end = min(stop, share(axis.input, ranks, holder).stop)
        if holder == rank:
            found.append((rank, row - holder * chunk, end - row))
        else:
            before = sum(len(range(rows.start, min(rows.stop, row))) for rows in received[holder] if rows.start < row)
            found.append((holder, before, end - row))
        row = end
    return found
