"""What no GPU says of a kernel: each kind of mistake, planted, and the words of the finding."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_emulator.library import CudaError, set_arch, set_seed
from gpu_emulator.modules import Function
from single import program

U32 = np.uint32
HEAD = """
  .loc 1 {line} 0
  mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; shr.u32 %t2, %t0, 5; mov.u32 %r30, memory; mad.lo.s32 %r31, %t0, 4, %r30;
  ld.param.b64 %d1, [data]; mad.wide.u32 %d2, %t0, 4, %d1; mov.b32 %r1, 1; setp.eq.u32 %p1, %t2, 0;
"""
FILE = '.file 1 "/somewhere" "kernel.py"\n'


def launched(
    body: str, threads: int = 64, grid: int = 1, shared: int = 1024, size: int = 64, seed: int = 1
) -> np.ndarray:
    set_arch(90)
    set_seed(seed)
    data = np.zeros(size, U32)
    text = FILE + program(HEAD.format(line=17) + body + "ret;", ".param .u64 data")
    try:
        Function(text)(data, threads=(threads, 1, 1), grid=(grid, 1, 1), shared=shared)
    finally:
        set_seed(1)
    return data


FINDINGS = {
    "global out of bounds": ("st.global.b32 [%d2+64], %r1;", r"4 bytes out of bounds: .* the end of argument 0", 700),
    "before the start": ("ld.global.b32 %r2, [%d2+-4];", r"4 bytes before argument 0", 700),
    "global misaligned": ("ld.global.b32 %r2, [%d2+2];", r"not aligned to 4 bytes: .* byte 2 of argument 0", 716),
    "vector misaligned": ("ld.global.v2.b32 {%r2, %r3}, [%d2];", r"not aligned to 8 bytes", 716),
    "shared out of bounds": ("st.shared.b32 [%r31+1000], %r1;", r"outside of 1024 bytes of shared memory", 700),
    "shared misaligned": ("st.shared.b32 [%r31+1], %r1;", r"is not aligned to 4 bytes", 716),
    "shared unwritten": ("ld.shared.b32 %r2, [%r31];", r"reads shared byte 0, which nothing has written", 719),
    "cp.async not waited for": (
        "cp.async.ca.shared.global [%r31], [%d2], 4; cp.async.commit_group; ld.shared.b32 %r2, [%r31];",
        r"reads shared byte \d+, which a cp\.async that nobody has waited for is still writing", 719),
    "one group too few": (
        "cp.async.ca.shared.global [%r31], [%d2], 4; cp.async.commit_group; cp.async.wait_group 1;"
        "ld.shared.b32 %r2, [%r31];",
        r"a cp\.async that nobody has waited for", 719),
    "cp.async seen by others without a barrier": (
        """cp.async.ca.shared.global [%r31], [%d2], 4; cp.async.wait_all; sub.s32 %r3, 63, %t0;
        mad.lo.s32 %r4, %r3, 4, %r30;
        ld.shared.b32 %r2, [%r4];""",
        r"which warp \d wrote|which nothing has written|still writing", 719),
    "shared write and read race": (
        "st.shared.b32 [%r31], %t0; sub.s32 %r3, 63, %t0; mad.lo.s32 %r4, %r3, 4, %r30; ld.shared.b32 %r2, [%r4];",
        r"races: reads shared byte \d+, which warp \d wrote, with no barrier|which nothing has written", 719),
    "shared write and write race": (
        "st.shared.b32 [%r30], %t2;", r"races: writes shared byte 0, which warp \d wrote, with no barrier", 719),
    "shared read and write race": (
        """st.shared.b32 [%r31], %t0; bar.sync 0; sub.s32 %r3, 63, %t0; mad.lo.s32 %r4, %r3, 4, %r30;
        ld.shared.b32 %r2, [%r4]; st.shared.b32 [%r31], %r2;""",
        r"races: (writes shared byte \d+, which warp \d read|reads shared byte \d+, which warp \d wrote)", 719),
    "global race of warps": ("st.global.b32 [%d1], %t2;", r"races: writes what block 1 .* wrote", 719),
    "barrier in divergent code": (
        "setp.lt.u32 %p2, %t0, 7; @%p2 bra END; bar.sync 0; END:",
        r"a barrier in divergent code: lanes 0xffffff80 of 0xffffffff are here", 719),
    "barrier that one warp does not reach": (
        "@%p1 bar.sync 0; @!%p1 bar.sync 1;", r"deadlock:\n  warp 0 waits at barrier 0\n  warp 1 waits at", 702),
    "named barrier for more than there are": ("bar.sync 1, 96;", r"deadlock", 702),
    "two products in part of a warp": (
        """setp.lt.u32 %p2, %t0, 7; @%p2 bra END;
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d10,%d11}, {%d3}, {%d3}, {%d3,%d3}; END:""",
        r"only lanes 0xffffff80 execute it, and all of 0xffffffff have to", 719),
    "mbarrier that is not there": (
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r30], 4;", r"there is no mbarrier at shared byte 0", 719),
}  # fmt: skip


@pytest.mark.parametrize("kind", FINDINGS)
def test_finding(kind: str) -> None:
    """kernel, line, block, warp, the instruction and the seed stand in every one."""
    body, words, code = FINDINGS[kind]
    with pytest.raises(CudaError, match=words) as caught:
        launched(body)
    assert caught.value.code == code
    text = str(caught.value)
    assert "kernel, kernel.py:17, block (0, 0, 0), warp" in text
    assert "in: " in text
    assert "seed 1" in text


def test_races_of_blocks() -> None:
    with pytest.raises(CudaError, match=r"races: writes what block 1 .* byte 0 of argument 0"):
        launched("st.global.b32 [%d2], %t1;", grid=2, threads=32)
    with pytest.raises(CudaError, match=r"races: (reads what block 1 .* wrote|writes what block 1 .* read)"):
        launched(
            "setp.eq.u32 %p2, %t1, 0; @%p2 st.global.b32 [%d2], %r1; @!%p2 ld.global.b32 %r2, [%d2];",
            grid=2,
            threads=32,
        )


HARMLESS = {
    "another place": "st.global.b32 [%d2], %t0;",
    "the same value": "st.global.b32 [%d1], %r1; st.shared.b32 [%r30], %r1;",
    "a barrier in between": """st.shared.b32 [%r31], %t0; bar.sync 0; sub.s32 %r3, 63, %t0;
        mad.lo.s32 %r4, %r3, 4, %r30; ld.shared.b32 %r2, [%r4]; bar.sync 0; st.shared.b32 [%r31], %r2;""",
    "a named barrier": """st.shared.b32 [%r31], %t0; bar.sync 3, 64; sub.s32 %r3, 63, %t0; mad.lo.s32 %r4, %r3, 4, %r30;
        ld.shared.b32 %r2, [%r4];""",
    "arrive and sync": """@%p1 st.shared.b32 [%r31], %t0; @%p1 bar.arrive 1, 64; @!%p1 bar.sync 1, 64;
        @!%p1 ld.shared.b32 %r2, [%r31+-128];""",
    "a warp that has returned": "@%p1 ret; bar.sync 0;",
    "halves of a word": "mad.lo.s32 %r4, %t0, 2, %r30; cvt.u16.u32 %h1, %t0; st.shared.b16 [%r4], %h1;",
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless(kind: str) -> None:
    for seed in range(1, 9):
        launched(HARMLESS[kind], seed=seed)


def test_missing_barrier_of_the_second_turn() -> None:
    """One barrier a turn of a loop is one too few: the next write may pass the last read."""
    body = """
      mov.u32 %r5, 0;
      LOOP:
      add.s32 %r7, %t0, %r5; st.shared.b32 [%r31], %r7; bar.sync 0; sub.s32 %r3, 63, %t0; mad.lo.s32 %r4, %r3, 4, %r30;
      ld.shared.b32 %r2, [%r4]; {barrier}
      add.s32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 3; @%p3 bra LOOP;
    """
    launched(body.format(barrier="bar.sync 0;"))
    with pytest.raises(CudaError, match="races"):
        launched(body.format(barrier=""))


def test_seeds_choose_the_order() -> None:
    """Of blocks that add to what they find, the last one's number stays: another one under another seed."""
    orders = set()
    for seed in range(1, 9):
        try:
            launched("st.global.b32 [%d1], %t1;", grid=7, threads=1, seed=seed)
        except CudaError as error:
            orders.add(str(error).split("block (")[1][0])
    assert len(orders) > 1


