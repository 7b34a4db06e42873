"""What activations are made of: quotients, powers of two, and numbers so small that .ftz takes them for zero.

The manual allows some of them an error of two units in the last place; the emulator gives the nearest number.
"""

from __future__ import annotations

import numpy as np
import pytest
from single import lanes
from test_arithmetic import F32, F64, INF, NAN, ONE, compared, executed, paired

SMALLEST = 2.0**-149  # of the subnormal float32
NORMAL = 2.0**-126  # the smallest that is none

# opcode, type, columns of operands, what has to come out
TABLE = [
    ("div.full.f32", F32, [[1, 7, -1, 0], [3, 2, 0, 0]], [F32(1) / F32(3), 3.5, -INF, NAN]),
    ("div.rn.f64", F64, [[1, 7, -1, 0], [3, 2, 0, 0]], [1 / 3, 3.5, -INF, NAN]),
    # 2^0.5; what is subnormal is zero, on its way in and out
    ("ex2.approx.ftz.f32", F32, [[0, 3, -1.5, INF, -INF, -126, -127, SMALLEST]],
     [1, 8, F32(0.5 / np.sqrt(2)), INF, 0, NORMAL, 0, 1]),
    ("rcp.approx.ftz.f32", F32, [[-4, 3, 0, -0.0, INF, -INF, SMALLEST, 2.0**127, NAN]],
     [-0.25, F32(1) / F32(3), INF, -INF, 0, -0.0, INF, 0, NAN]),
    ("fma.rn.ftz.f32", F32, [[1 + ONE, SMALLEST, NORMAL, -NORMAL], [1 - ONE, 2.0**100, 0.5, 0.5], [-1, 0, 0, 0]],
     [-(ONE**2), 0, 0, -0.0]),
    ("abs.ftz.f32", F32, [[-3, -SMALLEST, -INF]], [3, 0, INF]),
    ("abs.f64", F64, [[-0.0, -INF, 2]], [0, INF, 2]),
    ("neg.f64", F64, [[0, -3]], [-0.0, 3]),
    ("sub.f64", F64, [[1, 2.0**53], [2.0**-54, 1]], [1, 2.0**53 - 1]),
    ("add.rn.f64", F64, [[1, 2.0**53], [2.0**-53, 1]], [1, 2.0**53]),
    # to the nearest integer, of two the even one
    ("cvt.rni.f32.f32", F32, [[0.5, 1.5, -2.5, 1e30]], [0, 2, -2, F32(1e30)]),
]  # fmt: skip


@pytest.mark.parametrize(("opcode", "dtype", "columns", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_values(opcode: str, dtype: type, columns: list, expected: list) -> None:
    found = executed(opcode, [(dtype, column) for column in columns], dtype)[: len(expected)]
    wanted = np.array(expected, dtype)
    np.testing.assert_array_equal(found, wanted)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(wanted[numbers]))


def test_between_the_floats() -> None:
    """cvt.f64.f32 is exact, cvt.rn.f32.f64 to the nearest."""
    assert executed("cvt.f64.f32", [(F32, [0.1])], F64)[0] == float(F32(0.1))
    assert executed("cvt.rn.f32.f64", [(F64, [1 + ONE / 2 + 2.0**-50])], F32)[0] == F32(1 + ONE)


def test_pairs_are_subtracted() -> None:
    operands = [(np.uint64, [paired(*term)]) for term in ((1.5, 2), (0.5, -2))]
    assert executed("sub.f32x2", operands, np.uint64, "sm_120a")[0] == paired(1, 4)


def test_nan_of_float64() -> None:
    assert compared("setp.nan.f64", F64, lanes([1, NAN, 1], F64)[:3].tolist(), [1, 1, NAN]) == [0, 1, 1]
