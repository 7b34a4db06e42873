"""mov, selp, cvt and cvta against values from the PTX manual."""

from __future__ import annotations

import numpy as np
import pytest
from single import LETTER, lanes, result, run

U16, U32, U64 = np.uint16, np.uint32, np.uint64
I16, I32, I64 = np.int16, np.int32, np.int64
F32, F64 = np.float32, np.float64
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("opcode", ["mov.b16", "mov.u16", "mov.b32", "mov.u32", "mov.f32", "mov.b64", "mov.u64"])
def test_copies(opcode: str) -> None:
    kind = {"16": U16, "32": U32, "64": U64}[opcode[-2:]]
    values = np.arange(32).astype(kind) * kind(2047)
    letter = LETTER[np.dtype(kind).itemsize]
    np.testing.assert_array_equal(result(f"{opcode} %{letter}40, %{letter}0;", (values,), f"%{letter}40", kind), values)


def test_registers_put_together_and_taken_apart() -> None:
    """mov.b32 of two 16-bit registers, mov.b64 of two of 32 and four of 16: the first is the lowest."""
    body = """
      mov.b32 %r40, {%h0, %h1}; mov.b64 %d40, {%r40, %r2}; mov.b64 %d41, {%h0, %h1, %h0, %h1};
      mov.b32 {%h40, %h41}, %r40; mov.b64 {_, %r41}, %d40;
    """
    found = run(
        body, (lanes([0x1111], U16), lanes([0x2222], U16), lanes([0x33334444], U32)),
        (("%r40", U32), ("%d40", U64), ("%d41", U64), ("%h40", U16), ("%h41", U16), ("%r41", U32)),
    )  # fmt: skip
    expected = [0x22221111, 0x3333444422221111, 0x2222111122221111, 0x1111, 0x2222, 0x33334444]
    assert [values[0] for values in found] == expected


@pytest.mark.parametrize("opcode", ["selp.b16", "selp.b32", "selp.u32", "selp.f32", "selp.b64", "selp.f64"])
def test_selections(opcode: str) -> None:
    kind = {"16": U16, "32": U32, "64": U64}[opcode[-2:]]
    letter = LETTER[np.dtype(kind).itemsize]
    body = f"setp.eq.u32 %p1, %r2, 1; {opcode} %{letter}40, %{letter}0, %{letter}1, %p1;"
    inputs = (lanes([7], kind), lanes([9], kind), lanes([1, 0, 1], U32))
    assert result(body, inputs, f"%{letter}40", kind)[:3].tolist() == [7, 9, 7]


