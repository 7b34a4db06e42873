"""Arithmetic, comparisons, logic and shifts: each opcode against values worked out by hand from the PTX manual."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from single import LETTER, lanes, result, run

NAN, INF = float("nan"), float("inf")
I16, I32, I64 = np.int16, np.int32, np.int64
U16, U32, U64 = np.uint16, np.uint32, np.uint64
F32, F64 = np.float32, np.float64
MOST, LEAST = 2**31 - 1, -(2**31)
ONE = 2.0**-23  # the unit in the last place of a float32 between 1 and 2

# opcode, type of the result, and columns of operands with their types; the last row is what has to come out
TABLE = [
    ("add.s16", I16, [(I16, [32767, -5]), (I16, [1, 3])], [-32768, -2]),
    ("add.s32", I32, [(I32, [MOST, -5]), (I32, [1, 7])], [LEAST, 2]),
    ("add.s64", I64, [(I64, [2**63 - 1, -5]), (I64, [1, 7])], [-(2**63), 2]),
    # 1 + half a unit stays at the even 1; one and a half units go to the even two
    ("add.f32", F32, [(F32, [1, 1 + ONE, INF]), (F32, [ONE / 2, ONE / 2, 1])], [1, 1 + 2 * ONE, INF]),
    ("add.f64", F64, [(F64, [1, 2**53]), (F64, [2**-53, 1])], [1, 2**53]),
    ("sub.s16", I16, [(I16, [-32768]), (I16, [1])], [32767]),
    ("sub.s32", I32, [(I32, [LEAST, 3]), (I32, [1, 5])], [MOST, -2]),
    ("sub.s64", I64, [(I64, [-(2**63), 3]), (I64, [1, 5])], [2**63 - 1, -2]),
    ("sub.f32", F32, [(F32, [1, 0.1]), (F32, [2**-25, 0.1])], [1, 0]),
    ("mul.lo.s16", I16, [(I16, [300, -7]), (I16, [300, 3])], [90000 - 65536, -21]),
    ("mul.lo.s32", I32, [(I32, [65536, -7, 123456789]), (I32, [65537, 3, 987654321])], [65536, -21, -67153019]),
    ("mul.lo.s64", I64, [(I64, [2**33, -7]), (I64, [2**33, 3])], [0, -21]),
    ("mul.hi.s16", I16, [(I16, [-1, 300]), (I16, [1, 300])], [-1, 1]),
    ("mul.hi.s32", I32, [(I32, [-1, 65536]), (I32, [1, 65536])], [-1, 1]),
    ("mul.hi.u32", U32, [(U32, [2**32 - 1, 65536]), (U32, [2**32 - 1, 65536])], [2**32 - 2, 1]),
    ("mul.wide.s32", I64, [(I32, [-1, LEAST]), (I32, [5, LEAST])], [-5, 2**62]),
    ("mul.wide.u32", U64, [(U32, [2**32 - 1]), (U32, [2**32 - 1])], [2**64 - 2**33 + 1]),
    ("mul.wide.s16", I32, [(I16, [-1, -32768]), (I16, [5, -32768])], [-5, 2**30]),
    ("mul.wide.u16", U32, [(U16, [65535]), (U16, [65535])], [65535**2]),
    ("mul.f32", F32, [(F32, [1 + ONE, -0.0]), (F32, [1 + ONE, 3])], [1 + 2 * ONE, -0.0]),
    ("mul.f64", F64, [(F64, [3]), (F64, [0.5])], [1.5]),
    ("mad.lo.s32", I32, [(I32, [65536, 3]), (I32, [65536, -4]), (I32, [7, 2])], [7, -10]),
    ("mad.lo.s64", I64, [(I64, [2**32, 3]), (I64, [2**32, -4]), (I64, [7, 2])], [7, -10]),
    ("mad.wide.s32", I64, [(I32, [-2, MOST]), (I32, [3, 2]), (I64, [2**40, 1])], [2**40 - 6, 2**32 - 1]),
    ("mad.wide.u32", U64, [(U32, [2**32 - 1]), (U32, [2]), (U64, [1])], [2**33 - 1]),
    # fused: (1 + u)(1 - u) - 1 = -u^2, which two roundings lose
    ("fma.rn.f32", F32, [(F32, [1 + ONE]), (F32, [1 - ONE]), (F32, [-1])], [-(ONE**2)]),
    ("fma.rn.f64", F64, [(F64, [1 + 2**-52]), (F64, [1 - 2**-52]), (F64, [-1])], [-(2.0**-104)]),
    ("div.s32", I32, [(I32, [-7, 7, LEAST]), (I32, [2, -2, -1])], [-3, -3, LEAST]),
    ("div.s64", I64, [(I64, [-7, 7]), (I64, [2, -2])], [-3, -3]),
    ("div.full.f32", F32, [(F32, [7, -1, 1, 0, INF]), (F32, [2, 4, 0, 0, INF])], [3.5, -0.25, INF, NAN, NAN]),
    # subnormal numbers are zeros, in and out
    ("ex2.approx.ftz.f32", F32, [(F32, [3, -1, 0, -INF, INF, NAN, 1e-40, -127, 128])],
     [8, 0.5, 1, 0, INF, NAN, 1, 0, INF]),
    ("div.u32", U32, [(U32, [2**32 - 1, 7]), (U32, [2, 2])], [2**31 - 1, 3]),
    ("rem.s32", I32, [(I32, [-7, 7, LEAST]), (I32, [2, -2, -1])], [-1, 1, 0]),
    ("rem.u32", U32, [(U32, [2**32 - 1]), (U32, [10])], [5]),
    ("rem.s64", I64, [(I64, [-7, 7, 2**40 + 5]), (I64, [2, -2, 2**40])], [-1, 1, 5]),
    ("min.s32", I32, [(I32, [-1, 5]), (I32, [1, 3])], [-1, 3]),
    ("min.s64", I64, [(I64, [-1, 2**40]), (I64, [1, 3])], [-1, 3]),
    ("min.u32", U32, [(U32, [2**32 - 1, 5]), (U32, [1, 3])], [1, 3]),
    ("max.s32", I32, [(I32, [-1, 5]), (I32, [1, 3])], [1, 5]),
    ("max.u32", U32, [(U32, [2**32 - 1, 5]), (U32, [1, 3])], [2**32 - 1, 5]),
    ("min.f32", F32, [(F32, [NAN, 1, NAN, 0.0]), (F32, [2, NAN, NAN, -0.0])], [2, 1, NAN, -0.0]),
    ("max.f32", F32, [(F32, [NAN, 1, -0.0]), (F32, [2, NAN, 0.0])], [2, 1, 0.0]),
    ("neg.s32", I32, [(I32, [5, LEAST])], [-5, LEAST]),
    ("neg.s64", I64, [(I64, [5, -(2**63)])], [-5, -(2**63)]),
    ("neg.f32", F32, [(F32, [0.0, -3])], [-0.0, 3]),
    ("abs.f32", F32, [(F32, [-0.0, -INF])], [0.0, INF]),
    ("abs.s32", I32, [(I32, [-5, 5])], [5, 5]),
    ("and.b16", U16, [(U16, [0xFF0F]), (U16, [0x0FFF])], [0x0F0F]),
    ("and.b32", U32, [(U32, [0xFF00FF00]), (U32, [0x0FF00FF0])], [0x0F000F00]),
    ("and.b64", U64, [(U64, [2**63 + 5]), (U64, [2**63 + 6])], [2**63 + 4]),
    ("or.b16", U16, [(U16, [0xF000]), (U16, [0x000F])], [0xF00F]),
    ("or.b32", U32, [(U32, [0xF0000000]), (U32, [1])], [0xF0000001]),
    ("or.b64", U64, [(U64, [2**63]), (U64, [1])], [2**63 + 1]),
    ("xor.b32", U32, [(U32, [0xFFFF0000]), (U32, [0xFF00FF00])], [0x00FFFF00]),
    ("xor.b64", U64, [(U64, [2**63 + 1]), (U64, [1])], [2**63]),
    ("not.b16", U16, [(U16, [0x0F0F])], [0xF0F0]),
    ("not.b32", U32, [(U32, [0x0F0F0F0F])], [0xF0F0F0F0]),
    # shifts clamp: 32 and more of a 32-bit register empty it, or fill it with its sign
    ("shl.b16", U16, [(U16, [1, 0x8001]), (U32, [16, 1])], [0, 2]),
    ("shl.b32", U32, [(U32, [1, 3]), (U32, [32, 31])], [0, 2**31]),
    ("shl.b64", U64, [(U64, [1, 3]), (U32, [64, 63])], [0, 2**63]),
    ("shr.s16", I16, [(I16, [-4, -1]), (U32, [1, 99])], [-2, -1]),
    ("shr.s32", I32, [(I32, [-4, -1]), (U32, [1, 99])], [-2, -1]),
    ("shr.s64", I64, [(I64, [-4, -1]), (U32, [1, 99])], [-2, -1]),
    ("shr.u16", U16, [(U16, [0x8000, 7]), (U32, [15, 16])], [1, 0]),
    ("shr.u32", U32, [(U32, [2**31, 7]), (U32, [31, 32])], [1, 0]),
    ("shr.u64", U64, [(U64, [2**63, 7]), (U32, [63, 64])], [1, 0]),
    # d = the upper half of {b, a} << c; .wrap takes c modulo 32, .clamp at most 32
    ("shf.l.wrap.b32", U32, [(U32, [0x12345678] * 2), (U32, [0x9ABCDEF0] * 2), (U32, [8, 40])], [0xBCDEF012] * 2),
    ("shf.l.clamp.b32", U32, [(U32, [0x12345678]), (U32, [0x9ABCDEF0]), (U32, [40])], [0x12345678]),
    ("shf.r.wrap.b32", U32, [(U32, [0x12345678]), (U32, [0x9ABCDEF0]), (U32, [8])], [0xF0123456]),
    ("shf.r.clamp.b32", U32, [(U32, [0x12345678]), (U32, [0x9ABCDEF0]), (U32, [99])], [0x9ABCDEF0]),
    ("bfe.u32", U32, [(U32, [0xABCD1234, 0xABCD1234, 5]), (U32, [8, 28, 0]), (U32, [8, 8, 0])], [0x12, 0xA, 0]),
    # the sign of the field fills the rest; beyond the register, the register's
    ("bfe.s32", I32, [(I32, [0x80, 0x40, LEAST]), (U32, [4, 4, 28]), (U32, [4, 4, 8])], [-8, 4, -8]),
    # 8 bits of a in place of b's from bit 4 on, from bit 28 on those that fit, none
    ("bfi.b32", U32, [(U32, [0xFAB, 0xFAB, 7]), (U32, [0xFFFFFFFF, 0, 5]), (U32, [4, 28, 3]), (U32, [8, 8, 0])],
     [0xFFFFFABF, 0xB0000000, 5]),
    # bytes of {b, a} by number, 7 the highest; with bit 3 set, the byte's sign
    ("prmt.b32", U32, [(U32, [0x03020100] * 3), (U32, [0x87060504] * 3), (U32, [0x3210, 0x7F40, 0xE9F5])],
     [0x03020100, 0x87FF0400, 0x0000FF05]),
]  # fmt: skip


def executed(opcode: str, operands: list[tuple[type, list]], dtype: type, target: str = "sm_90a") -> np.ndarray:
    inputs = tuple(lanes(values, kind) for kind, values in operands)
    sources = [f"%{LETTER[a.itemsize]}{i}" for i, a in enumerate(inputs)]
    destination = f"%{LETTER[np.dtype(dtype).itemsize]}40"
    return result(f"{opcode} {destination}, {', '.join(sources)};", inputs, destination, dtype, target=target)


@pytest.mark.parametrize(("opcode", "dtype", "operands", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_table(opcode: str, dtype: type, operands: list, expected: list) -> None:
    found = executed(opcode, operands, dtype)[: len(expected)]
    wanted = np.array(expected, dtype)
    np.testing.assert_array_equal(found, wanted)
    if np.issubdtype(dtype, np.floating):
        np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))


BFLOAT16 = {1.0: 0x3F80, -2.0: 0xC000, 3.0: 0x4040, INF: 0x7F80}
HALF = {1.0: 0x3C00, -2.0: 0xC000, 3.0: 0x4200, INF: 0x7C00}


@pytest.mark.parametrize(("kind", "bits"), [("bf16", BFLOAT16), ("f16", HALF)])
def test_mixed_precision(kind: str, bits: dict[float, int]) -> None:
    """add.rn.f32.bf16, add.rn.f32.f16, fma.rn.f32.bf16 and fma.rn.f32.f16: the sum is a float32's."""
    c = [0.25, 2**-24, 1.0, 1.0]
    narrow = (U16, [bits[x] for x in (1.0, 1.0, -2.0, INF)])
    found = executed(f"add.rn.f32.{kind}", [narrow, (F32, c)], F32, "sm_120a")[:4]
    np.testing.assert_array_equal(found, np.array([1.25, 1, -1, INF], F32))
    factor = (U16, [bits[3.0]] * 4)
    found = executed(f"fma.rn.f32.{kind}", [narrow, factor, (F32, c)], F32, "sm_120a")[:4]
    np.testing.assert_array_equal(found, np.array([3.25, 3, -5, INF], F32))


