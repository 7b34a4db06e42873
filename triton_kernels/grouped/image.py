"""fprop and dgrad of groups with few channels: several groups share one product, block-diagonal.

A tensor core multiplies at least 16 by 16 channels. One block computes PACK groups together, for a box of PIXELS pixels
of one phase (igemm_lines.py). It walks the taps, and adds one product for each:

                          PIXELS
                       +----------+
                       | group 0  |        The weights of one tap, w[k, c, tap], lie compact in memory. Off the diagonal
                       | group 1  |        their loads are masked, and the product multiplies by zero: work that a
     for each tap:     | group 2  |        tensor core has to spare. (An Inf or NaN in one group makes NaN in those that
       w0  .   .       +----------+        it is packed with.)
       .   w1  .       |  result  |
       .   .   w2      +----------+

Where TMA can address `a`, it brings in the box, shifted by the tap, and the zeros of the padding with it (BOXED); else
every pixel has its pointer and mask. A group takes a power of two of rows and columns; those beyond its channels are
masked.
"""

import triton
import triton.language as tl

from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.igemm.image import FAR_OUTSIDE, in_bounds, offset_of
from convext.triton_kernels.igemm.lines import axis_of, first_step, next_step, phases_of, pixels_of_a_box
from convext.triton_kernels.index import unravel
from convext.triton_kernels.products import add_product


