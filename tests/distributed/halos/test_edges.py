"""Which rows own rows are enough for, and what the others read: against brute force, one number at a time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_intervals import axes, rows_read

from convext.distributed.halos.edges import inner
from convext.distributed.halos.intervals import Axis, route, share


def counted(axis: Axis, row: int, rows: list[int | None], size: int) -> list[int]:
    """How often a row of a problem of its own, whose input is `rows` of the whole, reads each row of that."""
    taps = [0] * size
    for position in axis.reads(row):
        held = rows[position] if 0 <= position < len(rows) else None
        if held is not None:
            taps[held] += 1
    return taps


@settings(max_examples=300)
@given(axis=axes(), ranks=st.integers(2, 6))
def test_own_rows_are_enough_for_inner_rows_and_windows_for_edges(axis: Axis, ranks: int) -> None:
    taps = rows_read(axis).tolist()
    for rank in range(ranks):
        found, mine, own = (
            inner(axis, ranks, rank),
            share(axis.result, ranks, rank),
            list(share(axis.input, ranks, rank)),
        )
        if found is None:
            continue
        edges = [n for edge in found.edges for n in range(edge.first, edge.first + edge.rows)]
        assert len(set(edges)) == len(edges) == len(mine) - found.rows
        alone = Axis(axis.scatters, len(own), len(mine), axis.kernel, axis.stride, found.pad, axis.dilation)
        for n in set(range(len(mine))) - set(edges):
            assert counted(alone, n, own, axis.input) == taps[mine[n]]
        messages = {
            other: [row + share(axis.input, ranks, other).start for run in path.sends.get(rank, ()) for row in run]
            for other in set(range(ranks)) - {rank}
            for path in [route(axis, ranks, other)]
        }
        for edge in found.edges:
            rows: list[int | None] = []
            for holder, first, count in edge.parts:
                held = {rank: own, **messages}.get(-1 if holder is None else holder, [None] * (first + count))
                rows += held[first : first + count]
            problem = Axis(
                axis.scatters, len(rows), edge.rows, axis.kernel, axis.stride, edge.window.pad, axis.dilation
            )
            for n in range(edge.rows):
                assert counted(problem, n, rows, axis.input) == taps[mine[edge.first + n]]


def test_what_cannot_be_computed_alone() -> None:
    """Halos as wide as the shards; nothing to send; own rows read once more, mirrored or wrapped."""
    assert inner(Axis(False, 8, 8, 5, 1, 2), 4, 1) is None
    assert inner(Axis(False, 8, 8, 1), 4, 1) is None
    reflect, circular = (Axis(False, 12, 12, 3, 1, 1, mode=mode) for mode in ("reflect", "circular"))
    assert [inner(reflect, 3, rank) is None for rank in range(3)] == [True, False, True]
    assert [inner(circular, 3, rank).rows for rank in range(3)] == [2, 2, 2]


def test_a_rank_that_only_sends_has_no_edges() -> None:
    """Causal: each row reads two before it."""
    first, second = (inner(Axis(False, 8, 8, 3, 1, 2), 2, rank) for rank in range(2))
    assert (first.rows, first.edges) == (4, ())
    assert (second.rows, [(edge.first, edge.rows, edge.window.rows) for edge in second.edges]) == (2, [(0, 2, 4)])


def test_rows_are_enough_where_torch_says_so() -> None:
    """Kernel 3, stride 2, padding 1 over 16 rows on 4 ranks: one row of each reads its neighbour before."""
    x = torch.arange(16.0).view(1, 1, -1)
    whole = torch.nn.functional.conv1d(x, torch.ones(1, 1, 3), None, 2, 1).flatten()
    found = inner(Axis(False, 16, 8, 3, 2, 1), 4, 1)
    own = torch.nn.functional.conv1d(x[..., 4:8], torch.ones(1, 1, 3), None, 2, found.pad).flatten()
    assert found.edges[0].first == 0
    assert own[1] == whole[3]
    assert own[0] != whole[2]