def rounded(exact: Fraction, bits: int, least: int) -> Fraction:
    """To nearest even with so many bits of mantissa, of numbers down to 2^least."""
    if not exact:
        return exact
    size = exact.numerator.bit_length() - exact.denominator.bit_length()
    place = Fraction(2) ** max(size - bits, least)
    if abs(exact) >= place * 2**bits:  # the guess of the size may be one too low
        place *= 2
    return round(exact / place) * place  # Python's round() is to even


NARROW = {"f16": (torch.float16, 11, -24), "bf16": (torch.bfloat16, 8, -133)}


@pytest.mark.parametrize("opcode", [
    "add.f16", "sub.f16", "mul.f16", "fma.rn.f16",
    "add.bf16", "add.rn.bf16", "sub.rn.bf16", "mul.rn.bf16", "fma.rn.bf16",
])  # fmt: skip
def test_narrow_sums_and_products(opcode: str) -> None:
    """Rounded once, from the exact value: ties among them."""
    operation, _, kind = opcode.partition(".")
    dtype, bits, least = NARROW[kind.removeprefix("rn.")]
    a = torch.randn(32).to(dtype)
    b, c = torch.randn(32).to(dtype), torch.randn(32).to(dtype)
    tie = 1 + 2.0 ** (2 - bits)
    a[:3], b[:3], c[:3] = torch.tensor([1, 1, tie]), torch.tensor([2.0**-bits, 3 * 2.0**-bits, tie]), 2.0**-14
    words = [(U16, t.view(torch.uint16).tolist()) for t in (a, b, c)[: 3 if operation == "fma" else 2]]
    found = executed(opcode, words, U16, "sm_90a")
    for i, got in enumerate(found):
        x, y, z = (Fraction(t[i].item()) for t in (a, b, c))
        exact = {"add": x + y, "sub": x - y, "mul": x * y, "fma": x * y + z}[operation]
        expected = torch.tensor(float(rounded(exact, bits, least)), dtype=torch.float64).to(dtype)
        assert int(got) & 0x7FFF == int(expected.view(torch.uint16)) & 0x7FFF, (i, x, y, z)


