"""What may follow a sum before it is stored: an activation, and its derivative by the sum.

The same piece as `convext/problem/epilogue.py` and `csrc/cpu/shared/epilogue.h`, which name the activations.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp2(z * -1.4426950408889634))


@triton.jit
def share_below(z):
    """The normal distribution's share below z."""
    return 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return z / (1.0 + tl.exp2(z * -1.4426950408889634))
    elif ACTIVATION == "gelu":
        return z * share_below(z)
    elif ACTIVATION == "relu":
        return tl.where(z < 0.0, 0.0, z)
    else:
        return z


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    """The derivative of `activate` by z."""
    if ACTIVATION == "silu":
        s = sigmoid(z)
        return s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == "gelu":
        return share_below(z) + z * tl.exp2(z * z * -0.7213475204444817) * 0.3989422804014327
    elif ACTIVATION == "relu":
        return tl.where(z > 0.0, 1.0, 0.0)
    else:
        return z * 0.0 + 1.0
