"""Sectors, wavefronts and products of single instructions, as the manuals have them."""

import numpy as np
import pytest
from gpu_emulator.counting import Counts, counting
from gpu_emulator.library import set_arch
from gpu_emulator.modules import Function, tensor_map
from single import program

WIDTHS = {1: "b8 %r0", 4: "b32 %r0", 8: "v2.b32 {%r0, %r1}", 16: "v4.b32 {%r0, %r1, %r2, %r3}"}
# Lane i at first + i * step: t1 is that, a0 the address of global memory there, t2 that of shared memory.
PLACE = """
  mov.u32 %t0, %tid.x;
  mad.lo.u32 %t1, %t0, {step}, {first};
  ld.param.b64 %a0, [p0];
  cvt.u64.u32 %a1, %t1;
  add.u64 %a0, %a0, %a1;
  mov.u32 %t2, memory;
  add.u32 %t2, %t2, %t1;
  setp.lt.u32 %p0, %t0, {lanes};
"""


@pytest.fixture(autouse=True)
def _h100() -> None:
    set_arch(90)


def count(body: str, step: int = 4, first: int = 0, lanes: int = 32, grid: int = 1, threads: int = 32) -> Counts:
    """Of a body in one warp, with memory of zeros behind it."""
    text = PLACE.format(step=step, first=first, lanes=lanes) + body + "\nret;"
    kernel = Function(program(text, ".param .u64 p0"))
    memory = np.zeros(1 << 14, np.uint8)
    begin = -memory.ctypes.data % 128
    with counting() as found:
        kernel(memory[begin : begin + (1 << 13)], grid=(grid, 1, 1), threads=(threads, 1, 1), shared=1 << 13)
    return found


def moved(bytes_: int) -> tuple[str, str]:
    """The suffix and the registers of an access of so many bytes a lane."""
    suffix, registers = WIDTHS[bytes_].split(" ", 1)
    return suffix, registers


@pytest.mark.parametrize(
    ("bytes_", "step", "first", "lanes", "sectors", "used"),
    [
        (4, 4, 0, 32, 4, 128),  # a line
        (4, 4, 4, 32, 5, 128),  # past its end
        (4, 8, 0, 32, 8, 128),  # every other word
        (4, 0, 0, 32, 1, 4),  # one word for all
        (4, 128, 0, 32, 32, 128),  # a sector each
        (1, 1, 0, 32, 1, 32),
        (8, 8, 0, 32, 8, 256),
        (16, 16, 0, 32, 16, 512),
        (16, 16, 0, 5, 3, 80),  # five lanes
        (4, 4, 0, 0, 0, 0),
    ],
)
def test_sectors_of_a_request(bytes_, step, first, lanes, sectors, used):
    suffix, registers = moved(bytes_)
    load = count(f"@%p0 ld.global.{suffix} {registers}, [%a0];", step, first, lanes)
    assert (load.load_requests, load.load_sectors, load.load_bytes) == (int(lanes > 0), sectors, used)
    assert load.store_requests == load.shared_load_requests == 0
    store = count(f"@%p0 st.global.{suffix} [%a0], {registers};", step, first, lanes)
    if step:  # else the lanes race
        assert (store.store_requests, store.store_sectors, store.store_bytes) == (int(lanes > 0), sectors, used)
        assert store.load_requests == 0


def test_each_block_reads_its_sectors_once():
    twice = count("ld.global.b32 %r0, [%a0]; ld.global.b32 %r1, [%a0];", grid=3)
    assert (twice.blocks, twice.load_requests, twice.load_sectors, twice.sectors_from_l2) == (3, 6, 24, 12)


@pytest.mark.parametrize(
    ("bytes_", "step", "lanes", "wavefronts", "least"),
    [
        (4, 4, 32, 1, 1),
        (4, 8, 32, 2, 1),  # two words of every other bank
        (4, 12, 32, 1, 1),  # odd steps meet every bank
        (4, 128, 32, 32, 1),  # all of them in one
        (4, 132, 32, 1, 1),  # a word of padding a line
        (4, 128, 7, 7, 1),
        (1, 1, 32, 1, 1),
        (8, 8, 32, 2, 2),
        (8, 16, 32, 4, 2),
        (16, 16, 32, 4, 4),
        (16, 128, 32, 32, 4),
        (16, 144, 32, 4, 4),
    ],
)
def test_wavefronts_of_a_request(bytes_, step, lanes, wavefronts, least):
    suffix, registers = moved(bytes_)
    store = f"@%p0 st.shared.{suffix} [%t2], {registers};"
    found = count(f"{store} bar.sync 0; @%p0 ld.shared.{suffix} {registers}, [%t2];", step, 0, lanes)
    assert (found.shared_store_requests, found.shared_store_wavefronts) == (1, wavefronts)
    assert (found.shared_load_requests, found.shared_load_wavefronts) == (1, wavefronts)
    assert found.shared_load_least == found.shared_store_least == least
    assert found.load_requests == found.store_requests == 0


