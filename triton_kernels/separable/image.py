"""Depthwise, then pointwise: what one program computes is a block of output channels at a tile of pixels.

For one block of middle channels after the other, the depthwise sums of the tile are made in registers, finished, and
multiplied. The middle tensor t is never in memory:

    x, with a halo               t, BC of its channels             y, BK of its channels
    [ . . . . . . ]     taps     [ ........ ]             v        acc[k, p] += sum over c of v[k, c] * t[c, p]
    [ . x x x x . ]    ----->    [ ........ ]           ----->
    [ . . . . . . ]              bias, activation,                 second bias, activation, residual: one store
                                 rounded to x's dtype

Pixels lie in lanes of WIDTH neighbouring columns of a row (`stencil/rows.py`): a column of x is loaded once for all the
pixels of a lane that it meets. A tile is BQ lanes, in the order of images, rows and columns, wherever in that order it
begins; of small images it has several.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.index import inside, unravel
from convext.triton_kernels.pixels import channel_stride
from convext.triton_kernels.products import add_product
from convext.triton_kernels.stencil.image import plus_each, repeat
from convext.triton_kernels.stencil.rows import load_row, source_column

# Rows of taps that a step unrolls: with more, the loads of all are on their way at once, and registers spill.
UNROLLED = tl.constexpr(3)


@triton.jit
def pixel_steps(strides, V: tl.constexpr, UNIT: tl.constexpr):
    """Strides of images, rows and columns of a `Plane`, in elements: 64-bit, but for one that is 1."""
    n, row = tl.cast(strides[1], tl.int64) * V, tl.cast(strides[2], tl.int64) * V
    if UNIT == 2:
        return n, row, strides[3]
    else:
        return n, row, tl.cast(strides[3], tl.int64) * V


@triton.jit
def placed(q, column_blocks, height):
    """(image, row, block of columns) of lanes."""
    q, column = unravel(q, column_blocks)
    n, row = unravel(q, height)
    return n, row, column


@triton.jit
def add_row(
    sums, x_at, first, mask, width, x_column, w_at, w_column, has_channel,
    CHUNK: tl.constexpr, WIDTH: tl.constexpr, ROW: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """`sums` of the WIDTH columns of each lane plus the products of one row of x with one of w's."""
    TAPS: tl.constexpr = ROW[4]
    taps = ()
    for t in tl.static_range(TAPS):
        taps += (tl.load(w_at + t * w_column, mask=has_channel, other=0.0).to(tl.float32),)
    columns = load_row(x_at, first, mask, width, x_column, CHUNK, WIDTH, ROW, WHOLE, tl.float32)
    result = ()
    for b in tl.static_range(WIDTH):
        value = sums[b]
        for t in tl.static_range(TAPS):
            value += columns[source_column(b, t, CHUNK, WIDTH, ROW)] * taps[t]
        result += (value,)
    return result


