"""A step from element to element: one launch, the state in place.

A thread has its channels to itself: it reads their state before it writes it, from the first element to the last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.causal.walk import load_weights
from convext.triton_kernels.epilogue import activate
from convext.triton_kernels.index import inside, unravel


@triton.jit
def update(
    x, w, bias, state, rows, seen, y,
    x_strides, y_strides, state_strides, w_strides, bias_stride,  # of n or row, c, l; of c, tap
    length, channels, channel_blocks, state_rows, state_length,
    BC: tl.constexpr, TAPS: tl.constexpr, DILATION: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr,
    INDEXED: tl.constexpr, RING: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    n, block = unravel(tl.program_id(0), channel_blocks)
    n = n.to(tl.int64)
    c = block.to(tl.int64) * BC + tl.arange(0, BC)
    here = c < channels
    row = n
    if INDEXED:
        row = tl.load(rows + n).to(tl.int64)
    live = here & inside(row, state_rows)  # what is out of range is padding
    weights = load_weights(w, bias, c, here, w_strides, bias_stride, TAPS, HAS_BIAS, ACC)
    x += n * x_strides[0] + c * x_strides[1]
    y += n * y_strides[0] + c * y_strides[1]
    state += row * state_strides[0] + c * state_strides[1]
    if RING:
        turn = (tl.load(seen + n).to(tl.int64) % state_length + state_length) % state_length
    for i in range(length):
        z = tl.zeros((BC,), ACC)
        for t in tl.static_range(TAPS):
            source = i - (TAPS - 1 - t) * DILATION
            slot = state_length + source
            if RING:
                slot = (turn + source % state_length + state_length) % state_length
            value = tl.load(x + source * x_strides[2], mask=live & (source >= 0), other=0.0).to(ACC)
            value += tl.load(state + slot * state_strides[2], mask=live & (source < 0), other=0.0).to(ACC)
            z += weights[t] * value
        if HAS_BIAS:
            z += weights[TAPS]
        value = tl.where(live, activate(z, ACTIVATION), 0.0)
        tl.store(y + i * y_strides[2], value.to(y.dtype.element_ty), mask=here)
    if RING:
        for i in range(max(length - state_length, 0), length):
            value = tl.load(x + i * x_strides[2], mask=live)
            tl.store(state + (turn + i) % state_length * state_strides[2], value, mask=live)
    else:
        for i in range(state_length):
            later = i + length
            stays = later < state_length
            old = tl.load(state + later * state_strides[2], mask=live & stays, other=0.0)
            new = tl.load(x + (later - state_length) * x_strides[2], mask=live & (later >= state_length), other=0.0)
            tl.store(state + i * state_strides[2], tl.where(stays, old, new), mask=live)