def paired(low: float, high: float) -> int:
    return int(np.array([low, high], F32).view(U64)[0])


@pytest.mark.parametrize(
    ("opcode", "terms", "expected"),
    [
        ("add.f32x2", [(1, 2), (0.5, -2)], (1.5, 0)),
        ("sub.f32x2", [(1, 2), (0.5, -2)], (0.5, 4)),
        ("mul.f32x2", [(3, -1), (0.5, 4)], (1.5, -4)),
        ("fma.rn.f32x2", [(1 + ONE, 2), (1 - ONE, 3), (-1, 4)], (-(ONE**2), 10)),
    ],
)
def test_pairs(opcode: str, terms: list, expected: tuple) -> None:
    operands = [(U64, [paired(*term)]) for term in terms]
    assert executed(opcode, operands, U64, "sm_120a")[0] == paired(*expected)


# (a, b) of each type, and which comparisons hold
INTEGERS = {"s16": I16, "s32": I32, "s64": I64, "u16": U16, "u32": U32, "u64": U64, "b16": U16, "b32": U32, "b64": U64}
HOLDS = {"eq": (0, 1, 0), "ne": (1, 0, 1), "lt": (1, 0, 0), "le": (1, 1, 0), "gt": (0, 0, 1), "ge": (0, 1, 1)}


