"""Who owns, reads, sends and receives which rows: against brute force, one number at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convext.distributed.halos.intervals import Axis, route, share, window


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Any axis whose result is no empty one."""
    size, kernel = draw(st.integers(1, 17)), draw(st.integers(1, 5))
    stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    before, after = (draw(st.integers(0, size - (mode == "reflect"))) for _ in range(2))
    reach = dilation * (kernel - 1)
    if draw(st.booleans()):
        result = max(1, (size - 1) * stride - before - after + reach + 1 + draw(st.integers(0, stride)))
        return Axis(True, size, result, kernel, stride, before, dilation)
    result = (size + before + after - reach - 1) // stride + 1
    if result < 1:  # a kernel that does not fit has one more result, of zeros
        mode, result = "zeros", 1
    return Axis(False, size, result, kernel, stride, before, dilation, mode)


def rows_read(axis: Axis) -> torch.Tensor:
    """[result, input]: how often each row of the result reads each row of the input, by moving every tap alone."""
    taps = torch.zeros(axis.result, axis.input, dtype=torch.long)
    if axis.scatters:
        for o in range(axis.input):
            for t in range(axis.kernel):
                i = o * axis.stride + t * axis.dilation - axis.pad
                if 0 <= i < axis.result:
                    taps[i, o] += 1
        return taps
    rows = torch.arange(axis.input, dtype=torch.float64) + 1  # 0 will be zeros
    after = max(0, (axis.result - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1 - axis.pad - axis.input)
    how = "constant" if axis.mode == "zeros" else axis.mode
    padded = torch.nn.functional.pad(rows.view(1, 1, -1), (axis.pad, after), how).flatten().long()
    for o in range(axis.result):
        for t in range(axis.kernel):
            row = int(padded[o * axis.stride + t * axis.dilation])
            if row:
                taps[o, row - 1] += 1
    return taps


@given(size=st.integers(0, 40), ranks=st.integers(1, 9))
def test_ranks_own_what_chunk_gives_them(size: int, ranks: int) -> None:
    chunks = torch.arange(size).chunk(ranks) if size else ()
    for rank in range(ranks):
        expected = chunks[rank].tolist() if rank < len(chunks) else []
        assert list(share(size, ranks, rank)) == expected


@settings(max_examples=300)
@given(axis=axes(), ranks=st.integers(1, 6))
def test_a_rank_receives_what_it_reads_and_does_not_hold(axis: Axis, ranks: int) -> None:
    taps = rows_read(axis)
    for rank in range(ranks):
        mine = share(axis.result, ranks, rank)
        read = set(taps[mine.start : mine.stop].sum(0).nonzero().flatten().tolist())
        one = route(axis, ranks, rank)
        assert one.halo == len(read - set(share(axis.input, ranks, rank)))
        for other in set(range(ranks)) - {rank}:
            held = share(axis.input, ranks, other)
            expected = sorted(read & set(held))
            sent = [row + held.start for rows in route(axis, ranks, other).sends.get(rank, ()) for row in rows]
            assert sent == expected
            assert one.receives.get(other, 0) == len(expected)


@settings(max_examples=300)
@given(axis=axes(), ranks=st.integers(1, 6))
def test_a_window_is_a_problem_of_its_own(axis: Axis, ranks: int) -> None:
    """With its own padding, each row of a rank's result reads in the window what it reads in the whole."""
    taps = rows_read(axis)
    for rank in range(ranks):
        mine, one = share(axis.result, ranks, rank), route(axis, ranks, rank)
        messages = {
            other: [row for rows in route(axis, ranks, other).sends.get(rank, ()) for row in rows]
            for other in range(ranks)
        }
        rows: list[int | None] = []
        for holder, start, count in one.parts:
            if holder is None:
                rows += [None] * count
            elif holder == rank:
                rows += [one.own.start + start + n for n in range(count)]
            else:
                held = share(axis.input, ranks, holder).start
                rows += [messages[holder][start + n] + held for n in range(count)]
        assert one.window.pad >= 0
        assert len(rows) == one.window.rows
        local = Axis(axis.scatters, len(rows), len(mine), axis.kernel, axis.stride, one.window.pad, axis.dilation)
        for n, row in enumerate(mine):
            counted = torch.zeros(axis.input, dtype=torch.long)
            for position in local.reads(n):
                if 0 <= position < len(rows) and rows[position] is not None:
                    counted[rows[position]] += 1
            assert counted.tolist() == taps[row].tolist()


@pytest.mark.parametrize("scatters", [False, True])
def test_rows_between_the_taps_are_not_sent(scatters: bool) -> None:
    """Dilation 4, shards of 2 rows: rank 1 reads rows 2, 3 and 6, 7, or -2, -1 and 2, 3: rank 2's are none of them."""
    axis = Axis(scatters, 8, 8, 2, 1, 0, 4)
    reads = route(axis, 4, 1).receives
    assert reads == ({} if scatters else {3: 2})


def test_no_rows_no_window() -> None:
    assert window(Axis(False, 5, 3, 3), range(3, 3)).rows == 0