def test_running_for_ever() -> None:
    """The same seed, the same finding; and a process that goes on."""
    texts = []
    for _ in range(2):
        with pytest.raises(CudaError) as caught:
            launched("st.shared.b32 [%r30], %t2;", seed=5)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert launched("st.global.b32 [%d2], %t0;")[9] == 9


# The address of the next lane's word, of the first one's for the last lane.
NEIGHBOUR = {
    "shared": "add.s32 %r4, %r31, 4; setp.eq.u32 %p4, %t0, 31; @%p4 mov.u32 %r4, %r30;",
    "global": "add.s64 %d4, %d2, 4; setp.eq.u32 %p4, %t0, 31; @%p4 mov.b64 %d4, %d1;",
}
OWN_AND_NEXT = {"shared": ("%r31", "%r4"), "global": ("%d2", "%d4")}


@pytest.mark.parametrize("space", NEIGHBOUR)
def test_races_of_lanes(space: str) -> None:
    """One warp: a lane reads what its neighbour has just written, or writes what it has just read."""
    own, following = OWN_AND_NEXT[space]
    body = NEIGHBOUR[space] + (
        f"add.s32 %r5, %t0, 1; st.{space}.b32 [{own}], %r5; {{first}} ld.{space}.b32 %r2, [{following}]; {{second}}"
        f"st.{space}.b32 [{own}], %r2;"
    )
    launched(body.format(first="bar.warp.sync -1;", second="bar.sync 0;"), threads=32)
    with pytest.raises(CudaError, match=r"races: reads .*lane \d+.*with no barrier of the warp"):
        launched(body.format(first="", second="bar.sync 0;"), threads=32)
    with pytest.raises(CudaError, match=r"races: writes .*lane \d+.*with no barrier of the warp"):
        launched(body.format(first="bar.warp.sync -1;", second=""), threads=32)


def test_lanes_that_store_to_one_place() -> None:
    """What one store leaves there, another of the warp writes over; or both do at once, and either may stay."""
    launched("st.global.b32 [%d1], %r1; st.global.b32 [%d2], %t0;", threads=1)
    with pytest.raises(CudaError, match=r"races: writes what lane 0 .* wrote: .* byte 4 of argument 0"):
        launched(
            "setp.eq.u32 %p4, %t0, 0; add.s32 %r5, %t0, 7; @%p4 st.global.b32 [%d1+4], %r5;"
            "@!%p4 st.global.b32 [%d2], %r5;",
            threads=32,
        )
    with pytest.raises(CudaError, match=r"races: writes what lane \d+ .* wrote: .* byte 0 of argument 0"):
        launched("st.global.b32 [%d1], %t0;", threads=32)
