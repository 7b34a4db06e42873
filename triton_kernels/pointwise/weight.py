"""wgrad: what one block computes is a tile of channels by channels, over its share of the pixels.

                      depth: pixels           columns                                  columns
              rows  [ y[k, q] ]    x   depth [ x[c, q] ]               =   rows   [ w[k, c] ]

Partial sums of several blocks are added in their order (passes/reduce.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.pixels import channel_stride, pixel_offset
from convext.triton_kernels.products import add_product

# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["pixels", "steps"]
SIZES = [
    "size0", "size1", "size2", "size3", "x_stride0", "x_stride1", "x_stride2", "x_stride3", "x_stride4", "y_stride0",
    "y_stride1", "y_stride2", "y_stride3", "y_stride4",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def accumulate(
    x, y, target,
    rows, columns, pixels, size0, size1, size2, size3, steps, row_blocks, column_blocks, groups,
    x_stride0, x_stride1, x_stride2, x_stride3, x_stride4,  # of channels, of AXES axes
    y_stride0, y_stride1, y_stride2, y_stride3, y_stride4,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, AXES: tl.constexpr,
    X_V: tl.constexpr, X_UNIT: tl.constexpr, Y_V: tl.constexpr, Y_UNIT: tl.constexpr,
    WHOLE: tl.constexpr,  # whether all steps have BQ pixels
    BR: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BR, BC] tile of one part of w: the sum over `steps` times BQ pixels.

    `rows`, `columns` and `pixels` are in units of ROWS, COLUMNS and PIXELS. target [parts, groups * rows, columns].
    """
    sizes = (size0, size1, size2, size3)
    x_strides = (x_stride0, x_stride1, x_stride2, x_stride3, x_stride4)
    y_strides = (y_stride0, y_stride1, y_stride2, y_stride3, y_stride4)
    block = tl.program_id(0)
    row_block = block % row_blocks
    block = block // row_blocks
    column_block = block % column_blocks
    block = block // column_blocks
    group = (block % groups).to(tl.int64)
    part = block // groups
    rows, columns, pixels = rows * ROWS, columns * COLUMNS, pixels * PIXELS

    r = row_block * BR + tl.arange(0, BR)
    c = column_block * BC + tl.arange(0, BC)
    in_rows, in_columns = r < rows, c < columns
    y_at = y + (group * rows + r)[:, None] * channel_stride(y_strides, Y_V, Y_UNIT)  # [BR, 1]
    x_at = x + (group * columns + c) * channel_stride(x_strides, X_V, X_UNIT)  # [BC]
    acc = tl.zeros((BR, BC), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    trips = tl.minimum(steps, tl.cdiv(pixels, BQ) - part * steps)  # the last part has fewer
    tl.assume(trips > 0)  # a loop that runs at least once keeps the tensor cores' products asynchronous
    for step in range(0, trips):
        q = (part * steps + step) * BQ + tl.arange(0, BQ)
        inside = tl.full((BQ,), True, tl.int1) if WHOLE else q < pixels
        y_pixel = pixel_offset(q, sizes, PIXELS, y_strides, Y_V, Y_UNIT, AXES)
        x_pixel = pixel_offset(q, sizes, PIXELS, x_strides, X_V, X_UNIT, AXES)
        y_tile = tl.load(y_at + y_pixel[None, :], mask=in_rows[:, None] & inside[None, :], other=0.0)
        # Lanes run along the last axis of what is loaded: that is where x has its neighbours.
        if X_UNIT == 2:
            x_mask = in_columns[:, None] & inside[None, :]
            x_tile = tl.load(x_at[:, None] + x_pixel[None, :], mask=x_mask, other=0.0).T
        else:
            x_mask = inside[:, None] & in_columns[None, :]
            x_tile = tl.load(x_at[None, :] + x_pixel[:, None], mask=x_mask, other=0.0)
        acc = add_product(y_tile, x_tile, acc, PRECISION)
    target_at = ((part * groups + group) * rows + r)[:, None] * columns + c[None, :]
    tl.store(target + target_at, acc.to(target.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])
