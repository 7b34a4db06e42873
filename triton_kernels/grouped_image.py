"""fprop and dgrad of groups with few channels: several groups share one product, block-diagonal.

A tensor core multiplies at least 16 by 16 channels. One block computes PACK groups together, for PIXELS pixels of one
phase (igemm_lines.py). It walks the taps, and adds one product for each:

                          PIXELS
                       +----------+        The weights of one tap, w[k, c, tap], are loaded compact, as many columns as
                       | group 0  |        a group has, and spread over the diagonal in registers:
     for each tap:     | group 1  |
                       | group 2  |           w0          w0  .   .        Off the diagonal the product multiplies by
       w0  .   .       +----------+           w1    ->    .   w1  .        zero: work that the tensor core has to spare,
       .   w1  .       +----------+           w2          .   .   w2       and an Inf or NaN in one group of a pack
       .   .   w2      | result   |                                        makes NaN in the others.
                       +----------+

A group takes a power of two of rows and columns; those beyond its channels are masked.
"""

import triton
import triton.language as tl

from convext.triton_kernels.igemm_image import FAR_OUTSIDE, in_bounds, offset_of, pixel_of
from convext.triton_kernels.igemm_lines import axis_of, first_step, next_step, phases_of
from convext.triton_kernels.index import unravel


@triton.jit
def channels_of(first_group, groups, PACK: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """The channels of a pack, PADDED for each group; whether they exist; their group in the pack and index in it."""
    i = tl.arange(0, PACK * PADDED)
    group = i // PADDED
    within = i % PADDED
    if CHANNELS == PADDED:
        channel = first_group * CHANNELS + i  # contiguous, and seen to be
    else:
        channel = (first_group + group) * CHANNELS + within
    return channel, (within < CHANNELS) & (first_group + group < groups), group, within


@triton.jit
def packed_image_kernel(
    a, w, bias, y,
    batch, groups,
    a_size, y_size, kernel, stride, dilation, pad, period,  # three axes each
    a_strides, w_strides, y_strides,  # of the first axis (n, or k of w) and of three axes of space; a, y in UNITs
    a_channel, w_channel, y_channel,  # stride of the second axis
    DGRAD: tl.constexpr,
    PACK: tl.constexpr, SUMMED: tl.constexpr, SUMMED_PADDED: tl.constexpr,  # channels of a group that are summed over
    CHANNELS: tl.constexpr, CHANNELS_PADDED: tl.constexpr,  # and of the result
    PIXELS: tl.constexpr, UNIT: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    # Which block: packs fastest, so that blocks which run together share the lines of NHWC pixels; phases slowest.
    q0_size, q1_size, q2_size, phases1, phases2 = phases_of(DGRAD, y_size, stride)
    pixels = tl.cast(batch, INDEX) * q0_size * q1_size * q2_size
    block, pack = unravel(tl.program_id(0), tl.cdiv(groups, PACK))
    phase, pixel_tile = unravel(block, tl.cast(tl.cdiv(pixels, PIXELS), tl.int32))
    phase, phase2 = unravel(phase, phases2)
    phase0, phase1 = unravel(phase, phases1)

    p = tl.cast(pixel_tile, INDEX) * PIXELS + tl.arange(0, PIXELS)  # [PIXELS]
    n, q0, q1, q2 = pixel_of(p, q0_size, q1_size, q2_size)
    out0, in0, in_tap0, tap0, tap_step0, begin0, end0 = axis_of(
        DGRAD, phase0, q0, 0, q0_size - 1, a_size[0], kernel[0], stride[0], dilation[0], pad[0], period[0]
    )
    out1, in1, in_tap1, tap1, tap_step1, begin1, end1 = axis_of(
        DGRAD, phase1, q1, 0, q1_size - 1, a_size[1], kernel[1], stride[1], dilation[1], pad[1], period[1]
    )
    out2, in2, in_tap2, tap2, tap_step2, begin2, end2 = axis_of(
        DGRAD, phase2, q2, 0, q2_size - 1, a_size[2], kernel[2], stride[2], dilation[2], pad[2], period[2]
    )
    # A phase without taps runs one step with every load masked: ptxas overlaps the products of a loop only where it
    # sees that the loop is not empty.
    taps = (end0 - begin0) * (end1 - begin1) * (end2 - begin2)
    in2 = tl.where((p < pixels) & (taps > 0), in2, FAR_OUTSIDE)
    trips = tl.maximum(taps, 1)
    tl.assume(trips > 0)
    u0, u1, u2, _ = first_step(0, 1, begin0, begin1, end1, begin2, end2)

    first_group = pack * PACK
    o, o_seen, o_group, o_within = channels_of(first_group, groups, PACK, CHANNELS, CHANNELS_PADDED)  # [ROWS]
    s, s_seen, _, _ = channels_of(first_group, groups, PACK, SUMMED, SUMMED_PADDED)  # [DEPTH]
    c = tl.arange(0, SUMMED_PADDED)
    if DGRAD:
        w_row = ((first_group + o_group) * SUMMED).to(INDEX) * w_strides[0] + o_within * w_channel
        w_column = c * w_strides[0]
    else:
        w_row = o.to(INDEX) * w_strides[0]
        w_column = c * w_channel
    w_at = w + w_row[:, None] + w_column[None, :]  # [ROWS, SUMMED_PADDED]
    w_seen = o_seen[:, None] & (c < SUMMED)[None, :] & (taps > 0)
    on_diagonal = o_group[:, None, None] == tl.arange(0, PACK)[None, :, None]  # [ROWS, PACK, 1]
    a_row = offset_of(n, in0, in1, in2, a_strides, INDEX) * UNIT
    a_at = a + tl.cast(s, INDEX)[:, None] * a_channel + a_row[None, :]  # [DEPTH, PIXELS]

    ROWS: tl.constexpr = PACK * CHANNELS_PADDED
    DEPTH: tl.constexpr = PACK * SUMMED_PADDED
    ACC: tl.constexpr = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((ROWS, PIXELS), ACC)
    for _ in range(trips):
        i0, i1, i2 = u0 * in_tap0, u1 * in_tap1, u2 * in_tap2
        t0, t1, t2 = tap0 + u0 * tap_step0, tap1 + u1 * tap_step1, tap2 + u2 * tap_step2
        a_seen = in_bounds(in0 + i0, a_size[0]) & in_bounds(in1 + i1, a_size[1]) & in_bounds(in2 + i2, a_size[2])
        a_tile = tl.load(
            a_at + offset_of(0, i0, i1, i2, a_strides, INDEX) * UNIT,
            mask=s_seen[:, None] & a_seen[None, :], other=0.0,
        )  # fmt: skip
        compact = tl.load(w_at + offset_of(0, t0, t1, t2, w_strides, INDEX), mask=w_seen, other=0.0)
        w_tile = tl.where(on_diagonal, compact[:, None, :], 0.0).to(compact.dtype).reshape(ROWS, DEPTH)
        acc = tl.dot(w_tile, a_tile, acc, input_precision=PRECISION, out_dtype=ACC)
        u0, u1, u2, _ = next_step(u0, u1, u2, 0, 1, begin1, end1, begin2, end2)

    if bias is not None:
        acc += tl.load(bias + o, mask=o_seen, other=0.0).to(ACC)[:, None]
    y_row = offset_of(n, out0, out1, out2, y_strides, INDEX) * UNIT
    y_seen = (p < pixels) & (out0 < y_size[0]) & (out1 < y_size[1]) & (out2 < y_size[2])
    y_at = tl.cast(o, INDEX)[:, None] * y_channel + y_row[None, :]
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=o_seen[:, None] & y_seen[None, :])
