"""mbarriers and TMA: boxes of tensors, what lies outside of them, swizzles, phases."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pytest
from gpu_emulator.library import CudaError, set_arch
from gpu_emulator.modules import Function, tensor_map
from single import program

U16, U32 = np.uint16, np.uint32

# mbarrier.init.shared::cta.b64 mbarrier.arrive.expect_tx.shared::cta.b64 mbarrier.try_wait.parity.shared::cta.b64
# mbarrier.inval.shared::cta.b64 cvta.param.u64 fence.proxy.async.shared::cta
# cp.async.bulk.tensor.3d.shared::cta.global.mbarrier::complete_tx::bytes
# cp.async.bulk.tensor.5d.shared::cta.global.mbarrier::complete_tx::bytes, and 1d, 2d, 4d
BODY = """
  mov.u32 %t0, %tid.x; mov.u32 %r1, memory; add.s32 %r2, %r1, {bytes};
  setp.eq.u32 %p1, %t0, 0; mov.b64 %d1, map; cvta.param.u64 %d1, %d1; {coordinates}
  @%p1 mbarrier.init.shared::cta.b64 [%r2], 1;
  bar.sync 0;
  @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], {expected};
  @%p1 cp.async.bulk.tensor.{rank}d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%d1, {{{names}}}], [%r2];
  {wait}
  ld.param.b64 %d2, [out]; mov.u32 %r3, %t0;
  COPY:
  setp.ge.u32 %p2, %r3, {words}; @%p2 bra COPIED;
  mad.lo.s32 %r4, %r3, 4, %r1; ld.shared.b32 %r5, [%r4]; mad.wide.u32 %d3, %r3, 4, %d2; st.global.b32 [%d3], %r5;
  add.s32 %r3, %r3, 64; bra COPY;
  COPIED:
  bar.sync 0; @%p1 mbarrier.inval.shared::cta.b64 [%r2];
  ret;
"""
WAIT = """
  {
  .reg .pred complete;
  waitLoop:
  mbarrier.try_wait.parity.shared::cta.b64 complete, [%r2], 0;
  @!complete bra.uni waitLoop;
  }
"""


def loaded(
    array: np.ndarray,
    box: tuple[int, ...],
    at: tuple[int, ...],
    expected: int | None = None,
    wait: str = WAIT,
    renamed: Sequence[tuple[str, str]] = (),
    **kwargs: object,
) -> np.ndarray:
    """The bytes that a box brings to shared memory, as elements of the array's type. Axes outermost first."""
    set_arch(90)
    bytes_ = int(np.prod(box)) * array.itemsize
    names = [f"%r{20 + i}" for i in range(len(at))]
    body = BODY.format(
        bytes=bytes_, expected=bytes_ if expected is None else expected, rank=len(at), names=", ".join(names),
        words=bytes_ // 4, wait=wait,
        coordinates="".join(f"mov.b32 {name}, {value};" for name, value in zip(names, at[::-1], strict=True)),
    )  # fmt: skip
    for name, other in renamed:
        assert name in body
        body = body.replace(name, other)
    out = np.zeros(bytes_ // 4, U32)
    descriptor = tensor_map(array, box, **kwargs)  # type: ignore[arg-type]
    text = program(body, ".param .align 64 .b8 map[128], .param .u64 out, .param .u64 data")
    Function(text)(descriptor, out, array, threads=(64, 1, 1), shared=bytes_ + 8)
    return out.view(array.dtype).reshape(box)


def numbered(*shape: int) -> np.ndarray:
    """Float16 bits that differ, at an address that is a multiple of 16."""
    storage = np.zeros(int(np.prod(shape)) + 8, U16)
    begin = -storage.ctypes.data % 16 // 2
    array = storage[begin : begin + int(np.prod(shape))].reshape(shape)
    array[...] = np.arange(1, array.size + 1).reshape(shape)
    return array


def cut(array: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], outside: int = 0) -> np.ndarray:
    """The box at a place that may lie outside, filled with `outside` there."""
    padded = np.pad(array, [(16, 16)] * array.ndim, constant_values=outside)
    return padded[tuple(slice(16 + a, 16 + a + b) for a, b in zip(at, box, strict=True))]


@pytest.mark.parametrize(
    ("shape", "box", "at"),
    [
        ((64,), (16,), (56,)),
        ((5, 24), (4, 16), (-1, 16)),
        ((3, 5, 24), (2, 4, 8), (2, -2, -3)),
        ((2, 3, 5, 8), (1, 2, 4, 8), (1, 2, 3, 4)),
        ((2, 3, 4, 5, 16), (2, 1, 2, 4, 8), (-1, 2, 3, 2, 13)),
        ((3, 8), (2, 8), (9, 9)),
    ],
    ids=lambda value: str(value),
)
def test_boxes(shape: tuple[int, ...], box: tuple[int, ...], at: tuple[int, ...]) -> None:
    """Every rank, over every edge: what lies outside is zero."""
    array = numbered(*shape)
    np.testing.assert_array_equal(loaded(array, box, at), cut(array, box, at))


