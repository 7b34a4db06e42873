"""Shuffles, votes and elections, lane by lane from the manual's definitions."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_emulator.library import CudaError
from single import lanes, result, run

U32 = np.uint32
LANES = np.arange(32)
VALUES = (1000 + LANES).astype(U32)


@pytest.mark.parametrize(("distance", "expected"), [(1, LANES ^ 1), (16, LANES ^ 16), (31, 31 - LANES)])
def test_butterfly(distance: int, expected: np.ndarray) -> None:
    found = result(f"shfl.sync.bfly.b32 %r40, %r0, {distance}, 31, -1;", (VALUES,), "%r40", U32)
    np.testing.assert_array_equal(found, 1000 + expected)


def test_butterfly_in_segments() -> None:
    """Segments of 8 lanes (mask 0x18): distance 8 leaves the segment, and such lanes keep their own."""
    body = "shfl.sync.bfly.b32 %r40|%p1, %r0, 4, 0x181F, -1; selp.u32 %r41, 1, 0, %p1;"
    found, valid = run(body, (VALUES,), (("%r40", U32), ("%r41", U32)))
    np.testing.assert_array_equal(found, 1000 + (LANES ^ 4))
    assert valid.all()
    body = body.replace("%r0, 4", "%r0, 8")
    found, valid = run(body, (VALUES,), (("%r40", U32), ("%r41", U32)))
    inside = (LANES ^ 8) <= (LANES // 8 * 8 + 7)  # j <= maxLane = (lane & mask) | (clamp & ~mask)
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(found, np.where(inside, 1000 + (LANES ^ 8), VALUES))


def test_by_index() -> None:
    """shfl.sync.idx.b32 from lane 5, from a lane of each lane's own, and within segments of 16."""
    body = "shfl.sync.idx.b32 %r40, %r0, 5, 31, -1; shfl.sync.idx.b32 %r41, %r0, %r1, 31, -1;"
    body += "shfl.sync.idx.b32 %r42, %r0, 3, 0x101F, -1;"
    by = (LANES * 7 % 32).astype(U32)
    found = run(body, (VALUES, by), (("%r40", U32), ("%r41", U32), ("%r42", U32)))
    for values, wanted in zip(found, (np.full(32, 5), by, LANES // 16 * 16 + 3), strict=True):
        np.testing.assert_array_equal(values, 1000 + wanted)


def test_up_and_down() -> None:
    """The ends keep their own. up takes 0 as its clamp, down 31."""
    body = "shfl.sync.up.b32 %r40, %r0, 3, 0, -1; shfl.sync.down.b32 %r41, %r0, 3, 31, -1;"
    up, down = run(body, (VALUES,), (("%r40", U32), ("%r41", U32)))
    np.testing.assert_array_equal(up, 1000 + np.where(LANES >= 3, LANES - 3, LANES))
    np.testing.assert_array_equal(down, 1000 + np.where(LANES <= 28, LANES + 3, LANES))


def test_votes() -> None:
    body = """
      setp.lt.u32 %p1, %r0, 1004; vote.sync.ballot.b32 %r40, %p1, -1; vote.sync.ballot.b32 %r41, !%p1, -1;
      vote.sync.all.pred %p2, %p1, -1; vote.sync.any.pred %p3, %p1, -1; vote.sync.uni.pred %p4, %p1, -1;
      selp.u32 %r42, 1, 0, %p2; selp.u32 %r43, 1, 0, %p3; selp.u32 %r44, 1, 0, %p4;
    """
    found = run(body, (VALUES,), tuple((f"%r{i}", U32) for i in range(40, 45)))
    assert [int(values[9]) for values in found] == [0xF, 0xFFFFFFF0, 0, 1, 0]


def test_election() -> None:
    """elect.sync: one lane, of all or of those that are in the branch."""
    body = """
      elect.sync %r40|%p1, -1; selp.u32 %r41, 1, 0, %p1; mov.u32 %r42, 0;
      setp.lt.u32 %p2, %t0, 7; @%p2 bra END;
      elect.sync _|%p3, 0xFFFFFF80; selp.u32 %r42, 1, 0, %p3;
      END:
    """
    leader, first, seventh = run(body, (), (("%r40", U32), ("%r41", U32), ("%r42", U32)))
    assert len(set(leader.tolist())) == 1
    assert first.sum() == 1
    assert seventh.sum() == 1
    assert not seventh[:7].any()


def test_lanes_that_are_not_there() -> None:
    body = "setp.lt.u32 %p1, %t0, 16; @%p1 shfl.sync.bfly.b32 %r40, %r0, 1, 31, {mask};"
    result(body.format(mask="0xFFFF"), (VALUES,), "%r0", U32)
    with pytest.raises(CudaError, match="its mask says 0xffffffff"):
        result(body.format(mask=-1), (VALUES,), "%r0", U32)
    with pytest.raises(CudaError, match=r"shuffle from lane 16"):
        result(body.format(mask="0xFFFF").replace(", 1, 31", ", 16, 31"), (VALUES,), "%r0", U32)


def test_divergence_meets_again() -> None:
    """A loop that each lane leaves after a number of turns of its own, and a branch within it."""
    body = """
      mov.u32 %r40, 0; mov.u32 %r41, 0;
      LOOP:
      setp.ge.u32 %p1, %r40, %r0; @%p1 bra DONE;
      and.b32 %r42, %r40, 1; setp.eq.u32 %p2, %r42, 0; @%p2 bra EVEN;
      add.s32 %r41, %r41, 100;
      EVEN:
      add.s32 %r40, %r40, 1; bra.uni LOOP;
      DONE:
      shfl.sync.bfly.b32 %r43, %r41, 1, 31, -1;
    """
    turns = lanes(LANES % 7, U32)
    found = result(body, (turns,), "%r43", U32)
    np.testing.assert_array_equal(found, 100 * ((LANES ^ 1) % 7 // 2))


def test_barrier_of_a_warp() -> None:
    """bar.warp.sync: all lanes that are alive come to it together."""
    result("bar.warp.sync -1;", (VALUES,), "%r0", U32)
    with pytest.raises(CudaError, match="only lanes 0xffff0000 execute it"):
        result("setp.lt.u32 %p1, %t0, 16; @%p1 bra END; bar.warp.sync -1; END:", (VALUES,), "%r0", U32)
