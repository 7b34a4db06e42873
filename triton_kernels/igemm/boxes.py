"""fprop with stride 1, and any dgrad, with both operands brought in by TMA.

Within a phase (igemm_lines.py) neighbouring pixels read neighbouring pixels. So the operand of a box of pixels, for one
tap, is a box too, shifted by the tap; what lies outside the tensor arrives as zeros, and padding costs nothing:

    x [N, D, H, W, C]      +------------------+            acc [COLUMNS, ROWS] += w[tap] @ box.T
                           |   +------+       |
         box, tap (0, 0) ..|...|......|..+    |            w [taps, K, C]   1 x COLUMNS x DEPTH    fprop
                           |   +------+  |    |                             1 x DEPTH x COLUMNS    dgrad
                           |      +------+ .. | box, tap (i, j)
                           +------------------+            ROWS = BATCH * BOX0 * BOX1 * BOX2 pixels

The weights are the first factor: so both stay in shared memory, from where WGMMA reads them; in TF32, TMA has rounded
them on the way (products.py). The flat list of taps and channels, without those that read padding only, and its parts
are those of image_kernel.
"""

import triton
import triton.language as tl

from convext.triton_kernels.igemm.image import offset_of, store_image
from convext.triton_kernels.igemm.lines import axis_of, first_step, next_step, phases_of
from convext.triton_kernels.index import unravel

# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["batch", "parts"]
SIZES = [
    "a_size0", "a_size1", "a_size2", "y_size0", "y_size1", "y_size2", "y_stride_n", "y_stride0", "y_stride1",
    "y_stride2", "y_channel", "y_elements",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def box_kernel(
    y, bias, residual,
    a, w,  # descriptors of [N, D, H, W, C] and of [taps, K, C]
    batch, groups, summed, channels,  # channels of one group, summed over and of the result
    a_size0, a_size1, a_size2, y_size0, y_size1, y_size2,
    kernel, stride, dilation, pad, period,  # three axes each
    y_stride_n, y_stride0, y_stride1, y_stride2,  # of n and of three axes of space, in units of UNIT
    y_channel,
    parts, y_elements,  # elements of the result, in units of UNIT
    DGRAD: tl.constexpr,
    BATCH: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, UNIT: tl.constexpr, Y_PIXELS_INNER: tl.constexpr,
    PRECISION: tl.constexpr, INDEX: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    a_size, y_size = (a_size0, a_size1, a_size2), (y_size0, y_size1, y_size2)
    y_strides = (y_stride_n, y_stride0, y_stride1, y_stride2)
    ROWS: tl.constexpr = BATCH * BOX0 * BOX1 * BOX2

    # Which block: column tiles fastest, so that blocks which run together share pixels; phases slowest.
    q0_size, q1_size, q2_size, phases1, phases2 = phases_of(DGRAD, y_size, stride)
    block, column_tile = unravel(tl.program_id(0), tl.cdiv(channels, COLUMNS))
    block, part = unravel(block, parts)
    block, b2 = unravel(block, tl.cdiv(q2_size, BOX2))
    block, b1 = unravel(block, tl.cdiv(q1_size, BOX1))
    block, b0 = unravel(block, tl.cdiv(q0_size, BOX0))
    block, bn = unravel(block, tl.cdiv(batch, BATCH))
    phase, group = unravel(block, groups)
    phase, phase2 = unravel(phase, phases2)
    phase0, phase1 = unravel(phase, phases1)

    # Its first pixel in the result and in the operand; the taps that read inside.
    q0, q1, q2 = b0 * BOX0, b1 * BOX1, b2 * BOX2
    last0, last1, last2 = q0 + BOX0 - 1, q1 + BOX1 - 1, q2 + BOX2 - 1
    out0, in0, in_tap0, tap0, tap_step0, begin0, end0 = axis_of(
        DGRAD, phase0, q0, q0, last0, a_size[0], kernel[0], stride[0], dilation[0], pad[0], period[0]
    )
    out1, in1, in_tap1, tap1, tap_step1, begin1, end1 = axis_of(
        DGRAD, phase1, q1, q1, last1, a_size[1], kernel[1], stride[1], dilation[1], pad[1], period[1]
    )
    out2, in2, in_tap2, tap2, tap_step2, begin2, end2 = axis_of(
        DGRAD, phase2, q2, q2, last2, a_size[2], kernel[2], stride[2], dilation[2], pad[2], period[2]
    )
    depth_tiles = tl.cdiv(summed, DEPTH)
    steps = (end0 - begin0) * (end1 - begin1) * (end2 - begin2) * depth_tiles
    share = tl.cdiv(steps, parts)
    start = part * share
    trips = tl.minimum(share, steps - start)
    # A block with nothing to sum runs one step outside both tensors: see image_kernel.
    n = tl.where(trips > 0, bn * BATCH, batch)
    no_tap = tl.where(trips > 0, 0, -kernel[0] * kernel[1] * kernel[2])
    trips = tl.maximum(trips, 1)
    tl.assume(trips > 0)
    u0, u1, u2, depth_tile = first_step(start, depth_tiles, begin0, begin1, end1, begin2, end2)

    s_first, o_first = group * summed, group * channels
    o_tile = column_tile * COLUMNS
    acc = tl.zeros((COLUMNS, ROWS), tl.float32)
    for _ in range(trips):
        tap = ((tap0 + u0 * tap_step0) * kernel[1] + tap1 + u1 * tap_step1) * kernel[2] + tap2 + u2 * tap_step2 + no_tap
        s = depth_tile * DEPTH
        box = a.load([n, in0 + u0 * in_tap0, in1 + u1 * in_tap1, in2 + u2 * in_tap2, s_first + s])
        if DGRAD:
            w_tile = w.load([tap, s_first + s, o_tile]).reshape(DEPTH, COLUMNS).T
        else:
            w_tile = w.load([tap, o_first + o_tile, s]).reshape(COLUMNS, DEPTH)
        acc = tl.dot(w_tile, box.reshape(ROWS, DEPTH).T, acc, input_precision=PRECISION)
        u0, u1, u2, depth_tile = next_step(u0, u1, u2, depth_tile, depth_tiles, begin1, end1, begin2, end2)

    # Pixel r of the box, from its first.
    r = tl.arange(0, ROWS)  # [ROWS]
    step0, step1, step2 = stride if DGRAD else (1, 1, 1)
    i0 = out0 + r // (BOX2 * BOX1) % BOX0 * step0
    i1 = out1 + r // BOX2 % BOX1 * step1
    i2 = out2 + r % BOX2 * step2
    image = bn * BATCH + r // (BOX2 * BOX1 * BOX0)
    row_seen = (image < batch) & (i0 < y_size[0]) & (i1 < y_size[1]) & (i2 < y_size[2])
    y_row = offset_of(image, i0, i1, i2, y_strides, INDEX) * UNIT
    o = o_tile + tl.arange(0, COLUMNS)
    store_image(
        y, bias, residual, acc, o_first, o, channels, y_row, row_seen, y_channel, part, y_elements,
        True, Y_PIXELS_INNER, UNIT, INDEX, ACTIVATION,
    )  # fmt: skip
