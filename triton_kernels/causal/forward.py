"""y of a causal convolution: x is read once, y written once.

a lane:  | span | 0 1 .. WIDTH - 1 |   columns of x in registers
                | 0 1 .. WIDTH - 1 |   z = taps + bias, activated, stored
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.causal.walk import load_begins, load_weights, locate, offset, tap_source
from convext.triton_kernels.epilogue import IDENTITY, activate
from convext.triton_kernels.stencil.rows import load_row, store_row

ITSELF = tl.constexpr((1, 1, 0, 1, 1))  # the ROW of columns that are read as they are


@triton.jit
def forward(
    x, w, bias, residual, states, begin, owner, y,
    x_strides, residual_strides, y_strides,  # of n, c, l: see `offset`
    state_strides, w_strides, bias_stride,  # of row, c, element; of c, tap
    blocks, lanes, channels, length, column_blocks, channel_blocks,
    UNIT: tl.constexpr, V: tl.constexpr, WIDTH: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, WHOLE: tl.constexpr,
    WIDE: tl.constexpr, ROW: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    SEQUENCES: tl.constexpr, STATES: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    TAPS: tl.constexpr = ROW[4]
    # Terms that a large bias is added to lose digits. Results of 16 bits have not got these: there it comes first.
    FIRST: tl.constexpr = HAS_BIAS and y.dtype.element_ty.primitive_bitwidth == 16
    STEP: tl.constexpr = 1 if BC == 1 else UNIT
    _, _, _, c = locate(0, blocks, lanes, channels, column_blocks, channel_blocks, BQ, BC, WIDE)
    weights = load_weights(w, bias, c, c < channels, w_strides, bias_stride, TAPS, HAS_BIAS, ACC)
    for walk in tl.range(0, blocks, num_stages=1):
        live, n, column, c = locate(walk, blocks, lanes, channels, column_blocks, channel_blocks, BQ, BC, WIDE)
        first = column * WIDTH
        at = x + offset(n, c, first, x_strides, UNIT, BC)
        columns = load_row(at, first, live, length, x_strides[2] * STEP, V, WIDTH, ROW, WHOLE, ACC)
        begins = load_begins(begin, n, first, live, length, WIDTH, SEQUENCES)
        results = ()
        for b in tl.static_range(WIDTH):
            z = weights[TAPS] if FIRST else 0.0
            for t in tl.static_range(TAPS):
                z += weights[t] * tap_source(
                    columns, begins, states, owner, n, c, first, live, length, state_strides,
                    b, t, V, WIDTH, ROW, SEQUENCES, STATES, PACKED, ACC,
                )  # fmt: skip
            if HAS_BIAS and not FIRST:
                z += weights[TAPS]
            value = activate(z, ACTIVATION)
            if SEQUENCES:
                value = tl.where(begins[b] <= first + b, value, 0.0)
            results += (value,)
        if RESIDUAL:
            at = residual + offset(n, c, first, residual_strides, UNIT, BC)
            added = load_row(at, first, live, length, residual_strides[2] * STEP, V, WIDTH, ITSELF, WHOLE, ACC)
            sums = ()
            for b in tl.static_range(WIDTH):
                sums += (results[b] + added[b],)
            results = sums
        at = y + offset(n, c, first, y_strides, UNIT, BC)
        store_row(at, first, live, length, y_strides[2] * STEP, results, None, V, WIDTH, WHOLE, IDENTITY)
