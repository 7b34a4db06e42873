"""ldmatrix, stmatrix and mma.sync: fragments by the manual's tables, written out here anew.

`groupID = lane >> 2`, `threadID_in_group = lane % 4`, and each element's row and column as the manual gives them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from single import result, run

U16, U32, U64, F32, F64 = np.uint16, np.uint32, np.uint64, np.float32, np.float64
GROUP, THREAD = np.arange(32) >> 2, np.arange(32) % 4


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count: int, trans: str) -> None:
    """ldmatrix.sync.aligned.m8n8.x1.shared.b16, .x2.trans.shared.b16, .x4.shared.b16, .x4.trans.shared.b16"""
    matrices = np.arange(count * 64, dtype=U16).reshape(count, 8, 8)
    stored = np.zeros(32 * 8, U16)
    stored[: count * 64] = matrices.ravel()
    parts = stored.view(U32).reshape(32, 4)  # lane l stores row l: matrix l // 8, row l % 8
    registers = [f"%r{40 + i}" for i in range(count)]
    body = f"""
      mov.u32 %r30, memory; mad.lo.s32 %r31, %t0, 16, %r30; st.shared.v4.b32 [%r31], {{%r0, %r1, %r2, %r3}}; bar.sync 0;
      ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{", ".join(registers)}}}, [%r31];
    """
    found = run(body, tuple(parts[:, i].copy() for i in range(4)), tuple((name, U32) for name in registers))
    for matrix, values in zip(matrices, found, strict=True):
        matrix = matrix.T if trans else matrix
        np.testing.assert_array_equal(values & 0xFFFF, matrix[GROUP, 2 * THREAD])
        np.testing.assert_array_equal(values >> 16, matrix[GROUP, 2 * THREAD + 1])


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix(count: int, trans: str) -> None:
    """stmatrix.sync.aligned.m8n8.x2.shared.b16, .x4.shared.b16, .x4.trans.shared.b16"""
    matrices = np.arange(count * 64, dtype=U32).reshape(count, 8, 8)
    inputs = []
    for matrix in matrices:
        held = matrix.T if trans else matrix
        inputs.append((held[GROUP, 2 * THREAD] | held[GROUP, 2 * THREAD + 1] << 16).astype(U32))
    sources = ", ".join(f"%r{i}" for i in range(count))
    body = f"""
      mov.u32 %r30, memory; mad.lo.s32 %r31, %t0, 16, %r30;
      mov.b32 %r32, 0; st.shared.v4.b32 [%r31], {{%r32, %r32, %r32, %r32}};
      stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r31], {{{sources}}};
      ld.shared.v4.b32 {{%r40, %r41, %r42, %r43}}, [%r31];
    """
    found = run(body, tuple(inputs), tuple((f"%r{i}", U32) for i in range(40, 44)))
    rows = np.stack(found, 1).view(U16).reshape(32, 8)[: 8 * count]
    np.testing.assert_array_equal(rows, matrices.reshape(-1, 8))


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    return (values.astype(F32).view(U32) >> 16).astype(U32)  # small integers are exact


def half_bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).view(U16).astype(U32)


def packed(bits: object, at: object, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A register of two 16-bit elements: (rows, columns) and the column after it."""
    return bits(at[rows, columns]) | bits(at[rows, columns + 1]) << 16  # type: ignore[operator, index]


def small(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-4, 5, shape).astype(F64)


