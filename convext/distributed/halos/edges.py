"""Which rows of a rank's result need halos, so that the others are computed meanwhile: integers only, no torch.

    own rows of the input    |--------------------------------|
    result from them alone   |~~|-------- inner rows -------|~~|   one problem: zeros before and after own rows
    windows of the edges  |h0|--|                           |--|h2|

One launch computes all of a rank's result as if zeros lay around its own rows: inner rows are right, and nothing is
copied. What it makes of the edges is written over when the halos are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from convext.distributed.halos.intervals import Axis, Window, parts, route, share, window


@dataclass(frozen=True)
class Edge:
    """Some rows of a rank's result that need halos.

    Attributes:
        first, rows: which ones, counted from the rank's first row.
        window: what they read.
        parts: the window, in its order, as in `Route.parts`.
    """

    first: int
    rows: int
    window: Window
    parts: tuple[tuple[int | None, int, int], ...]


@dataclass(frozen=True)
class Inner:
    """A rank's result from its own rows alone.

    Attributes:
        pad: the layer's padding before own rows.
        rows: how many rows are right then.
        edges: the other ones; none where a rank only sends.
    """

    pad: int
    rows: int
    edges: tuple[Edge, ...]


@lru_cache(maxsize=8192)
def inner(axis: Axis, ranks: int, rank: int) -> Inner | None:
    """What `rank` computes while its messages are under way; None where there are none, or there is no such problem.

    That is: no row reads own rows alone, the padding before own rows would be negative, or they are read a second time,
    mirrored or wrapped.
    """
    path, mine = route(axis, ranks, rank), share(axis.result, ranks, rank)
    own = path.own
    if not (own and mine and (path.sends or path.receives)):
        return None
    a, b = (mine, own) if axis.scatters else (own, mine)
    pad = axis.pad + a.start - b.start * axis.stride
    beyond = [[axis.source(p) for p in axis.reads(row) if p not in own] for row in mine]
    if pad < 0 or any(source in own for sources in beyond for source in sources if source is not None):
        return None
    first, last = _longest_run([all(source is None for source in sources) for sources in beyond])
    if first == last:
        return None
    edges = (range(mine.start, mine.start + first), range(mine.start + last, mine.stop))
    found = tuple(_edge(axis, ranks, rank, rows, rows.start - mine.start) for rows in edges if rows)
    return Inner(pad, last - first, found)


def _longest_run(flags: list[bool]) -> tuple[int, int]:
    """Where the longest run of true ones begins and ends; (0, 0) if there is none."""
    best, first = (0, 0), 0
    for i, flag in enumerate([*flags, False]):
        if not flag:
            best, first = max(best, (first, i), key=lambda run: run[1] - run[0]), i + 1
    return best


def _edge(axis: Axis, ranks: int, rank: int, rows: range, first: int) -> Edge:
    needed = window(axis, rows)
    return Edge(first, len(rows), needed, parts(needed, axis, ranks, rank))
