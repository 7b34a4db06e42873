"""The product of two tiles, which every family that multiplies on tensor cores adds to its sum.

A tensor core reads the upper 19 bits of a TF32 operand: it cuts off 13 bits of float32's mantissa. Cut operands lie on
one side of what they stand for, twice as far off as rounded ones, and a sum of their products errs two to nine times
as much. So single TF32 products round first, as cuDNN does:

    operands come by pointers: in registers, here                            ties away from zero, as cvt.rna.tf32.f32
    operands come by TMA: on the way, by the type of the tensor map          ties to even

It takes three instructions an operand element and thread that holds it, which issue beside the tensor cores' work. On
9.0, WGMMA reads its second factor from shared memory, so that one is read from there, rounded and stored again. In
the sum of three products ("tf32x3") the second makes up for what the first cuts off.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

TMA_ROUNDS = "round_f32_to_tf32" in TensorDescriptor.__dataclass_fields__  # from Triton 3.7 on


@triton.jit
def nearest_tf32(t):
    """float32 at the nearest number with TF32's 10 bits of mantissa; of two as near, the one farther from zero.

    Half of TF32's last place carries where it has to, and what lies below is cut off:

        t                seeeeeeee mmmmmmmmmm mmmmmmmmmmmmm
        its exponent     seeeeeeee 0000000000 0000000000000    * 2^-11 is half of the last place
        their sum, cut   seeeeeeee mmmmmmmmmm 0000000000000

    The sum is one of numbers, not of bits, so that NaN stays NaN (the GPU's own is all ones, and would carry into the
    sign) and Inf stays Inf; as with cvt.rna, what is nearer to 2^128 than to a number of TF32 becomes Inf. Subnormal
    numbers have no exponent to go by: they are cut.
    """
    exponent = (t.to(tl.uint32, bitcast=True) & 0xFF800000).to(tl.float32, bitcast=True)
    carried = t + exponent * 0.00048828125
    return (carried.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)


@triton.jit
def add_product(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b, for operands that nobody has rounded yet."""
    if PRECISION == "tf32" and a.dtype == tl.float32:
        a, b = nearest_tf32(a), nearest_tf32(b)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)