def accumulator(values: tuple[np.ndarray, ...]) -> np.ndarray:
    """c0..c3: row groupID for c0, c1, 8 further for c2, c3; column 2 threadID + (i & 1)."""
    c = np.zeros((16, 8))
    for i, held in enumerate(values):
        c[GROUP + 8 * (i // 2), 2 * THREAD + i % 2] = held
    return c


@pytest.mark.parametrize(("kind", "bits"), [("bf16", bfloat16_bits), ("f16", half_bits)])
@pytest.mark.parametrize("k", [8, 16])
def test_mma_of_16_bits(kind: str, bits: object, k: int) -> None:
    """mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"""
    a, b, c = small(16, k), small(k, 8), small(16, 8)
    registers = []
    for column, row in itertools.product(range(0, k, 8), (0, 8)):  # a0,a1 | a2,a3: + 8 rows | a4..: + 8 columns
        registers.append(packed(bits, a, GROUP + row, 2 * THREAD + column))
    registers += [packed(bits, b.T, GROUP, 2 * THREAD + row) for row in range(0, k, 8)]
    sums = [c[GROUP + 8 * (i // 2), 2 * THREAD + i % 2].astype(F32) for i in range(4)]
    names = [f"%r{i}" for i in range(len(registers) + 4)]
    split = k // 8 * 2
    body = (
        f"mma.sync.aligned.m16n8k{k}.row.col.f32.{kind}.{kind}.f32 {{%r40,%r41,%r42,%r43}},"
        f" {{{','.join(names[:split])}}},"
        f" {{{','.join(names[split:-4])}}}, {{{','.join(names[-4:])}}};"
    )
    found = run(body, (*registers, *sums), tuple((f"%r{i}", F32) for i in range(40, 44)))
    np.testing.assert_array_equal(accumulator(found), a @ b + c)


def test_mma_of_tf32() -> None:
    """mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32; the 13 lowest bits of an operand do not take part."""
    a, b, c = small(16, 8), small(8, 8), small(16, 8)
    held = [a[GROUP + 8 * (i % 2), THREAD + 4 * (i // 2)] for i in range(4)] + [
        b[THREAD + 4 * i, GROUP] for i in range(2)
    ]
    operands = [(v.astype(F32).view(U32) | 0x1FFF) for v in held]
    sums = [c[GROUP + 8 * (i // 2), 2 * THREAD + i % 2].astype(F32) for i in range(4)]
    body = (
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r40,%r41,%r42,%r43}, {%r0,%r1,%r2,%r3}, {%r4,%r5},"
        " {%r6,%r7,%r8,%r9};"
    )
    found = run(body, (*operands, *sums), tuple((f"%r{i}", F32) for i in range(40, 44)))
    tiny = np.zeros_like(a)  # 0 with lower bits is a denormal: nothing of it is left
    np.testing.assert_array_equal(accumulator(found), a @ b + c + tiny[:, :8])


@pytest.mark.parametrize("k", [4, 8, 16])
def test_mma_of_doubles(k: int) -> None:
    """mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64: row groupID + 8 for odd i, column 4 (i / 2) + threadID."""
    a, b, c = small(16, k) / 3, small(k, 8), small(16, 8)
    held = [a[GROUP + 8 * (i % 2), 4 * (i // 2) + THREAD] for i in range(k // 2)]
    held += [b[4 * i + THREAD, GROUP] for i in range(k // 4)]
    held += [c[GROUP + 8 * (i // 2), 2 * THREAD + i % 2] for i in range(4)]
    names = [f"%d{i}" for i in range(len(held))]
    body = (
        f"mma.sync.aligned.m16n8k{k}.row.col.f64.f64.f64.f64 {{%d40,%d41,%d42,%d43}}, {{{','.join(names[: k // 2])}}},"
        f" {{{','.join(names[k // 2 : -4])}}}, {{{','.join(names[-4:])}}};"
    )
    found = run(body, tuple(held), tuple((f"%d{i}", F64) for i in range(40, 44)))
    np.testing.assert_allclose(accumulator(found), a @ b + c, rtol=1e-14, atol=1e-14)


def test_small_mma_of_doubles() -> None:
    """mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64"""
    a, b, c = small(8, 4), small(4, 8), small(8, 8)
    body = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d40,%d41}, {%d0}, {%d1}, {%d2,%d3};"
    held = (a[GROUP, THREAD], b[THREAD, GROUP], c[GROUP, 2 * THREAD], c[GROUP, 2 * THREAD + 1])
    found = run(body, held, (("%d40", F64), ("%d41", F64)))
    d = np.zeros((8, 8))
    for i in range(2):
        d[GROUP, 2 * THREAD + i] = found[i]
    np.testing.assert_array_equal(d, a @ b + c)


def test_result_over_operands() -> None:
    """The accumulators may be the registers of the result."""
    body = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d0,%d1}, {%d0}, {%d1}, {%d0,%d1};"
    a, b = small(8, 4), small(4, 8)
    found = result(body, (a[GROUP, THREAD], b[THREAD, GROUP]), "%d0", F64)
    c = np.zeros((8, 8))
    c[GROUP, 2 * THREAD] = a[GROUP, THREAD]
    np.testing.assert_array_equal(found, (a @ b + c)[GROUP, 2 * THREAD])