def compared(opcode: str, kind: type, a: list, b: list) -> list[int]:
    letter = LETTER[np.dtype(kind).itemsize]
    body = f"{opcode} %p1, %{letter}0, %{letter}1; selp.u32 %r40, 1, 0, %p1;"
    return result(body, (lanes(a, kind), lanes(b, kind)), "%r40", U32)[: len(a)].tolist()


# setp.eq and setp.ne of every type, setp.lt, .le, .gt and .ge of those with an order
@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", HOLDS)
def test_integer_comparisons(name: str, kind: str) -> None:
    if kind[0] == "b" and name not in ("eq", "ne"):
        return  # bits have no order
    dtype = INTEGERS[kind]
    low = 1 if kind[0] != "s" else -1  # as unsigned, -1 would be the highest
    high = int(np.iinfo(dtype).max)
    assert compared(f"setp.{name}.{kind}", dtype, [low, 7, high], [high, 7, low]) == list(HOLDS[name])


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", HOLDS)
def test_float_comparisons(name: str, kind: str) -> None:
    """setp.eq.f32 and the others are false of NaN; with a u behind, true."""
    dtype = F32 if kind == "f32" else F64
    a, b = [1, 2, 3, NAN, 1, 0.0], [2, 2, 2, 1, NAN, -0.0]
    same = list(HOLDS[name])
    assert compared(f"setp.{name}.{kind}", dtype, a, b) == [*same, 0, 0, same[1]]
    assert compared(f"setp.{name}u.{kind}", dtype, a, b) == [*same, 1, 1, same[1]]


