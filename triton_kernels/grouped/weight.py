"""wgrad of groups with few channels: several groups share one product, of which only the block diagonal is kept.

One block computes, for one tap of PACK groups, all their channels of y against all their channels of x. It walks boxes
of PIXELS outputs (igemm_weight.py), and adds one product for each:

                        x[o, tap]
                    +---------------+
     each box:      |               | PIXELS         accumulator, and what is stored of it:
                    +---------------+
         +------+   +---------------+                   w0  .   .
         | y^T  |   |  accumulator  |                   .   w1  .        w[k, c, tap] for k and c of one group
         +------+   +---------------+                   .   .   w2

The sum over pixels is split among `parts` blocks, and each writes its partial sums.
"""

import triton
import triton.language as tl

from convext.triton_kernels.grouped.image import channels_of
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
def packed_weight_kernel(
    x, y, w,
    batch, groups,
    x_size0, x_size1, x_size2, y_size0, y_size1, y_size2,
    kernel, stride, dilation, pad,  # three axes each
    x_stride_n, x_stride0, x_stride1, x_stride2,  # of n and of three axes of space, in units of UNIT
    y_stride_n, y_stride0, y_stride1, y_stride2,
    w_strides,  # of k and of three axes of taps
    x_channel, y_channel, w_channel,  # stride of the second axis
    parts, w_elements,
    PACK: tl.constexpr, K: tl.constexpr, K_PADDED: tl.constexpr, C: tl.constexpr, C_PADDED: tl.constexpr,  # of a group
    BATCH: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr,
    UNIT: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    x_size, y_size = (x_size0, x_size1, x_size2), (y_size0, y_size1, y_size2)
    x_strides, y_strides = (x_stride_n, x_stride0, x_stride1, x_stride2), (y_stride_n, y_stride0, y_stride1, y_stride2)

    # Which block: taps first, so that blocks which run together share pixels.
    block, t2 = unravel(tl.program_id(0), kernel[2])
    block, t1 = unravel(block, kernel[1])
    block, t0 = unravel(block, kernel[0])
    part, pack = unravel(block, tl.cdiv(groups, PACK))

    first, end, boxes, start, trips, batch_read = boxes_of_a_part(
        (t0, t1, t2), part, parts, batch, x_size, y_size, stride, dilation, pad, BATCH, BOX0, BOX1, BOX2
    )
    tl.assume(trips > 0)

    # Where each pixel of a box lies, from the box's first.
    rn, r0, r1, r2 = pixels_of_a_box(BATCH, BOX0, BOX1, BOX2)  # [PIXELS]
    k, k_seen, k_group, _ = channels_of(pack * PACK, groups, PACK, K, K_PADDED)  # [ROWS]
    c, c_seen, c_group, c_within = channels_of(pack * PACK, groups, PACK, C, C_PADDED)  # [COLUMNS]
    y_row = offset_of(rn, r0, r1, r2, y_strides, INDEX) * UNIT
    x_row = offset_of(rn, r0 * stride[0], r1 * stride[1], r2 * stride[2], x_strides, INDEX) * UNIT
    y_at = y + tl.cast(k, INDEX)[:, None] * y_channel + y_row[None, :]  # [ROWS, PIXELS]
    x_at = x + tl.cast(c, INDEX)[None, :] * x_channel + x_row[:, None]  # [PIXELS, COLUMNS]

    ACC: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((PACK * K_PADDED, PACK * C_PADDED), ACC)
    for step in range(trips):
        box, b2 = unravel(start + step, tl.maximum(boxes[2], 1))
        box, b1 = unravel(box, tl.maximum(boxes[1], 1))
        bn, b0 = unravel(box, tl.maximum(boxes[0], 1))
        n, o0, o1, o2 = bn * BATCH, first[0] + b0 * BOX0, first[1] + b1 * BOX1, first[2] + b2 * BOX2
        i0 = o0 * stride[0] + t0 * dilation[0] - pad[0]
        i1 = o1 * stride[1] + t1 * dilation[1] - pad[1]
        i2 = o2 * stride[2] + t2 * dilation[2] - pad[2]
        seen = (rn < batch_read - n) & (r0 < end[0] - o0) & (r1 < end[1] - o1) & (r2 < end[2] - o2)  # [PIXELS]
        y_box = offset_of(n, o0, o1, o2, y_strides, INDEX) * UNIT
        x_box = offset_of(n, i0, i1, i2, x_strides, INDEX) * UNIT
        x_tile = tl.load(x_at + x_box, mask=seen[:, None] & c_seen[None, :], other=0.0)
        y_tile = tl.load(y_at + y_box, mask=k_seen[:, None] & seen[None, :], other=0.0)
        acc = add_product(y_tile, x_tile, acc, PRECISION)

    w += tl.cast(part, tl.int64) * w_elements
    w_at = offset_of(k, t0, t1, t2, w_strides, INDEX)[:, None] + (c_within * w_channel)[None, :]
    on_diagonal = k_group[:, None] == c_group[None, :]
    mask = on_diagonal & k_seen[:, None] & c_seen[None, :]
    tl.store(w + w_at, acc.to(w.dtype.element_ty), mask=mask)
