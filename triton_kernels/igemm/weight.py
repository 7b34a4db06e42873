"""wgrad as an implicit GEMM: the result is a set of weights, summed over pixels.

One block computes, for one tap of one group, ROWS channels of y against COLUMNS channels of x. It walks boxes of
PIXELS outputs, and adds one product for each:

                    COLUMNS channels              A box is BATCH images x BOX0 x BOX1 x BOX2 outputs. Its shape is fixed
                   +----------------+             at compile time, so what differs from box to box is one offset, and
     each box:     |   x[o, tap]    | PIXELS      no index is divided in the loop.
       PIXELS      +----------------+
      +------+     +----------------+             Boxes start where the tap first reads inside x, and end where it last
      | y^T  | ROWS|  accumulator   |             does: padding is never multiplied, and a tap that reads nothing else
      +------+     +----------------+             has no boxes and stores zeros.

The sum over pixels is long and the result small, so `parts` blocks share the boxes of one tile, and each writes its
partial sums.
"""

import triton
import triton.language as tl

from convext.triton_kernels.igemm.image import offset_of
from convext.triton_kernels.igemm.lines import boxes_of_a_part, pixels_of_a_box
from convext.triton_kernels.index import unravel
from convext.triton_kernels.products import add_product

# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["batch", "parts"]
SIZES = [
    "x_size0", "x_size1", "x_size2", "y_size0", "y_size1", "y_size2", "x_stride_n", "x_stride0", "x_stride1",
    "x_stride2", "y_stride_n", "y_stride0", "y_stride1", "y_stride2", "x_channel", "y_channel",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def weight_kernel(
    x, y, w,
    batch, groups, k_channels, c_channels,  # channels of one group, in units of UNIT
    x_size0, x_size1, x_size2, y_size0, y_size1, y_size2,
    kernel, stride, dilation, pad,  # three axes each
    x_stride_n, x_stride0, x_stride1, x_stride2,  # of n and of three axes of space, in units of UNIT
    y_stride_n, y_stride0, y_stride1, y_stride2,
    w_strides,  # of k and of three axes of taps
    x_channel, y_channel, w_channel,  # stride of the second axis
    parts, w_elements,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr,
    BATCH: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr,
    UNIT: tl.constexpr,  # a power of two; the compiler widens loads as far as it sees that addresses are multiples
    X_PIXELS_INNER: tl.constexpr, Y_PIXELS_INNER: tl.constexpr,
    PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    x_size, y_size = (x_size0, x_size1, x_size2), (y_size0, y_size1, y_size2)
    x_strides, y_strides = (x_stride_n, x_stride0, x_stride1, x_stride2), (y_stride_n, y_stride0, y_stride1, y_stride2)

    # Which block: column tiles, row tiles and taps first, so that blocks which run together share pixels.
    k_channels = k_channels * UNIT
    c_channels = c_channels * UNIT
    block, column_tile = unravel(tl.program_id(0), tl.cdiv(c_channels, COLUMNS))
    block, row_tile = unravel(block, tl.cdiv(k_channels, ROWS))
    block, t2 = unravel(block, kernel[2])
    block, t1 = unravel(block, kernel[1])
    block, t0 = unravel(block, kernel[0])
    part, group = unravel(block, groups)

    first, end, boxes, start, trips, batch_read = boxes_of_a_part(
        (t0, t1, t2), part, parts, batch, x_size, y_size, stride, dilation, pad, BATCH, BOX0, BOX1, BOX2
    )
    tl.assume(trips > 0)
    box, b2 = unravel(start, tl.maximum(boxes[2], 1))
    box, b1 = unravel(box, tl.maximum(boxes[1], 1))
    bn, b0 = unravel(box, tl.maximum(boxes[0], 1))

    # Where each pixel of a box lies, from the box's first.
    rn, r0, r1, r2 = pixels_of_a_box(BATCH, BOX0, BOX1, BOX2)  # [PIXELS]
    y_row = offset_of(rn, r0, r1, r2, y_strides, INDEX) * UNIT
    x_row = offset_of(rn, r0 * stride[0], r1 * stride[1], r2 * stride[2], x_strides, INDEX) * UNIT
    k = row_tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = column_tile * COLUMNS + tl.arange(0, COLUMNS)  # [COLUMNS]
    y_group = y + tl.cast(group * k_channels, tl.int64) * y_channel
    x_group = x + tl.cast(group * c_channels, tl.int64) * x_channel
    y_k = tl.cast(k, INDEX) * y_channel
    x_c = tl.cast(c, INDEX) * x_channel

    ACC: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((ROWS, COLUMNS), ACC)
    for _ in range(trips):
        n, o0, o1, o2 = bn * BATCH, first[0] + b0 * BOX0, first[1] + b1 * BOX1, first[2] + b2 * BOX2
        i0 = o0 * stride[0] + t0 * dilation[0] - pad[0]
        i1 = o1 * stride[1] + t1 * dilation[1] - pad[1]
        i2 = o2 * stride[2] + t2 * dilation[2] - pad[2]
        seen = (rn < batch_read - n) & (r0 < end[0] - o0) & (r1 < end[1] - o1) & (r2 < end[2] - o2)  # [PIXELS]
        y_offset = y_row + offset_of(n, o0, o1, o2, y_strides, INDEX) * UNIT
        x_offset = x_row + offset_of(n, i0, i1, i2, x_strides, INDEX) * UNIT
        # The axis whose elements lie side by side is added last.
        mask = (k < k_channels)[:, None] & seen[None, :]
        if Y_PIXELS_INNER:
            y_tile = tl.load(y_group + y_k[:, None] + y_offset[None, :], mask=mask, other=0.0)
        else:
            y_tile = tl.load(y_group + y_offset[None, :] + y_k[:, None], mask=mask, other=0.0)
        if X_PIXELS_INNER:
            mask = (c < c_channels)[:, None] & seen[None, :]
            x_tile = tl.load(x_group + x_c[:, None] + x_offset[None, :], mask=mask, other=0.0).T
        else:
            mask = seen[:, None] & (c < c_channels)[None, :]
            x_tile = tl.load(x_group + x_offset[:, None] + x_c[None, :], mask=mask, other=0.0)
        acc = add_product(y_tile, x_tile, acc, PRECISION)  # [ROWS, PIXELS] [PIXELS, COLUMNS]
        b2 += 1
        next_row = b2 == boxes[2]
        b2 = tl.where(next_row, 0, b2)
        b1 += tl.cast(next_row, tl.int32)
        next_plane = b1 == boxes[1]
        b1 = tl.where(next_plane, 0, b1)
        b0 += tl.cast(next_plane, tl.int32)
        next_image = b0 == boxes[0]
        b0 = tl.where(next_image, 0, b0)
        bn += tl.cast(next_image, tl.int32)

    w += tl.cast(part, tl.int64) * w_elements + tl.cast(group * k_channels, tl.int64) * w_strides[0]
    w_at = offset_of(k, t0, t1, t2, w_strides, INDEX)[:, None] + (tl.cast(c, INDEX) * w_channel)[None, :]
    mask = (k < k_channels)[:, None] & (c < c_channels)[None, :]
    tl.store(w + w_at, acc.to(w.dtype.element_ty), mask=mask)