@triton.jit
def interleave(columns, COUNT: tl.constexpr):
    """COUNT tensors [..] -> [.., 2, .., 2], whose last axes together count them. They stay in their threads."""
    if COUNT == 1:
        return columns[0]
    else:
        return tl.join(interleave(columns[::2], COUNT // 2), interleave(columns[1::2], COUNT // 2))


@triton.jit
def middle_tile(sums, ACTIVATION: tl.constexpr, DTYPE: tl.constexpr, SHAPE: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """The sums of lanes, activated and rounded, as [BC, BQ * WIDTH]. SHAPE: (BQ, BC, WIDTH)."""
    BQ: tl.constexpr = SHAPE[0]
    BC: tl.constexpr = SHAPE[1]
    WIDTH: tl.constexpr = SHAPE[2]
    columns = ()
    for b in tl.static_range(WIDTH):
        columns += (activate(sums[b], ACTIVATION).to(DTYPE),)
    t = interleave(columns, WIDTH)
    if CHANNELS_LAST:
        return t.reshape(BQ, BC, WIDTH).permute(0, 2, 1).reshape(BQ * WIDTH, BC).T
    else:
        return t.reshape(BC, BQ * WIDTH)


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["lanes", "channels"]
SIZES = [
    "x_stride_c", "x_stride_n", "x_stride_row", "x_stride_column", "y_stride_c", "y_stride_n", "y_stride_row",
    "y_stride_column", "column_blocks", "height", "width", "out_height", "out_width",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def separable(
    x, w, bias, v, second_bias, residual, y,  # residual has the strides of y
    x_stride_c, x_stride_n, x_stride_row, x_stride_column,  # those of a `Plane`, as are v's and y's
    y_stride_c, y_stride_n, y_stride_row, y_stride_column,
    w_strides,  # of channels, rows, columns
    v_strides,  # of k, c
    lanes,
    channels, rows,  # of t and of y, in units of CHANNELS and ROWS
    row_blocks, column_blocks, height, width, out_height,
    out_width,  # in units of COLUMNS
    vertical,  # S, D, P along a column: i = o * S + t * D - P
    TAPS: tl.constexpr, ROW: tl.constexpr,  # of a column; the index equation along a row, as rows.py has it
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, X_V: tl.constexpr, X_UNIT: tl.constexpr,
    V_V: tl.constexpr, V_UNIT: tl.constexpr, Y_V: tl.constexpr, Y_UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    CHUNK: tl.constexpr,  # columns of x that are loaded together
    WHOLE: tl.constexpr, WHOLE_STEPS: tl.constexpr,  # whether these fill a row, and BC channels t
    WIDTH: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr,  # activations
):  # fmt: skip
    """One [BK, BQ * WIDTH] tile of y."""
    x_strides = (x_stride_c, x_stride_n, x_stride_row, x_stride_column)
    y_strides = (y_stride_c, y_stride_n, y_stride_row, y_stride_column)
    x_c, y_c = channel_stride(x_strides, X_V, X_UNIT), channel_stride(y_strides, Y_V, Y_UNIT)
    x_n, x_row, x_column = pixel_steps(x_strides, X_V, X_UNIT)
    y_n, y_row, y_column = pixel_steps(y_strides, Y_V, Y_UNIT)
    v_row = channel_stride(v_strides, V_V, V_UNIT)
    v_depth = v_strides[1] if V_UNIT == 2 else tl.cast(v_strides[1], tl.int64) * V_V
    channels, rows, out_width = channels * CHANNELS, rows * ROWS, out_width * COLUMNS
    S, D, P = vertical
    # Terms that a large bias is added to lose digits, which a t of 16 bits has not got: there it comes first, which
    # takes fewer registers.
    DIGITS: tl.constexpr = x.dtype.element_ty == tl.float32
    # Blocks of rows are neighbours: they read the same pixels at about the same time.
    block, row_block = unravel(tl.program_id(0), row_blocks)

    # Lanes and channels of t: [BQ, BC]. Where pixels are innermost, BC * BQ in one axis, so that chunks are another.
    if CHANNELS_LAST:
        q, c = (block * BQ + tl.arange(0, BQ))[:, None], tl.arange(0, BC)[None, :]
    else:
        c, q = unravel(tl.arange(0, BC * BQ), BQ)
        q += block * BQ
    n, o, column = placed(q, column_blocks, out_height)
    live, i, column = q < lanes, o * S - P, column * (WIDTH * ROW[0])
    x_at = x + n * x_n + i * x_row + column * x_column + c * x_c
    w_at = w + c * w_strides[0]
    k, d = row_block * BK + tl.arange(0, BK), tl.arange(0, BC)
    in_rows = k < rows
    v_at = v + k.to(tl.int64)[:, None] * v_row + d.to(tl.int64)[None, :] * v_depth  # [BK, BC]

    acc = tl.zeros((BK, BQ * WIDTH), tl.float32)
    tl.assume(channels > 0)  # a loop that runs at least once keeps the tensor cores' products asynchronous
    for begin in tl.range(0, channels, BC, num_stages=1):
        has_channel = tl.full(c.shape, True, tl.int1) if WHOLE_STEPS else c < channels - begin
        in_depth = tl.full(d.shape, True, tl.int1) if WHOLE_STEPS else d < channels - begin
        start = tl.zeros(live.shape, tl.float32) + tl.zeros(c.shape, tl.float32)
        if bias is not None and not DIGITS:
            start += tl.load(bias + begin + c, mask=has_channel, other=0.0).to(tl.float32)
        sums = repeat(start, WIDTH)
        if TAPS <= UNROLLED:
            for t in tl.static_range(TAPS):
                sums = add_row(
                    sums, x_at + t * D * x_row, column, live & inside(i + t * D, height) & has_channel, width,
                    x_column, w_at + t * w_strides[1], w_strides[2], has_channel, CHUNK, WIDTH, ROW, WHOLE,
                )  # fmt: skip
        else:
            for t in tl.range(0, TAPS, num_stages=1):
                sums = add_row(
                    sums, x_at + t * D * x_row, column, live & inside(i + t * D, height) & has_channel, width,
                    x_column, w_at + t * w_strides[1], w_strides[2], has_channel, CHUNK, WIDTH, ROW, WHOLE,
                )  # fmt: skip
        if bias is not None and DIGITS:
            sums = plus_each(sums, tl.load(bias + begin + c, mask=has_channel, other=0.0), WIDTH)
        middle = middle_tile(sums, FIRST, x.dtype.element_ty, (BQ, BC, WIDTH), CHANNELS_LAST)
        v_tile = tl.load(v_at, mask=in_rows[:, None] & in_depth[None, :], other=0.0)
        acc = add_product(v_tile, middle, acc, PRECISION)
        x_at += BC * x_c
        w_at += BC * w_strides[0]
        v_at += BC * v_depth

    if second_bias is not None:
        acc += tl.load(second_bias + k, mask=in_rows, other=0.0).to(tl.float32)[:, None]
    acc = activate(acc, SECOND)
    p = tl.arange(0, BQ * WIDTH)
    q = block * BQ + p // WIDTH
    n, o, column = placed(q, column_blocks, out_height)
    column = column * WIDTH + p % WIDTH
    mask = in_rows[:, None] & ((q < lanes) & (column < out_width))[None, :]
    at = k[:, None] * y_c + (n * y_n + o * y_row + column * y_column)[None, :]
    if residual is not None:
        acc = plus(acc, residual + at, mask)
    tl.store(y + at, acc.to(y.dtype.element_ty), mask=mask)
