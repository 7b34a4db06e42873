"""wgmma.mma_async: descriptors, swizzles and fragments, laid out here from the manual's pictures.

A swizzle of 128 bytes exchanges, in the r-th of 8 rows of 128 bytes, the 16-byte pieces p and p XOR r; of 64 bytes, in
rows of 64, p and p XOR (r / 2); of 32 bytes, in rows of 32, p and p XOR (r / 4).
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gpu_emulator.library import CudaError, set_arch
from gpu_emulator.modules import Function
from single import program
from test_matrices import GROUP, THREAD, bfloat16_bits, half_bits

F32, F64, U8, U16, U32, U64 = np.float32, np.float64, np.uint8, np.uint16, np.uint32, np.uint64
MODES = {16: 0, 128: 1, 64: 2, 32: 3}  # the descriptor's number of a swizzle; 16 bytes: none
LANES = np.arange(128)


def swizzled(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of `width` bytes, each 8 of them an atom, with their 16-byte pieces exchanged."""
    pieces = rows.reshape(-1, 8, width // 16, 16)
    result = np.empty_like(pieces)
    for r in range(8):
        for p in range(width // 16):
            result[:, r, p ^ (r * width // 128), :] = pieces[:, r, p, :]
    return result.reshape(-1)


def elements(matrix: np.ndarray, kind: str) -> np.ndarray:
    """Bytes [..., T] of the elements."""
    if kind == "tf32":
        return np.ascontiguousarray(matrix, F32).view(U8).reshape(*matrix.shape, 4)
    bits = (bfloat16_bits if kind == "bf16" else half_bits)(matrix).astype(U16)
    return np.ascontiguousarray(bits).view(U8).reshape(*matrix.shape, 2)


def laid_out(matrix: np.ndarray, kind: str, width: int, k_innermost: bool) -> tuple[np.ndarray, int, int]:
    """The operand [outer, k] in shared memory, its leading and its stride offset in bytes."""
    bytes_ = elements(matrix, kind)
    T = bytes_.shape[-1]
    w = width // T
    if not k_innermost:
        bytes_ = bytes_.swapaxes(0, 1)  # rows are k
    rows, columns = bytes_.shape[:2]
    blocks = -(-columns // w)
    padded = np.zeros((rows, blocks * w, T), U8)
    padded[:, :columns] = bytes_
    # blocks of 8 rows by w columns, one behind the other along the rows first
    atoms = padded.reshape(rows // 8, 8, blocks, w * T).transpose(2, 0, 1, 3)
    memory = swizzled(np.ascontiguousarray(atoms).reshape(-1, width), width)
    down, across = 8 * width, rows * width  # to the next 8 rows, to the next w columns
    if k_innermost:
        return memory, across, down
    return (memory, across, down) if width > 16 else (memory, down, across)


def descriptor(at: int, leading: int, stride: int, width: int) -> int:
    return at >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | MODES[width] << 62


def multiplied(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    kind: str,
    widths: tuple[int, int],
    k_innermost: tuple[bool, bool],
    registers: bool = False,
    statements: str = "",
    before: str = "wgmma.fence.sync.aligned;",
    scale: str = "%p1",
) -> np.ndarray:
    """a [64, k] times b [k, n] plus c [64, n], by one warpgroup."""  # fmt: skip
    k, n = b.shape
    parts, offsets, at = [], [], 0
    for matrix, width, inner in ((a, widths[0], k_innermost[0]), (b.T, widths[1], k_innermost[1])):
        memory, leading, stride = laid_out(matrix, kind, width, inner)
        memory = np.concatenate([memory, np.zeros(-len(memory) % 1024, U8)])
        offsets.append(descriptor(at, leading, stride, width))
        parts.append(memory)
        at += len(memory)
    image = np.concatenate(parts).view(U32)
    sums = [f"%r{100 + i}" for i in range(n // 2)]
    shape = f"m64n{n}k{k}"
    trans = "" if kind == "tf32" else ", " + ", ".join(str(int(not i)) for i in k_innermost[int(registers) :])
    first = "{%r90, %r91, %r92, %r93}" if registers else "%d1"
    load = "".join(f"ld.global.b32 {name}, [%d5+{512 * i}];" for i, name in enumerate(sums))
    store = "".join(f"st.global.b32 [%d5+{512 * i}], {name};" for i, name in enumerate(sums))
    body = f"""
      mov.u32 %t0, %tid.x; ld.param.b64 %d3, [image]; mov.u32 %r1, %t0; mov.u32 %r3, memory;
      COPY:
      setp.ge.u32 %p2, %r1, {len(image)}; @%p2 bra COPIED;
      mul.wide.u32 %d4, %r1, 4; add.s64 %d4, %d4, %d3; ld.global.b32 %r2, [%d4]; mad.lo.s32 %r4, %r1, 4, %r3;
      st.shared.b32 [%r4], %r2; add.s32 %r1, %r1, 128; bra COPY;
      COPIED:
      ld.param.b64 %d5, [sums]; mad.wide.u32 %d5, %t0, 4, %d5; {load}
      ld.param.b64 %d6, [fragments]; mad.wide.u32 %d6, %t0, 16, %d6; ld.global.v4.b32 {{%r90, %r91, %r92, %r93}}, [%d6];
      ld.param.b64 %d1, [first]; ld.param.b64 %d2, [second]; mov.pred %p1, -1; mov.pred %p3, 0;
      fence.proxy.async.shared::cta; bar.sync 0; {before}
      wgmma.mma_async.sync.aligned.{shape}.f32.{kind}.{kind} {{{",".join(sums)}}}, {first}, %d2, {scale}, 1, 1{trans};
      wgmma.commit_group.sync.aligned; {statements} wgmma.wait_group.sync.aligned 0;
      {store} ret;
    """
    held = np.zeros((n // 2, 128), F32)
    # d: row 16 warp + groupID + 8 ((i / 2) % 2), column 8 (i / 4) + 2 threadID + i % 2
    row = 16 * (LANES // 32) + np.tile(GROUP, 4)
    thread = np.tile(THREAD, 4)
    for i in range(n // 2):
        held[i] = c[row + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * thread + i % 2]
    fragments = np.zeros((128, 4), U32)
    for i in range(4):
        if kind == "tf32":
            fragments[:, i] = a[row + 8 * (i % 2), thread + 4 * (i // 2)].astype(F32).view(U32)
        else:
            bits = bfloat16_bits if kind == "bf16" else half_bits
            column = 2 * thread + 8 * (i // 2)
            fragments[:, i] = bits(a[row + 8 * (i % 2), column]) | bits(a[row + 8 * (i % 2), column + 1]) << 16
    set_arch(90)
    parameters = ".param .u64 image, .param .u64 sums, .param .u64 fragments, .param .u64 first, .param .u64 second"
    Function(program(body, parameters))(
        image, held, fragments, *(ctypes.c_uint64(d) for d in offsets), threads=(128, 1, 1), shared=4 * len(image),
        limit=4 * len(image),
    )  # fmt: skip
    result = np.zeros((64, n))
    for i in range(n // 2):
        result[row + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * thread + i % 2] = held[i]
    return result


def drawn(n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + k)
    return tuple(rng.integers(-4, 5, shape).astype(F64) for shape in ((64, k), (k, n), (64, n)))  # type: ignore[return-value]


# wgmma.mma_async.sync.aligned.m64n{16,32,64,128,256}k16.f32.{bf16.bf16,f16.f16} and k8.f32.tf32.tf32
@pytest.mark.parametrize("n", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("kind", ["bf16", "f16", "tf32"])
def test_sizes(kind: str, n: int) -> None:
    a, b, c = drawn(n, 8 if kind == "tf32" else 16)
    np.testing.assert_array_equal(multiplied(a, b, c, kind, (128, 128), (True, True)), a @ b + c)


@pytest.mark.parametrize("k_innermost", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("widths", [(16, 16), (32, 64), (64, 128), (128, 32)])
def test_layouts(widths: tuple[int, int], k_innermost: tuple[bool, bool]) -> None:
    a, b, c = drawn(128, 16)
    np.testing.assert_array_equal(multiplied(a, b, c, "bf16", widths, k_innermost), a @ b + c)


@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_layouts_of_tf32(width: int) -> None:
    a, b, c = drawn(32, 8)
    np.testing.assert_array_equal(multiplied(a, b, c, "tf32", (width, width), (True, True)), a @ b + c)


@pytest.mark.parametrize("kind", ["bf16", "f16", "tf32"])
def test_first_operand_in_registers(kind: str) -> None:
    a, b, c = drawn(32, 8 if kind == "tf32" else 16)
    np.testing.assert_array_equal(multiplied(a, b, c, kind, (128, 128), (True, True), registers=True), a @ b + c)


def test_sum_anew() -> None:
    """scale-d false: what is in the accumulators does not count."""
    a, b, c = drawn(16, 16)
    np.testing.assert_array_equal(multiplied(a, b, c, "bf16", (128, 128), (True, True), scale="%p3"), a @ b)


def test_registers_in_flight() -> None:
    with pytest.raises(CudaError, match="touches a register of a wgmma that is in flight"):
        multiplied(*drawn(16, 16), "bf16", (128, 128), (True, True), statements="add.f32 %r1, %r100, %r100;")
    with pytest.raises(CudaError, match=r"comes before any wgmma\.fence"):
        multiplied(*drawn(16, 16), "bf16", (128, 128), (True, True), before="")
    changed = "wgmma.fence.sync.aligned; add.f32 %r100, %r100, %r100;"
    with pytest.raises(CudaError, match=r"after the last wgmma\.fence"):
        multiplied(*drawn(16, 16), "bf16", (128, 128), (True, True), before=changed)


def test_shared_memory_in_flight() -> None:
    with pytest.raises(CudaError, match=r"a wgmma of warp \d in flight reads"):
        multiplied(*drawn(16, 16), "bf16", (128, 128), (True, True), statements="st.shared.b32 [memory], %r1;")


def test_without_a_proxy_fence() -> None:
    """Stores through the generic proxy have to be followed by a fence before wgmma reads them."""
    a, b, c = drawn(16, 16)
    after = (
        "mov.b32 %r5, 0; mad.lo.s32 %r6, %t0, 16, %r3; st.shared.b32 [%r6], %r5; bar.sync 0; wgmma.fence.sync.aligned;"
    )
    with pytest.raises(CudaError, match=r"no fence\.proxy\.async in between"):
        multiplied(a, b, c, "bf16", (128, 128), (True, True), before=after)
