"""Lanes of causal convolutions, and the columns that their taps read.

A lane owns WIDTH neighbouring positions of one row; a program BQ lanes, of one channel where positions are innermost,
of BC channels where these are. Columns are those of `stencil_rows`: in registers, a tuple of them, counted from the
lane's first position; ROW = (1, dilation, span, 1, taps) is the index equation of a causal row.

A tap that reads before its sequence's first position, which `begin` tells for every position, reads the state, or zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.index import unravel
from convext.triton_kernels.stencil.rows import source_column


@triton.jit
def locate(
    walk, blocks, lanes, channels, column_blocks, channel_blocks,
    BQ: tl.constexpr, BC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The lanes of step `walk` of this program: (live, row, first column block, channel), to be broadcast.

    Programs are (part, channels), channels fastest; a part is `blocks` times BQ lanes, a lane (row, column block).
    WIDE: there are more lanes than 32 bits count.
    """
    part, block = unravel(tl.program_id(0), channel_blocks)
    if WIDE:
        part = part.to(tl.int64)
    q = (part * blocks + walk) * BQ + tl.arange(0, BQ)
    if BC == 1:
        c = block.to(tl.int64)
    else:
        q = q[:, None]
        c = (block.to(tl.int64) * BC + tl.arange(0, BC))[None, :]
    n, column = unravel(q, column_blocks)
    return (q < lanes) & (c < channels), n.to(tl.int64), column.to(tl.int64), c


@triton.jit
def offset(n, c, at, strides, UNIT: tl.constexpr, BC: tl.constexpr):
    """Of an element. Strides of (n, c, position) come divided by UNIT, but for the one of the axis that vectors run
    along: the product shows the compiler what they are multiples of."""
    if BC == 1:
        return (n * strides[0] + c * strides[1]) * UNIT + at * strides[2]
    else:
        return (n * strides[0] + at * strides[2]) * UNIT + c * strides[1]


@triton.jit
def load_weights(
    w, bias, c, live, w_strides, bias_stride, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr
):
    """A tuple of the taps, and behind them the bias, if there is one."""
    weights = ()
    for t in tl.static_range(TAPS):
        weights += (tl.load(w + c * w_strides[0] + t * w_strides[1], mask=live, other=0.0).to(ACC),)
    if HAS_BIAS:
        weights += (tl.load(bias + c * bias_stride, mask=live, other=0.0).to(ACC),)
    return weights


@triton.jit
def load_begins(begin, n, first, live, length, COUNT: tl.constexpr, SEQUENCES: tl.constexpr):
    """Where the sequences of COUNT positions from `first` on begin: the length, as for padding, beyond the last."""
    begins = ()
    for b in tl.static_range(COUNT):
        if SEQUENCES:
            begins += (tl.load(begin + n * length + first + b, mask=live & (first + b < length), other=length),)
        else:
            begins += (0,)
    return begins


@triton.jit
def tap_source(
    columns, begins, states, owner, n, c, first, live, length, state_strides,
    b: tl.constexpr, t: tl.constexpr, V: tl.constexpr, WIDTH: tl.constexpr, ROW: tl.constexpr,
    SEQUENCES: tl.constexpr, STATES: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What tap t of position first + b reads."""
    BACK: tl.constexpr = ROW[2] - t * ROW[1]
    value = columns[source_column(b, t, V, WIDTH, ROW)]
    source = first + (b - BACK)
    if SEQUENCES:
        value = tl.where(source >= begins[b], value, 0.0)
    if STATES and BACK > 0:
        if PACKED:
            row = tl.load(owner + first + b, mask=live & (first + b < length), other=0)
            reads = live & (source < begins[b]) & (begins[b] < length)
            value += _state(states, row, c, ROW[2] + source - begins[b], reads, state_strides).to(ACC)
        elif b < BACK:
            reads = live & (source < 0)
            if SEQUENCES:
                reads = reads & (begins[b] == 0)
            value += _state(states, n, c, ROW[2] + source, reads, state_strides).to(ACC)
    return value


@triton.jit
def _state(states, row, c, at, reads, strides):
    return tl.load(states + row * strides[0] + c * strides[1] + at * strides[2], mask=reads, other=0.0)
