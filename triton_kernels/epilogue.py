"""What may follow a sum before it is stored: an activation, its derivative by the sum, and a residual.

The same piece as `convext/problem/epilogue.py` and `csrc/cpu/shared/epilogue.h`, which name the activations. All is
computed in the sum's precision, float32 or float64, and rounded once; NaN stays NaN, as torch's do.
"""

from __future__ import annotations

import triton
import triton.language as tl

IDENTITY = tl.constexpr(("identity", 0.0, 0.0))  # the ACTIVATION of what is stored as it is


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp2(z * -1.4426950408889634))


@triton.jit
def share_below(z):
    """The normal distribution's share below z."""
    return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)


@triton.jit
def clamp(z, low, high):
    """As torch's: `high` where the bounds cross."""
    z = tl.where(z < low, low, z)
    return tl.where(z > high, high, z)


@triton.jit
def tanh(z):
    """1 - 2 / (1 + exp(2z)); near zero, where that would cancel, seven levels of Lambert's continued fraction.

    Up to 1/2 these leave out less than float64 rounds off.
    """
    s = z * z
    over = z * (135135.0 + s * (17325.0 + s * (378.0 + s)))
    small = over / (135135.0 + s * (62370.0 + s * (3150.0 + s * 28.0)))
    return tl.where(s < 0.25, small, 1.0 - 2.0 / (1.0 + tl.exp2(z * 2.8853900817779268)))


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation that `Ending.activation` names, with its two scalars: (name, first, second)."""
    NAME: tl.constexpr = ACTIVATION[0]
    if NAME == "silu":
        return z / (1.0 + tl.exp2(z * -1.4426950408889634))
    elif NAME == "gelu":
        return z * share_below(z)
    elif NAME == "relu":
        return tl.where(z < 0.0, 0.0, z)
    elif NAME == "leaky_relu":
        return tl.where(z > 0.0, z, z * ACTIVATION[1])
    elif NAME == "clamp":
        return clamp(z, ACTIVATION[1], ACTIVATION[2])
    elif NAME == "hardswish":
        return z * (clamp(z + 3.0, 0.0, 6.0) * 0.16666666666666666)
    elif NAME == "hardsigmoid":
        return clamp(z + 3.0, 0.0, 6.0) * 0.16666666666666666
    elif NAME == "gelu_tanh":  # (1 + tanh(u)) / 2 is the sigmoid of 2u
        return z * sigmoid(z * (1.5957691216057308 + z * z * 0.07135481627260025))
    elif NAME == "sigmoid":
        return sigmoid(z)
    elif NAME == "tanh":
        return tanh(z)
    else:
        tl.static_assert(NAME == "identity")
        return z


@triton.jit
def plus(z, pointers, mask):
    """z and the residual there, in z's precision."""
    return z + tl.load(pointers, mask=mask, other=0.0).to(z.dtype)


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    """The derivative of `activate` by z."""
    NAME: tl.constexpr = ACTIVATION[0]
    if NAME == "silu":
        s = sigmoid(z)
        return s * (1.0 + z * (1.0 - s))
    elif NAME == "gelu":
        return share_below(z) + z * tl.exp2(z * z * -0.7213475204444817) * 0.3989422804014327
    elif NAME == "relu":
        return tl.where(z > 0.0, 1.0, 0.0)
    else:
        return z * 0.0 + 1.0