def test_numbers() -> None:
    a, b = [1, NAN, 1, NAN], [INF, 1, NAN, NAN]
    assert compared("setp.num.f32", F32, a, b) == [1, 0, 0, 0]
    assert compared("setp.nan.f32", F32, a, b) == [0, 1, 1, 1]


def test_predicates() -> None:
    """and.pred, or.pred, xor.pred, not.pred and mov.pred, with an immediate too."""
    a, b = lanes([0, 0, 1, 1], U32), lanes([0, 1, 0, 1], U32)
    body = """
      setp.ne.b32 %p1, %r0, 0; setp.ne.b32 %p2, %r1, 0;
      and.pred %p3, %p1, %p2; or.pred %p4, %p1, %p2; xor.pred %p5, %p1, %p2; not.pred %p6, %p1;
      mov.pred %p7, %p2; mov.pred %p8, -1; mov.pred %p9, 0;
    """ + "".join(f"selp.u32 %r{40 + i}, 1, 0, %p{i};" for i in range(3, 10))
    found = run(body, (a, b), tuple((f"%r{40 + i}", U32) for i in range(3, 10)))
    rows = [[0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 0, 1], [1] * 4, [0] * 4]
    assert [values[:4].tolist() for values in found] == rows


def test_immediates() -> None:
    """Decimal, hexadecimal, negative, and floats by their bits: 0f of 32, 0d of 64."""
    body = """
      mov.b32 %r40, -3; mov.b32 %r41, 0xFFU; mov.f32 %r42, 0f3FC00000; mov.b64 %d40, 0d3FF8000000000000;
      add.s32 %r43, %r0, -1; mov.b64 %d41, -2;
    """
    found = run(
        body, (lanes([10], I32),),
        (("%r40", I32), ("%r41", I32), ("%r42", F32), ("%d40", F64), ("%r43", I32), ("%d41", I64)),
    )  # fmt: skip
    assert [values[0] for values in found] == [-3, 255, 1.5, 1.5, 9, -2]


def test_guards() -> None:
    """A guarded instruction leaves the other lanes as they are."""
    body = "mov.b32 %r40, 7; setp.gt.s32 %p1, %r0, 0; @%p1 mov.b32 %r40, 1; @!%p1 add.s32 %r40, %r40, 1;"
    assert result(body, (lanes([5, -5], I32),), "%r40", I32)[:2].tolist() == [1, 8]