@triton.jit
def channels_of(first_group, groups, PACK: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """The channels of a pack, PADDED for each group; whether they exist; their group in the pack and index in it."""
    i = tl.arange(0, PACK * PADDED)
    group = i // PADDED
    within = i % PADDED
    # The first is contiguous, and the compiler sees that it is.
    channel = first_group * CHANNELS + (i if CHANNELS == PADDED else group * CHANNELS + within)
    return channel, (within < CHANNELS) & (first_group + group < groups), group, within


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["batch"]
SIZES = [
    "a_size0", "a_size1", "a_size2", "y_size0", "y_size1", "y_size2", "a_stride_n", "a_stride0", "a_stride1",
    "a_stride2", "y_stride_n", "y_stride0", "y_stride1", "y_stride2", "a_channel", "y_channel",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def packed_image_kernel(
    y, w, bias, residual,  # residual has the strides of y
    a,  # a TMA descriptor [N, three axes of space, channels] where BOXED
    batch, groups,
    a_size0, a_size1, a_size2, y_size0, y_size1, y_size2,
    kernel, stride, dilation, pad, period,  # three axes each
    a_stride_n, a_stride0, a_stride1, a_stride2,  # of n and of three axes of space, in units of UNIT
    y_stride_n, y_stride0, y_stride1, y_stride2,
    w_strides,  # of k and of three axes of taps, in units of W_UNIT
    a_channel, w_channel, y_channel,  # stride of the second axis
    DGRAD: tl.constexpr, BOXED: tl.constexpr, RANK: tl.constexpr,
    PACK: tl.constexpr, SUMMED: tl.constexpr, SUMMED_PADDED: tl.constexpr,  # channels of a group that are summed over
    CHANNELS: tl.constexpr, CHANNELS_PADDED: tl.constexpr,  # and of the result
    BATCH: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr,
    UNIT: tl.constexpr, W_UNIT: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    a_size, y_size = (a_size0, a_size1, a_size2), (y_size0, y_size1, y_size2)
    a_strides, y_strides = (a_stride_n, a_stride0, a_stride1, a_stride2), (y_stride_n, y_stride0, y_stride1, y_stride2)

    # Which block: packs fastest, so that blocks which run together share the lines of NHWC pixels; phases slowest.
    q0_size, q1_size, q2_size, phases1, phases2 = phases_of(DGRAD, y_size, stride)
    block, pack = unravel(tl.program_id(0), tl.cdiv(groups, PACK))
    block, b2 = unravel(block, tl.cdiv(q2_size, BOX2))
    block, b1 = unravel(block, tl.cdiv(q1_size, BOX1))
    block, b0 = unravel(block, tl.cdiv(q0_size, BOX0))
    phase, bn = unravel(block, tl.cdiv(batch, BATCH))
    phase, phase2 = unravel(phase, phases2)
    phase0, phase1 = unravel(phase, phases1)

    # Its pixels, a box of BATCH images and BOX0 x BOX1 x BOX2; their sides are known, so this divides by nothing else.
    n_first, first0, first1, first2 = bn * BATCH, b0 * BOX0, b1 * BOX1, b2 * BOX2
    rn, r0, r1, r2 = pixels_of_a_box(BATCH, BOX0, BOX1, BOX2)  # [PIXELS]
    exists = (n_first + rn < batch) & (first0 + r0 < q0_size) & (first1 + r1 < q1_size) & (first2 + r2 < q2_size)
    out0, in0, in_tap0, tap0, tap_step0, begin0, end0 = axis_of(
        DGRAD,
        phase0,
        first0,
        first0,
        first0 + BOX0 - 1,
        a_size[0],
        kernel[0],
        stride[0],
        dilation[0],
        pad[0],
        period[0],
    )
    out1, in1, in_tap1, tap1, tap_step1, begin1, end1 = axis_of(
        DGRAD,
        phase1,
        first1,
        first1,
        first1 + BOX1 - 1,
        a_size[1],
        kernel[1],
        stride[1],
        dilation[1],
        pad[1],
        period[1],
    )
    out2, in2, in_tap2, tap2, tap_step2, begin2, end2 = axis_of(
        DGRAD,
        phase2,
        first2,
        first2,
        first2 + BOX2 - 1,
        a_size[2],
        kernel[2],
        stride[2],
        dilation[2],
        pad[2],
        period[2],
    )
    # A block without taps runs one step with every load masked: ptxas overlaps the products of a loop only where it
    # sees that the loop is not empty.
    taps = (end0 - begin0) * (end1 - begin1) * (end2 - begin2)
    in2 = tl.where(taps > 0, in2, FAR_OUTSIDE)
    trips = tl.maximum(taps, 1)
    tl.assume(trips > 0)
    u0, u1, u2, _ = first_step(0, 1, begin0, begin1, end1, begin2, end2)

    first_group = pack * PACK
    o, o_seen, o_group, o_within = channels_of(first_group, groups, PACK, CHANNELS, CHANNELS_PADDED)  # [ROWS]
    s, s_seen, s_group, s_within = channels_of(first_group, groups, PACK, SUMMED, SUMMED_PADDED)  # [DEPTH]
    k_stride = tl.cast(w_strides[0], INDEX) * W_UNIT
    if DGRAD:
        w_at = w + s[None, :] * k_stride + (o_within * w_channel)[:, None]  # [ROWS, DEPTH]
    else:
        w_at = w + o[:, None] * k_stride + (s_within * w_channel)[None, :]
    w_seen = (o_group[:, None] == s_group[None, :]) & o_seen[:, None] & s_seen[None, :] & (taps > 0)
    if BOXED:
        channel = first_group * SUMMED
    else:
        x0, x1, x2 = r0, r1, r2  # from the box's first pixel, in `a`
        if not DGRAD:
            x0, x1, x2 = r0 * stride[0], r1 * stride[1], r2 * stride[2]
        a_row = (
            offset_of(n_first, in0, in1, in2, a_strides, INDEX) + offset_of(rn, x0, x1, x2, a_strides, INDEX)
        ) * UNIT
        a_at = a + tl.cast(s, INDEX)[:, None] * a_channel + a_row[None, :]  # [DEPTH, PIXELS]
        in0, in1, in2 = in0 + x0, in1 + x1, in2 + x2

    ACC: tl.constexpr = tl.float64 if w.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((PACK * CHANNELS_PADDED, BATCH * BOX0 * BOX1 * BOX2), ACC)
    for _ in range(trips):
        i0, i1, i2 = u0 * in_tap0, u1 * in_tap1, u2 * in_tap2
        t0, t1, t2 = tap0 + u0 * tap_step0, tap1 + u1 * tap_step1, tap2 + u2 * tap_step2
        if BOXED:  # what lies outside reads zeros
            box = a.load([n_first, in0 + i0, in1 + i1, in2 + i2, channel])
            a_tile = box.reshape(BATCH * BOX0 * BOX1 * BOX2, PACK * SUMMED_PADDED).T
        else:
            a_seen = exists & in_bounds(in2 + i2, a_size[2])
            if RANK > 1:
                a_seen = a_seen & in_bounds(in1 + i1, a_size[1])
            if RANK > 2:
                a_seen = a_seen & in_bounds(in0 + i0, a_size[0])
            a_at_tap = a_at + offset_of(0, i0, i1, i2, a_strides, INDEX) * UNIT
            a_tile = tl.load(a_at_tap, mask=s_seen[:, None] & a_seen[None, :], other=0.0)
        w_tile = tl.load(w_at + offset_of(0, t0, t1, t2, w_strides, INDEX) * W_UNIT, mask=w_seen, other=0.0)
        acc = add_product(w_tile, a_tile, acc, PRECISION)
        u0, u1, u2, _ = next_step(u0, u1, u2, 0, 1, begin1, end1, begin2, end2)

    if bias is not None:
        acc += tl.load(bias + o, mask=o_seen, other=0.0).to(ACC)[:, None]
    y_seen = exists
    if DGRAD:  # some phases have fewer pixels on an axis than the first
        r0, r1, r2 = r0 * stride[0], r1 * stride[1], r2 * stride[2]
        y_seen = exists & (r0 < y_size[0] - out0) & (r1 < y_size[1] - out1) & (r2 < y_size[2] - out2)
    y_row = (
        offset_of(n_first, out0, out1, out2, y_strides, INDEX) + offset_of(rn, r0, r1, r2, y_strides, INDEX)
    ) * UNIT
    y_at = tl.cast(o, INDEX)[:, None] * y_channel + y_row[None, :]
    acc = activate(acc, ACTIVATION)
    if residual is not None:
        acc = plus(acc, residual + y_at, o_seen[:, None] & y_seen[None, :])
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=o_seen[:, None] & y_seen[None, :])
