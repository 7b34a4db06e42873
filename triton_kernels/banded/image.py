"""fprop and dgrad of depthwise convolutions with large kernels, as matrix products with banded weights.

The outputs of a channel are cut into patches of R rows and BW columns; a patch gathers from a window of R + kh - 1 rows
and WINDOW columns. One program computes PATCHES patches of one channel. Each step takes one row of all their windows:

         row s of the windows               WINDOW x R*BW weights: at [a, b] of a block the tap a - b
          WINDOW columns                    +------------+--------------+- - -+----------------+
        +---------------+                   | \\ \\  \\     |  \\ \\  \\      |     |  \\ \\  \\        |
        |               |   PATCHES    x    |  \\ w[s]  \\ |   \\ w[s-1] \\ |     |   \\ w[s-R+1] \\  |
        +---------------+                   |   \\  \\  \\  |    \\  \\  \\   |     |    \\  \\  \\     |
                                            +------------+--------------+- - -+----------------+
                                              row 0 of the    row 1              row R - 1
                                                patches

and the rows of w that do not exist are zeros. So an output costs (kh + R - 1) * WINDOW multiply-adds on tensor cores
instead of kh * kw FMAs. `band_kernel` writes the bands of each row of w once, R - 1 empty ones before and after them; a
step reads R that follow each other.

dgrad at stride 1 is the same gather from y, with the taps in reverse.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.index import inside, unravel
from convext.triton_kernels.products import add_product


@triton.jit
def band_kernel(
    w, bands,
    kh, kw, shift,  # column a of a window meets output column b through tap a - b - shift
    w_strides,  # of c, row, column
    REVERSED: tl.constexpr, R: tl.constexpr, BW: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """bands [c, R - 1 + kh + R - 1, BW, WINDOW]: one program for each row of each channel."""
    w_c, w_row, w_column = w_strides
    c, row = unravel(tl.program_id(0), kh + 2 * (R - 1))
    b, a = tl.arange(0, BW)[:, None], tl.arange(0, WINDOW)[None, :]
    i, j = row - (R - 1), a - b - shift
    exists = inside(i, kh) & inside(j, kw)
    if REVERSED:
        i, j = kh - 1 - i, kw - 1 - j
    taps = tl.load(w + c.to(tl.int64) * w_c + i * w_row + j * w_column, mask=exists, other=0.0)
    tl.store(bands + tl.program_id(0).to(tl.int64) * (BW * WINDOW) + b * WINDOW + a, taps)


@triton.jit
def box_of_patches(IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(image, row, column) of each patch of a box, counted from its first."""
    p = tl.arange(0, IMAGES * ROWS * COLUMNS)
    return p // (ROWS * COLUMNS), p // COLUMNS % ROWS, p % COLUMNS


@triton.jit
def place(image, row, strides, UNIT: tl.constexpr, INDEX: tl.constexpr):
    """Offset of the first column of a row of an image, from `strides` of n, c and row in units of UNIT."""
    return tl.cast(image, INDEX) * strides[0] * UNIT + tl.cast(row, INDEX) * strides[2] * UNIT


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["batch", "patch_rows", "patch_columns"]
SIZES = [
    "x_rows", "x_columns", "y_rows", "y_columns", "x_stride_n", "x_stride_c", "x_stride_row", "y_stride_n",
    "y_stride_c", "y_stride_row",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def image_kernel(
    x, bands, bias, residual, y,  # residual has the strides of y
    batch, patch_rows, patch_columns,
    x_rows, x_columns, y_rows, y_columns,  # the columns of x in units of X_UNIT, of y in Y_UNIT
    pad,  # of rows, and of columns in units of X_UNIT
    x_stride_n, x_stride_c, x_stride_row, y_stride_n, y_stride_c, y_stride_row,  # in these units; that of columns is 1
    steps,  # kh + R - 1
    R: tl.constexpr, BW: tl.constexpr, WINDOW: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # the box of patches
    X_UNIT: tl.constexpr, Y_UNIT: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    x_size, y_size = (x_rows, x_columns), (y_rows, y_columns)
    x_strides, y_strides = (x_stride_n, x_stride_c, x_stride_row), (y_stride_n, y_stride_c, y_stride_row)

    # The program: channels last, so that those which run together share weights.
    block, box_column = unravel(tl.program_id(0), tl.cdiv(patch_columns, COLUMNS))
    block, box_row = unravel(block, tl.cdiv(patch_rows, ROWS))
    c, box_image = unravel(block, tl.cdiv(batch, IMAGES))
    p_image, p_row, p_column = box_of_patches(IMAGES, ROWS, COLUMNS)
    image = box_image * IMAGES + p_image
    row = (box_row * ROWS + p_row) * R
    column = (box_column * COLUMNS + p_column) * BW

    # Rows of the windows of patches beyond the last image are not loaded.
    x_row = tl.where(image < batch, row - pad[0], x_size[0])
    x_column = (column - pad[1] * X_UNIT)[:, None] + tl.arange(0, WINDOW)[None, :]  # [PATCHES, WINDOW]
    column_exists = inside(x_column, x_size[1] * X_UNIT)
    x_at = x + c.to(tl.int64) * x_strides[1] * X_UNIT
    x_at += place(image, row - pad[0], x_strides, X_UNIT, INDEX)[:, None] + x_column

    r = tl.arange(0, R * BW) // BW
    b = tl.arange(0, R * BW) % BW
    band = (R - 1 - r) * BW + b
    bands += c.to(tl.int64) * (steps + R - 1) * (BW * WINDOW)
    band_at = bands + band[:, None] * WINDOW + tl.arange(0, WINDOW)[None, :]  # [R * BW, WINDOW]

    acc = tl.zeros((IMAGES * ROWS * COLUMNS, R * BW), tl.float32)
    tl.assume(steps > 0)  # a loop that runs at least once keeps the tensor cores' products asynchronous
    for step in range(steps):
        # One comparison for both ends: before the tensor is, unsigned, far beyond it.
        row_exists = (x_row + step).to(tl.uint32) < tl.cast(x_size[0], tl.uint32)
        windows = tl.load(x_at, mask=row_exists[:, None] & column_exists, other=0.0)
        weights = tl.load(band_at)
        acc = add_product(windows, weights.T, acc, PRECISION)
        x_at += x_strides[2] * X_UNIT
        band_at += BW * WINDOW

    if bias is not None:
        acc += tl.load(bias + c).to(tl.float32)
    y_row, y_column = row[:, None] + r[None, :], column[:, None] + b[None, :]
    exists = (image < batch)[:, None] & (y_row < y_size[0]) & (y_column < y_size[1] * Y_UNIT)
    y_at = y + c.to(tl.int64) * y_strides[1] * Y_UNIT
    y_at += place(image[:, None], y_row, y_strides, Y_UNIT, INDEX) + y_column
    acc = activate(acc, ACTIVATION)
    if residual is not None:
        added_at = residual + c.to(tl.int64) * y_strides[1] * Y_UNIT
        added_at += place(image[:, None], y_row, y_strides, Y_UNIT, INDEX) + y_column
        acc = plus(acc, added_at, exists)
    tl.store(y_at, acc.to(y.dtype.element_ty), mask=exists)
