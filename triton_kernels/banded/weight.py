"""wgrad of depthwise convolutions with large kernels, as matrix products of windows with patches.

Patches and windows are those of banded_image.py. One program takes WINDOW_ROWS rows of all windows of one channel, and
sums over its share of the images' patches, a box of PATCHES in each step:

        +---------------+   PATCHES                            +----------------------+
        |               |   outputs: R x BW gradients          |  \\    .  |  \\    .   |
        +---------------+                                      |  .\\    . |  .\\    .  |   a: columns of a window
    PATCHES                                                    |  . \\    .|  . \\    . |
    +-------+   +---------------+                              |   . \\    |   . \\     |
    |  x^T  |   |  accumulator  |      accumulator:            |    . \\   |    . \\    |
    +-------+   +---------------+                              +----------------------+
      inputs                                                     row 0: b     row 1: b

The accumulator holds, at [(s, a), (r, b)], how window column a of row s went with patch column b of row r. All places
with one s - r and one a - b belong to one tap, so the weight gradient is what its diagonals sum to:

    dw[i, j] = sum over r and b of  accumulator[(i + r, j + b + shift), (r, b)]

A program writes the sums of its diagonals over b; those over r and over programs are added in order later.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.banded.image import box_of_patches, place
from convext.triton_kernels.index import inside, unravel
from convext.triton_kernels.products import add_product

# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["batch", "patch_rows", "patch_columns", "trips"]
SIZES = [
    "x_rows", "x_columns", "y_rows", "y_columns", "x_stride_n", "x_stride_c", "x_stride_row", "y_stride_n",
    "y_stride_c", "y_stride_row",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def weight_kernel(
    x, y, w,  # w: [parts, R, channels, kh, kw] partial sums
    batch, patch_rows, patch_columns,
    x_rows, x_columns, y_rows, y_columns, pad,  # as those of `image_kernel`
    x_stride_n, x_stride_c, x_stride_row, y_stride_n, y_stride_c, y_stride_row,
    kh, kw, shift,  # column a of a window meets output column b through tap a - b - shift
    channels, row_blocks, trips,  # row_blocks: programs that share the rows of a window; trips: boxes of a program
    R: tl.constexpr, BW: tl.constexpr, WINDOW: tl.constexpr, WINDOW_ROWS: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # a box of patches
    X_UNIT: tl.constexpr, Y_UNIT: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    x_size, y_size = (x_rows, x_columns), (y_rows, y_columns)
    x_strides, y_strides = (x_stride_n, x_stride_c, x_stride_row), (y_stride_n, y_stride_c, y_stride_row)

    # The program: rows of windows first, since these read the same inputs.
    part, row_block = unravel(tl.program_id(0), row_blocks)
    part, c = unravel(part, channels)

    p_image, p_row, p_column = box_of_patches(IMAGES, ROWS, COLUMNS)
    s = row_block * WINDOW_ROWS + tl.arange(0, WINDOW_ROWS * WINDOW) // WINDOW
    a = tl.arange(0, WINDOW_ROWS * WINDOW) % WINDOW
    r, b = tl.arange(0, R * BW) // BW, tl.arange(0, R * BW) % BW
    x_row, x_column = (p_row * R)[:, None] + s - pad[0], (p_column * BW)[:, None] + a - pad[1] * X_UNIT
    y_row, y_column = (p_row * R)[:, None] + r, (p_column * BW)[:, None] + b
    x_at = x + c.to(tl.int64) * x_strides[1] * X_UNIT
    x_at += place(p_image[:, None], x_row, x_strides, X_UNIT, INDEX) + x_column  # [PATCHES, WINDOW_ROWS * WINDOW]
    y_at = y + c.to(tl.int64) * y_strides[1] * Y_UNIT
    y_at += place(p_image[:, None], y_row, y_strides, Y_UNIT, INDEX) + y_column  # [PATCHES, R * BW]

    acc = tl.zeros((WINDOW_ROWS * WINDOW, R * BW), tl.float32)
    tl.assume(trips > 0)  # a loop that runs at least once keeps the tensor cores' products asynchronous
    for trip in range(trips):
        box = part * trips + trip
        box, box_column = unravel(box, tl.cdiv(patch_columns, COLUMNS))
        box_image, box_row = unravel(box, tl.cdiv(patch_rows, ROWS))
        image, row, column = box_image * IMAGES, box_row * (ROWS * R), box_column * (COLUMNS * BW)
        live = (p_image < batch - image)[:, None]
        x_seen = live & inside(x_row + row, x_size[0]) & inside(x_column + column, x_size[1] * X_UNIT)
        y_seen = live & (y_row + row < y_size[0]) & (y_column + column < y_size[1] * Y_UNIT)
        x_box = place(image, row, x_strides, X_UNIT, INDEX) + column
        y_box = place(image, row, y_strides, Y_UNIT, INDEX) + column
        windows = tl.load(x_at + x_box, mask=x_seen, other=0.0)
        patches = tl.load(y_at + y_box, mask=y_seen, other=0.0)
        acc = add_product(windows.T, patches, acc, PRECISION)

    # Diagonals become rows: row j of a window's columns takes, of each patch column b, what a = j + b + shift holds.
    j = a
    source = (tl.arange(0, WINDOW_ROWS * WINDOW) - j)[:, None] + tl.minimum(j[:, None] + b[None, :] + shift, WINDOW - 1)
    diagonals = tl.gather(acc, source, axis=0).reshape(WINDOW_ROWS * WINDOW, R, BW)
    sums = tl.sum(diagonals, axis=2)  # [WINDOW_ROWS * WINDOW, R]
    r = tl.arange(0, R)
    i = s[:, None] - r[None, :]
    w_at = w + ((part * R + r).to(tl.int64)[None, :] * channels + c) * kh * kw + i * kw + j[:, None]
    tl.store(w_at, sums, mask=inside(i, kh) & (j < kw)[:, None])
