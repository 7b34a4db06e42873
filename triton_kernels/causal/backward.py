"""The gradients of a causal convolution in one walk: x and dy are read once, dx is written once.

    a lane:  | span | 0 1 .. WIDTH - 1 | span |   columns of x
                    | 0 1 .. WIDTH - 1 | span |   columns of dy; z is computed again, dz = dy * slope(z)
                    | 0 1 .. WIDTH - 1 |          dx = the taps of dz, the other way round; dw += dz * x, db += dz

At its end a program adds its lanes, and writes one partial sum for each tap and for the bias; those of all programs are
added in order. Lanes overlap by a span, which caches serve.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.causal.forward import ITSELF
from convext.triton_kernels.causal.walk import load_begins, load_weights, locate, offset, tap_source
from convext.triton_kernels.epilogue import IDENTITY, slope
from convext.triton_kernels.index import unravel
from convext.triton_kernels.stencil.rows import load_row, store_row


@triton.jit
def backward(
    dy, x, w, bias, states, begin, owner, dx, sums,  # sums: [parts, channels, taps + 1]
    dy_strides, x_strides, dx_strides,  # of n, c, l: see `offset`
    state_strides, w_strides, bias_stride,  # of row, c, element; of c, tap
    blocks, lanes, channels, length, column_blocks, channel_blocks,
    UNIT: tl.constexpr, V: tl.constexpr, WIDTH: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, WHOLE: tl.constexpr,
    WIDE: tl.constexpr, ROW: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr,
    SEQUENCES: tl.constexpr, STATES: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    TAPS: tl.constexpr = ROW[4]
    SPAN: tl.constexpr = ROW[2]
    REACH: tl.constexpr = WIDTH + SPAN
    STEP: tl.constexpr = 1 if BC == 1 else UNIT
    _, _, _, c = locate(0, blocks, lanes, channels, column_blocks, channel_blocks, BQ, BC, WIDE)
    weights = load_weights(w, bias, c, c < channels, w_strides, bias_stride, TAPS, HAS_BIAS, ACC)
    zero = tl.zeros((BQ,) if BC == 1 else (BQ, BC), ACC)
    totals = ()
    for _ in tl.static_range(TAPS + 1):
        totals += (zero,)
    for walk in tl.range(0, blocks, num_stages=1):
        live, n, column, c = locate(walk, blocks, lanes, channels, column_blocks, channel_blocks, BQ, BC, WIDE)
        first = column * WIDTH
        at = x + offset(n, c, first, x_strides, UNIT, BC)
        columns = load_row(at, first, live, length, x_strides[2] * STEP, V, REACH, ROW, WHOLE, ACC)
        at = dy + offset(n, c, first, dy_strides, UNIT, BC)
        given = load_row(at, first, live, length, dy_strides[2] * STEP, V, REACH, ITSELF, WHOLE, ACC)
        begins = load_begins(begin, n, first, live, length, REACH, SEQUENCES)
        gradients = ()
        for b in tl.static_range(REACH):
            z = 0.0
            sources = ()
            for t in tl.static_range(TAPS):
                source = tap_source(
                    columns, begins, states, owner, n, c, first, live, length, state_strides,
                    b, t, V, REACH, ROW, SEQUENCES, STATES, PACKED, ACC,
                )  # fmt: skip
                z += weights[t] * source
                sources += (source,)
            if HAS_BIAS:
                z += weights[TAPS]
            gradient = given[b] * slope(z, ACTIVATION)
            if SEQUENCES:
                gradient = tl.where(begins[b] <= first + b, gradient, 0.0)
            gradients += (gradient,)
            if b < WIDTH:
                more = ()
                for t in tl.static_range(TAPS):
                    more += (totals[t] + gradient * sources[t],)
                totals = more + (totals[TAPS] + gradient,)  # noqa: RUF005  Triton has no starred expressions
        results = ()
        for b in tl.static_range(WIDTH):
            value = weights[TAPS - 1] * gradients[b]
            for t in tl.static_range(TAPS - 1):
                if SEQUENCES:
                    reached = begins[b + SPAN - t * ROW[1]] <= first + b
                    value += weights[t] * tl.where(reached, gradients[b + SPAN - t * ROW[1]], 0.0)
                else:
                    value += weights[t] * gradients[b + SPAN - t * ROW[1]]
            results += (value,)
        at = dx + offset(n, c, first, dx_strides, UNIT, BC)
        store_row(at, first, live, length, dx_strides[2] * STEP, results, None, V, WIDTH, WHOLE, IDENTITY)
    part, _ = unravel(tl.program_id(0), channel_blocks)
    at = sums + (part.to(tl.int64) * channels + c) * (TAPS + 1)
    for t in tl.static_range(TAPS + 1):
        total = tl.sum(totals[t], axis=0, keep_dims=BC > 1)
        tl.store(at + t, total, mask=c < channels)
