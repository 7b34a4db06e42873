"""fprop and dgrad as one implicit GEMM: the result is an image, in rows of pixels and columns of channels.

One block computes ROWS pixels of one phase (igemm_lines.py) and COLUMNS channels of one group. It walks a flat list
of (tap, DEPTH summed channels) and adds one product for each:

                    COLUMNS channels                    a   the operand image: x of fprop, y of dgrad
                   +----------------+                   w   the weights of one tap
    for each tap,  |   w[tap]       | DEPTH
    channel block: +----------------+
       DEPTH
      +-----+      +----------------+     Pixel (n, q0, q1, q2) reads `a` at q * in_step + tap * in_tap + in_first on
      | a   | ROWS |  accumulator   |     each axis; what lies outside `a` is masked to zero, and taps that lie outside
      +-----+      +----------------+     for the whole block are not in its list.

Pixels are numbered through batch and space, so a block fills whatever the sizes are; 1-D and 2-D are 3-D with sizes
of 1. Where pixels are innermost in memory (NCHW) the product is formed transposed, so that neighbouring threads
read neighbouring addresses. With `parts` > 1 the list is shared out, and each share writes its partial sums.
"""

import triton
import triton.language as tl

from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.igemm.lines import axis_of, first_step, next_step, phases_of
from convext.triton_kernels.index import unravel
from convext.triton_kernels.products import add_product

FAR_OUTSIDE = tl.constexpr(-(1 << 30))  # an index that no tap brings inside


@triton.jit
def pixel_of(p, q0_size, q1_size, q2_size):
    """(n, q0, q1, q2) of pixel number p."""
    p, q2 = unravel(p, q2_size)
    p, q1 = unravel(p, q1_size)
    n, q0 = unravel(p, q0_size)
    return n, tl.cast(q0, tl.int32), tl.cast(q1, tl.int32), tl.cast(q2, tl.int32)


@triton.jit
def offset_of(n, i0, i1, i2, strides, INDEX: tl.constexpr):
    """Elements from the start of an image tensor to pixel (n, i0, i1, i2)."""
    return (
        tl.cast(n, INDEX) * strides[0]
        + tl.cast(i0, INDEX) * strides[1]
        + tl.cast(i1, INDEX) * strides[2]
        + tl.cast(i2, INDEX) * strides[3]
    )


@triton.jit
def in_bounds(i, size):
    """Whether `0 <= i < size`, in one comparison."""
    return i.to(tl.uint32, bitcast=True) < tl.cast(size, tl.uint32)