# opcode, type of the source register, values, type of the result register, values
CONVERSIONS = [
    ("cvt.s64.s32", I32, [-1, 5], I64, [-1, 5]),
    ("cvt.u64.u32", U32, [2**32 - 1], U64, [2**32 - 1]),
    ("cvt.s32.s16", I16, [-1, 5], I32, [-1, 5]),
    ("cvt.s64.s16", I16, [-1, 5], I64, [-1, 5]),
    ("cvt.u64.u16", U16, [65535], U64, [65535]),
    ("cvt.u32.u16", U16, [65535], U32, [65535]),
    ("cvt.u16.u32", U32, [0x12345678], U16, [0x5678]),
    ("cvt.u16.u64", U64, [0x123456789ABC], U16, [0x9ABC]),
    ("cvt.u32.u64", U64, [0x123456789ABC], U32, [0x56789ABC]),
    # a register wider than its type: cut to it, extended from it
    ("cvt.s32.s8", U32, [0x1FF, 0x7F], I32, [-1, 127]),
    ("cvt.s16.s8", U16, [0x1FF, 0x7F], I16, [-1, 127]),
    ("cvt.u32.u8", U32, [0x1FF], U32, [0xFF]),
    ("cvt.f32.bf16", U16, [0x3F80, 0xC049, 0x7F80], F32, [1, -3.140625, INF]),
    ("cvt.f32.f16", U16, [0x3C00, 0xC248, 0x0001, 0x7C00], F32, [1, -3.140625, 2.0**-24, INF]),
    # to nearest even: 1 + 2^-8 is halfway between 1 and the next bfloat16, 1 + 3 * 2^-8 halfway to an even one
    ("cvt.rn.bf16.f32", F32, [1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, NAN, -0.0], U16,
     [0x3F80, 0x3F82, 0x7F80, 0x7FFF, 0x8000]),
    ("cvt.rn.f16.f32", F32, [1 + 2**-11, 1 + 3 * 2**-11, 65520, 65519, 2**-25, 3 * 2**-25, NAN, -0.0], U16,
     [0x3C00, 0x3C02, 0x7C00, 0x7BFF, 0, 2, 0x7FFF, 0x8000]),
    # to nearest, ties away from zero, 10 bits of fraction kept
    ("cvt.rna.tf32.f32", F32, [1 + 2**-11, -1 - 2**-11, 1 + 2**-12], F32, [1 + 2**-10, -1 - 2**-10, 1]),
    ("cvt.f64.f32", F32, [0.5], F64, [0.5]),
    ("cvt.rn.f32.f64", F64, [1 + 2**-24, 1 + 3 * 2**-24], F32, [1, 1 + 2 * 2**-23]),
    ("cvt.rn.f32.s32", I32, [2**24 + 1, -3], F32, [2**24, -3]),
    ("cvt.rn.f32.u32", U32, [2**32 - 1], F32, [2**32]),
    ("cvt.rzi.s32.f32", F32, [-1.9, 3e9, -3e9, NAN], I32, [-1, 2**31 - 1, -(2**31), 0]),
    ("cvt.rzi.u32.f32", F32, [-1.9, 5e9, 2.9], U32, [0, 2**32 - 1, 2]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("opcode", "source", "values", "kind", "expected"), CONVERSIONS, ids=[c[0] for c in CONVERSIONS]
)
def test_conversions(opcode: str, source: type, values: list, kind: type, expected: list) -> None:
    a, b = LETTER[np.dtype(source).itemsize], LETTER[np.dtype(kind).itemsize]
    found = result(f"{opcode} %{b}40, %{a}0;", (lanes(values, source),), f"%{b}40", kind)[: len(expected)]
    np.testing.assert_array_equal(found, np.array(expected, kind))


def test_pairs() -> None:
    """cvt.rn.bf16x2.f32 and cvt.rn.f16x2.f32: the first source is the upper half."""
    body = "cvt.rn.bf16x2.f32 %r40, %r0, %r1; cvt.rn.f16x2.f32 %r41, %r0, %r1;"
    found = run(body, (lanes([1.0], F32), lanes([-2.0], F32)), (("%r40", U32), ("%r41", U32)))
    assert [int(values[0]) for values in found] == [0x3F80C000, 0x3C00C000]


def test_halves_round_as_numpy() -> None:
    """Every float16 comes back, and points between neighbours go where NumPy sends them."""
    every = np.arange(0x7C00, dtype=U16).view(np.float16).astype(F32)
    between = (every[:-1] + every[1:]) / 2
    for values in (every, between, np.nextafter(between, F32(1)), -between):
        for part in np.array_split(values[: len(values) // 32 * 32][::31], 8):
            part = part[: len(part) // 32 * 32]
            for warp in part.reshape(-1, 32)[::7]:
                found = result("cvt.rn.f16.f32 %h40, %r0;", (warp,), "%h40", U16)
                np.testing.assert_array_equal(found, warp.astype(np.float16).view(U16))


def test_generic_addresses() -> None:
    """cvta.to.global.u64 changes nothing; cvta.shared.u64 leads generic loads into shared memory, and back."""
    body = """
      mov.u64 %d9, memory; shl.b32 %r20, %t0, 2; cvt.u64.u32 %d10, %r20; add.s64 %d9, %d9, %d10;
      st.shared.b32 [%d9], %r0;
      cvta.shared.u64 %d11, %d9; ld.b32 %r40, [%d11]; cvta.to.shared.u64 %d12, %d11; ld.shared.b32 %r41, [%d12];
      cvta.to.global.u64 %d13, %a0; sub.s64 %d40, %d13, %a0;
    """
    values = np.arange(32, dtype=U32)
    found = run(body, (values,), (("%r40", U32), ("%r41", U32), ("%d40", I64)))
    np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(found[1], values)
    assert not found[2].any()


def test_special_registers() -> None:
    body = """
      mov.u32 %r40, %tid.x; mov.u32 %r41, %tid.y; mov.u32 %r42, %ntid.x; mov.u32 %r43, %ctaid.x;
      mov.u32 %r44, %nctaid.z;
      mov.u32 %r45, %laneid;
    """
    found = run(body, (), tuple((f"%r{i}", U32) for i in range(40, 46)), threads=(32, 1, 1))
    expected = [np.arange(32), np.zeros(32), np.full(32, 32), np.zeros(32), np.ones(32), np.arange(32)]
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, wanted)