def test_lanes_that_read_one_word_take_one_wavefront():
    found = count("st.shared.b32 [memory], 7; bar.sync 0; ld.shared.b32 %r0, [memory];")
    assert (found.shared_load_wavefronts, found.shared_load_least) == (1, 1)


@pytest.mark.parametrize(("pitch", "wavefronts"), [(16, 4), (128, 32), (144, 4), (64, 16)])
def test_rows_of_ldmatrix_meet_in_banks(pitch, wavefronts):
    """Four matrices of eight rows of 16 bytes, `pitch` bytes apart."""
    body = "st.shared.v4.b32 [%t2], {%t0, %t0, %t0, %t0}; bar.sync 0; "
    body += "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%t2];"
    found = count(body, pitch)
    assert (found.shared_load_requests, found.shared_load_wavefronts, found.shared_load_least) == (1, wavefronts, 4)


def test_a_copy_loads_and_stores():
    copy = "cp.async.cg.shared.global [%t2], [%a0], 16; cp.async.commit_group; cp.async.wait_group 0;"
    found = count(copy, 16)
    assert (found.load_sectors, found.load_bytes, found.shared_store_wavefronts) == (16, 512, 4)
    nothing = count(copy.replace("16;", "16, 0;", 1), 16)
    assert (nothing.load_requests, nothing.shared_store_wavefronts) == (0, 4)


def test_products_of_a_warp():
    mma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, "
    found = count(mma + "{%r10, %r11, %r12, %r13};", threads=64)
    assert found.tensor_multiply_adds == 2 * 16 * 8 * 16
    assert sum(n for name, n in found.opcodes.items() if name.startswith("mma")) == 2


def test_a_box_of_tma_asks_for_what_lies_in_the_tensor():
    """A box of 4 rows of 64 bytes at row 6 of 8: two rows, of two sectors each."""
    body = """
      mov.u32 %r0, memory; add.u32 %r1, %r0, 1024; mov.b32 %r2, 0; mov.b32 %r3, 6; ld.param.b64 %a0, [p0];
      mov.u32 %t0, %tid.x; setp.eq.u32 %p0, %t0, 0;
      @%p0 mbarrier.init.shared::cta.b64 [%r1], 1;
      bar.sync 0;
      @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 256;
      @%p0 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r0], [%a0, {%r2, %r3}], [%r1];
      again:
      mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
      @!%p1 bra again;
      ret;"""
    rows = np.zeros((8, 32), np.float16)
    descriptor = tensor_map(rows, (4, 32))
    memory = np.frombuffer(descriptor, np.uint8)
    begin = rows.ctypes.data
    kernel = Function(program(body, ".param .u64 p0"))
    with counting() as found:
        kernel(memory, rows, shared=2048)
    lines = sum(-(-(begin + 64 * (row + 1)) // 32) - (begin + 64 * row) // 32 for row in (6, 7))
    assert (found.tile_requests, found.tile_sectors, found.tile_bytes) == (1, lines, 128)


def test_some_blocks_stand_for_all():
    body = "mov.u32 %t0, %ctaid.x; ld.param.b64 %a0, [p0]; mad.wide.u32 %a0, %t0, 4, %a0; st.global.b32 [%a0], 1; ret;"
    written = np.zeros(50, np.uint32)
    with counting(most_blocks=4) as found:
        Function(program(body, ".param .u64 p0"))(written, grid=(50, 1, 1), threads=(1, 1, 1))
    assert found.blocks == written.sum() == 4
    with counting() as found:
        Function(program(body, ".param .u64 p0"))(written, grid=(50, 1, 1), threads=(1, 1, 1))
    assert found.blocks == written.sum() == 50