@triton.jit
def store_image(
    y, bias, residual, acc, o_first, o, channels, y_row, row_seen, y_channel, part, y_elements,
    TRANSPOSED: tl.constexpr, PIXELS_INNER: tl.constexpr, UNIT: tl.constexpr, INDEX: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Adds the bias of channels `o_first + o` and stores, with rows or columns innermost as the result lies in memory.
    Before that come the activation and the residual, which lies as the result does: of a sum that is not in parts.

    acc is [ROWS, COLUMNS], or TRANSPOSED; y_row [ROWS] are the pixels' offsets and row_seen whether they exist;
    o [COLUMNS] counts from the group's first channel. Only part 0 adds the bias. A part has y_elements * UNIT elements.
    """
    seen = o < channels
    if bias is not None:
        column_bias = tl.load(bias + o_first + o, mask=seen & (part == 0), other=0.0).to(acc.dtype)
        acc += column_bias[:, None] if TRANSPOSED else column_bias[None, :]
    y += tl.cast(part, tl.int64) * y_elements * UNIT
    y_column = tl.cast(o_first + o, INDEX) * y_channel
    if PIXELS_INNER:
        tile = acc if TRANSPOSED else acc.T
        offsets, mask = y_column[:, None] + y_row[None, :], seen[:, None] & row_seen[None, :]
    else:
        tile = acc.T if TRANSPOSED else acc
        offsets, mask = y_row[:, None] + y_column[None, :], row_seen[:, None] & seen[None, :]
    tile = activate(tile, ACTIVATION)
    if residual is not None:
        tile = plus(tile, residual + offsets, mask)
    tl.store(y + offsets, tile.to(y.dtype.element_ty), mask=mask)


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["batch", "parts"]
SIZES = [
    "a_size0", "a_size1", "a_size2", "y_size0", "y_size1", "y_size2", "a_stride_n", "a_stride0", "a_stride1",
    "a_stride2", "y_stride_n", "y_stride0", "y_stride1", "y_stride2", "a_channel", "y_channel", "y_elements",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def image_kernel(
    a, w, bias, residual, y,
    batch, groups, summed, channels,  # channels of one group, summed over and of the result, in units of UNIT
    a_size0, a_size1, a_size2, y_size0, y_size1, y_size2,
    kernel, stride, dilation, pad, period,  # three axes each
    a_stride_n, a_stride0, a_stride1, a_stride2,  # of n and of three axes of space, in units of UNIT
    y_stride_n, y_stride0, y_stride1, y_stride2,  # in units of Y_UNIT
    w_strides,  # of k and of three axes of taps, in units of UNIT
    a_channel, w_channel, y_channel,  # stride of the second axis
    parts, y_elements,  # elements of the result, in units of Y_UNIT
    DGRAD: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    EVEN: tl.constexpr,  # whether DEPTH divides `summed`
    UNIT: tl.constexpr,  # a power of two; the compiler widens loads as far as it sees that addresses are multiples
    Y_UNIT: tl.constexpr,  # and stores; 1 for NCHW, whose operands may be copies with channels last
    A_PIXELS_INNER: tl.constexpr, Y_PIXELS_INNER: tl.constexpr,
    PRECISION: tl.constexpr, INDEX: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    a_size, y_size = (a_size0, a_size1, a_size2), (y_size0, y_size1, y_size2)
    a_strides, y_strides = (a_stride_n, a_stride0, a_stride1, a_stride2), (y_stride_n, y_stride0, y_stride1, y_stride2)

    # Which block: column tiles fastest, so that blocks which run together share pixels; phases slowest.
    summed = summed * UNIT
    channels = channels * UNIT
    q0_size, q1_size, q2_size, phases1, phases2 = phases_of(DGRAD, y_size, stride)
    pixels = tl.cast(batch, INDEX) * q0_size * q1_size * q2_size
    block, column_tile = unravel(tl.program_id(0), tl.cdiv(channels, COLUMNS))
    block, part = unravel(block, parts)
    block, row_tile = unravel(block, tl.cast(tl.cdiv(pixels, ROWS), tl.int32))
    phase, group = unravel(block, groups)
    phase, phase2 = unravel(phase, phases2)
    phase0, phase1 = unravel(phase, phases1)

    # Which pixels, and the range of q that they cover on each axis.
    first = tl.cast(row_tile, INDEX) * ROWS
    p = first + tl.arange(0, ROWS)  # [ROWS]
    n, q0, q1, q2 = pixel_of(p, q0_size, q1_size, q2_size)
    n_low, low0, low1, low2 = pixel_of(first, q0_size, q1_size, q2_size)
    n_high, high0, high1, high2 = pixel_of(tl.minimum(first + ROWS, pixels) - 1, q0_size, q1_size, q2_size)
    one0 = n_low == n_high
    one1 = one0 & (low0 == high0)
    one2 = one1 & (low1 == high1)
    low0, high0 = tl.where(one0, low0, 0), tl.where(one0, high0, q0_size - 1)
    low1, high1 = tl.where(one1, low1, 0), tl.where(one1, high1, q1_size - 1)
    low2, high2 = tl.where(one2, low2, 0), tl.where(one2, high2, q2_size - 1)

    out0, in0, in_tap0, tap0, tap_step0, begin0, end0 = axis_of(
        DGRAD, phase0, q0, low0, high0, a_size[0], kernel[0], stride[0], dilation[0], pad[0], period[0]
    )
    out1, in1, in_tap1, tap1, tap_step1, begin1, end1 = axis_of(
        DGRAD, phase1, q1, low1, high1, a_size[1], kernel[1], stride[1], dilation[1], pad[1], period[1]
    )
    out2, in2, in_tap2, tap2, tap_step2, begin2, end2 = axis_of(
        DGRAD, phase2, q2, low2, high2, a_size[2], kernel[2], stride[2], dilation[2], pad[2], period[2]
    )

    # This part's share of the list. A block with nothing to sum runs one step with every load masked: ptxas overlaps
    # the WGMMAs of a loop only where it sees that the loop is not empty.
    depth_tiles = tl.cdiv(summed, DEPTH)
    steps = (end0 - begin0) * (end1 - begin1) * (end2 - begin2) * depth_tiles
    share = tl.cdiv(steps, parts)
    start = part * share
    trips = tl.minimum(share, steps - start)
    channels_read = tl.where(trips > 0, channels, 0)
    in2 = tl.where((p < pixels) & (trips > 0), in2, FAR_OUTSIDE)
    trips = tl.maximum(trips, 1)
    tl.assume(trips > 0)

    u0, u1, u2, depth_tile = first_step(start, depth_tiles, begin0, begin1, end1, begin2, end2)

    k_stride = tl.cast(w_strides[0], INDEX) * UNIT
    if DGRAD:
        k_first, s_stride, o_stride = group * summed, k_stride, w_channel
    else:
        k_first, s_stride, o_stride = group * channels, w_channel, k_stride
    o = column_tile * COLUMNS + tl.arange(0, COLUMNS)  # [COLUMNS]
    d = tl.arange(0, DEPTH)  # [DEPTH]
    a_group = a + tl.cast(group * summed, tl.int64) * a_channel
    a_row = offset_of(n, in0, in1, in2, a_strides, INDEX) * UNIT  # [ROWS]
    w_group = w + tl.cast(k_first, tl.int64) * k_stride
    w_column = tl.cast(o, INDEX) * o_stride  # [COLUMNS]

    ACC: tl.constexpr = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((COLUMNS, ROWS) if A_PIXELS_INNER else (ROWS, COLUMNS), ACC)
    for _ in range(trips):
        i0, i1, i2 = u0 * in_tap0, u1 * in_tap1, u2 * in_tap2
        t0, t1, t2 = tap0 + u0 * tap_step0, tap1 + u1 * tap_step1, tap2 + u2 * tap_step2
        s = depth_tile * DEPTH + d  # [DEPTH]
        a_seen = in_bounds(in0 + i0, a_size[0]) & in_bounds(in1 + i1, a_size[1]) & in_bounds(in2 + i2, a_size[2])
        a_depth = offset_of(0, i0, i1, i2, a_strides, INDEX) * UNIT + tl.cast(s, INDEX) * a_channel  # [DEPTH]
        w_depth = offset_of(0, t0, t1, t2, w_strides, INDEX) * UNIT + tl.cast(s, INDEX) * s_stride  # [DEPTH]
        d_seen = tl.full((DEPTH,), True, tl.int1) if EVEN else s < summed
        if A_PIXELS_INNER:
            a_tile = tl.load(
                a_group + a_depth[:, None] + a_row[None, :], mask=d_seen[:, None] & a_seen[None, :], other=0.0
            )  # [DEPTH, ROWS]
            w_tile = tl.load(
                w_group + w_column[:, None] + w_depth[None, :],
                mask=(o < channels_read)[:, None] & d_seen[None, :],
                other=0.0,
            )  # [COLUMNS, DEPTH]
            acc = add_product(w_tile, a_tile, acc, PRECISION)
        else:
            a_tile = tl.load(
                a_group + a_row[:, None] + a_depth[None, :], mask=a_seen[:, None] & d_seen[None, :], other=0.0
            )  # [ROWS, DEPTH]
            w_tile = tl.load(
                w_group + w_depth[:, None] + w_column[None, :],
                mask=d_seen[:, None] & (o < channels_read)[None, :],
                other=0.0,
            )  # [DEPTH, COLUMNS]
            acc = add_product(a_tile, w_tile, acc, PRECISION)
        u0, u1, u2, depth_tile = next_step(u0, u1, u2, depth_tile, depth_tiles, begin1, end1, begin2, end2)

    y_row = offset_of(n, out0, out1, out2, y_strides, INDEX) * Y_UNIT
    row_seen = (p < pixels) & (out0 < y_size[0]) & (out1 < y_size[1]) & (out2 < y_size[2])
    store_image(
        y, bias, residual, acc, group * channels, o, channels, y_row, row_seen, y_channel, part, y_elements,
        A_PIXELS_INNER, Y_PIXELS_INNER, Y_UNIT, INDEX, ACTIVATION,
    )  # fmt: skip