@pytest.mark.parametrize(
    ("shape", "box", "at"), [((5, 24), (4, 8), (2, 3)), ((3, 5, 24), (2, 4, 8), (1, 2, 3))], ids=["2d", "3d"]
)
def test_other_names(shape: tuple[int, ...], box: tuple[int, ...], at: tuple[int, ...]) -> None:
    """Triton 3.6 writes mbarrier.arrive.expect_tx.shared.b64, mbarrier.try_wait.parity.shared.b64 and
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes,
    cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes or
    cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes: in a cluster of one block the same.
    """
    renamed = [
        ("expect_tx.shared::cta.b64", "expect_tx.shared.b64"), ("parity.shared::cta.b64", "parity.shared.b64"),
        (".shared::cta.global.mbarrier", ".shared::cluster.global.mbarrier"),
    ]  # fmt: skip
    array = numbered(*shape)
    np.testing.assert_array_equal(loaded(array, box, at, renamed=renamed), cut(array, box, at))


def test_tf32_is_rounded() -> None:
    """TFLOAT32, type 11, to nearest with ties to even; NaN and Inf stay, and half a unit over the largest is Inf."""
    bits = {
        0x3F800FFF: 0x3F800000, 0x3F801000: 0x3F800000, 0x3F801001: 0x3F802000, 0x3F803000: 0x3F804000,
        0xBFFFFFFF: 0xC0000000, 0x7F7FEFFF: 0x7F7FE000, 0x7F7FF000: 0x7F800000, 0x00001001: 0x00002000,
        0x7F800000: 0x7F800000, 0xFF800000: 0xFF800000, 0x7FFFFFFF: 0x7FFFFFFF, 0x80000000: 0x80000000,
    }  # fmt: skip
    storage = np.zeros(20, U32)
    array = storage[-storage.ctypes.data % 16 // 4 :][:16]
    array[: len(bits)] = list(bits)
    assert loaded(array, (16,), (0,), data_type=11).tolist()[: len(bits)] == list(bits.values())
    assert loaded(array, (16,), (0,), data_type=7).tolist()[: len(bits)] == list(bits)


def test_fill_of_nan() -> None:
    """With the fill that asks for NaN, what lies outside is one."""
    array = numbered(3, 8)
    found = loaded(array, (2, 8), (2, 4), fill=1)
    outside = cut(array, (2, 8), (2, 4), outside=0) == 0
    assert np.isnan(found.view(np.float16)[outside]).all()
    np.testing.assert_array_equal(found[~outside], cut(array, (2, 8), (2, 4))[~outside])


@pytest.mark.parametrize(("swizzle", "width"), [(1, 32), (2, 64), (3, 128)])
def test_swizzles(swizzle: int, width: int) -> None:
    """Row r of `width` bytes: piece p of 16 bytes lies where piece p XOR (r * width / 128) % (width / 16) would."""
    array = numbered(16, width // 2)
    found = loaded(array, (16, width // 2), (0, 0), swizzle=swizzle).reshape(16, width // 16, 8)
    pieces = array.reshape(16, width // 16, 8)
    for r in range(16):
        for p in range(width // 16):
            np.testing.assert_array_equal(found[r, p ^ (r * width // 128) % (width // 16)], pieces[r, p])


def test_waiting_in_vain() -> None:
    """A phase that lacks bytes does not end."""
    with pytest.raises(CudaError, match=r"deadlock:\n  warp 0 waits for an mbarrier"):
        loaded(numbered(4, 16), (4, 16), (0, 0), expected=256)


def test_not_waiting() -> None:
    """What TMA has not brought yet nobody reads."""
    with pytest.raises(CudaError, match=r"which TMA is still writing|which nothing has written|races"):
        loaded(numbered(4, 16), (4, 16), (0, 0), wait="")


def test_phase_of_the_future() -> None:
    """Parity 1 names the phase before the first, which is over: nothing is waited for."""
    with pytest.raises(CudaError, match=r"which TMA is still writing|races"):
        loaded(numbered(4, 16), (4, 16), (0, 0), wait=WAIT.replace("[%r2], 0", "[%r2], 1"))


RULES = {
    r"no multiple of 16": {"box": (2, 4)},
    r"box size 257 of axis 1": {"box": (257, 8)},
    r"box size 0 of axis 0": {"box": (2, 0)},
    r"stride 40 of axis 1 is no multiple of 16": {"strides": (40, 2)},
    r"stride 1099511627776 of axis 1 is not below 2\^40": {"strides": (1 << 40, 2)},
    r"more than its swizzle of 32": {"box": (2, 32), "swizzle": 1},
    r"element stride 9 of axis 0 is not 1 to 8": {"steps": (1, 9)},
    r"data type 77": {"data_type": 77},
    r"data type 12 is not emulated": {"data_type": 12},  # TFLOAT32 without subnormal numbers
    r"fill 1 for data type 1": {"data_type": 1, "fill": 1},
    r"interleave 1": {"interleave": 1},
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_of_tensor_maps(rule: str) -> None:
    set_arch(90)
    with pytest.raises(CudaError, match=rule):
        tensor_map(numbered(8, 32), **{"box": (2, 8), **RULES[rule]})  # type: ignore[arg-type]


def test_more_rules_of_tensor_maps() -> None:
    set_arch(90)
    array = numbered(8, 32)
    with pytest.raises(CudaError, match="is not aligned to 16 bytes"):
        tensor_map(array[:, 1:], (2, 8), strides=(64, 2))
    with pytest.raises(CudaError, match="rank 6 is not 1 to 5"):
        tensor_map(numbered(1, 1, 1, 1, 1, 8), (1, 1, 1, 1, 1, 8))
    with pytest.raises(CudaError, match="size 0 of axis 1"):
        tensor_map(array[:0], (2, 8))
    set_arch(80)
    with pytest.raises(CudaError, match=r"need compute capability 9\.0"):
        tensor_map(array, (2, 8))


def test_no_tensor_map() -> None:
    set_arch(90)
    body = BODY.format(
        bytes=128, expected=128, rank=2, names="%r20, %r21", words=32, wait=WAIT,
        coordinates="mov.b32 %r20, 0; mov.b32 %r21, 0;",
    )  # fmt: skip
    text = program(body, ".param .align 64 .b8 map[128], .param .u64 out")
    with pytest.raises(CudaError, match="its operand is no tensor map"):
        Function(text)((ctypes.c_uint64 * 16)(), np.zeros(32, U32), threads=(64, 1, 1), shared=136)
    with pytest.raises(CudaError, match="a tensor map of 3 axes in an instruction for 2"):
        Function(text)(tensor_map(numbered(2, 4, 8), (2, 4, 8)), np.zeros(32, U32), threads=(64, 1, 1), shared=136)


# A box, what the threads do with it, and the box again.
TWICE = """
  mov.u32 %t0, %tid.x; mov.u32 %r1, memory; add.s32 %r2, %r1, 64; add.s32 %r3, %r1, 72;
  setp.eq.u32 %p1, %t0, 0; mov.b64 %d1, map; cvta.param.u64 %d1, %d1; mov.b32 %r20, 0; mov.b32 %r21, 0;
  @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;
  bar.sync 0;
  @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;
  @%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%d1, {{%r20, %r21}}], [%r2];
  first: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra.uni first;
  mad.lo.s32 %r4, %t0, 4, %r1; {between}
  bar.sync 0; {fence}
  @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 64;
  @%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%d1, {{%r20, %r21}}], [%r3];
  second: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra.uni second;
  ld.param.b64 %d2, [out]; ld.shared.b32 %r5, [%r4]; mad.wide.u32 %d3, %t0, 4, %d2; st.global.b32 [%d3], %r5;
  ret;
"""
READ, WRITE, FENCE = "ld.shared.b32 %r5, [%r4];", "st.shared.b32 [%r4], %t0;", "fence.proxy.async.shared::cta;"


@pytest.mark.parametrize(
    ("between", "fence", "verb"),
    [(READ, FENCE, None), (READ, "", "read"), (WRITE, FENCE, None), (WRITE, "", "wrote"), ("", "", None)],
)
def test_what_is_overwritten_lies_before_a_proxy_fence(between: str, fence: str, verb: str | None) -> None:
    """What threads read or wrote through the generic proxy, and TMA overwrites."""
    set_arch(90)
    array, out = numbered(4, 8), np.zeros(16, U32)
    body, parameters = TWICE.format(between=between, fence=fence), ".param .align 64 .b8 map[128]"
    text = program(body, f"{parameters}, .param .u64 out, .param .u64 data")
    function, descriptor = Function(text), tensor_map(array, (4, 8))
    if verb is None:
        function(descriptor, out, array, threads=(16, 1, 1), shared=80)
        assert np.array_equal(out.view(U16).reshape(4, 8), array)
        return
    message = rf"overwrites shared byte 0 by the asynchronous proxy, which warp 0 {verb}, with no fence\.proxy\.async"
    with pytest.raises(CudaError, match=message):
        function(descriptor, out, array, threads=(16, 1, 1), shared=80)
