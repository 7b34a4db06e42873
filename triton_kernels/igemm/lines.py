r"""The index equation seen from one axis of a result: which taps an output meets, and where it reads them.

fprop and dgrad are one computation. On each axis, and in each *phase* of the result,

    result index   = q * out_step + out_first         q = 0, 1, 2, ...
    tap            = u * tap_step + tap_first         u = 0 .. count - 1
    operand index  = q * in_step  + u * in_tap + in_first

fprop has a single phase, whose q is the output itself. The dgrad of a convolution with stride s has s phases: input i
meets tap t where `i + pad - t * dilation` is a multiple of s, so the inputs of equal i mod s share a set of taps, an
arithmetic progression with step `period = s / gcd(s, dilation)`. Within a phase nothing is strided any more:

    k = 3, s = 2, pad = 1     x  0 1 2 3 4 5       phase 0 (i = 1, 3, 5): taps 0 and 2
                                 | \|/ | \|/       phase 1 (i = 0, 2, 4): tap 1
                              y  0  1     2        a phase without taps is zero: k < s, or s and dilation share a factor

Phases are numbered by their first tap, so on every axis their tap counts fall: the longest work starts first.
Operand indices always rise with u; where the taps run backwards (dgrad), `tap_step` is negative.
"""

import triton
import triton.language as tl

from convext.triton_kernels.index import unravel


@triton.jit
def fprop_line(kernel, stride, dilation, pad):
    """`(out_step, out_first, tap_step, tap_first, count, in_step, in_tap, in_first)` of the only phase."""
    return 1, 0, 1, 0, kernel, stride, dilation, -pad


@triton.jit
def dgrad_line(phase, kernel, stride, dilation, pad, period):
    """The same eight for phase 0 .. stride - 1 of a dgrad. No dividend is negative: C and Python round those apart."""
    tap = phase % period  # the phase's first tap; all others follow by `period`
    shift = phase // period  # not 0: between the inputs that taps reach, when dilation and stride share a factor
    first = (tap * dilation + shift + pad * (stride - 1)) % stride  # solves (first + pad - tap * dilation) % stride
    reached = (shift == 0) & (tap < kernel)
    count = tl.where(reached, (kernel - tap + period - 1) // period, 0)
    base = (first + pad + tap * dilation * (stride - 1)) // stride - tap * dilation  # output that meets `tap` at q = 0
    step = period * dilation // stride
    last = tl.where(reached, count - 1, 0)
    return stride, first, -period, tap + last * period, count, 1, step, base - last * step


@triton.jit
def taps_inside(q_first, q_last, size, count, in_step, in_tap, in_first):
    """`(begin, end)` of the taps u through which some q of a range reads inside an operand axis of `size`.

    The others read padding only, for the whole block, and are skipped.
    """
    low = q_first * in_step + in_first
    high = q_last * in_step + in_first
    begin = (tl.maximum(-high, 0) + in_tap - 1) // in_tap
    end = tl.maximum(size - 1 - low + in_tap, 0) // in_tap
    end = tl.minimum(end, count)
    return tl.minimum(begin, end), end


@triton.jit
def outputs_reading_inside(t, size, outputs, stride, dilation, pad):
    """`(begin, end)` of the outputs whose tap t reads inside an input axis of `size`."""
    shift = t * dilation - pad
    begin = (tl.maximum(-shift, 0) + stride - 1) // stride
    end = tl.minimum(tl.maximum(size - 1 - shift + stride, 0) // stride, outputs)
    return tl.minimum(begin, end), end


@triton.jit
def boxes_of_a_part(
    tap, part, parts, batch, x_size, y_size, stride, dilation, pad,
    BATCH: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr,
):  # fmt: skip
    """The boxes of BATCH x BOX0 x BOX1 x BOX2 outputs for which a tap reads inside x, and one part's share of them.

    Returns first and end of the outputs on each axis, the number of boxes along each, the part's first box and how many
    it has. A part always has one: where nothing is to be summed, the batch that comes back last is 0, so that every
    load is masked (ptxas serialises asynchronous products in a loop that may not run).
    """
    first0, end0 = outputs_reading_inside(tap[0], x_size[0], y_size[0], stride[0], dilation[0], pad[0])
    first1, end1 = outputs_reading_inside(tap[1], x_size[1], y_size[1], stride[1], dilation[1], pad[1])
    first2, end2 = outputs_reading_inside(tap[2], x_size[2], y_size[2], stride[2], dilation[2], pad[2])
    boxes0, boxes1, boxes2 = tl.cdiv(end0 - first0, BOX0), tl.cdiv(end1 - first1, BOX1), tl.cdiv(end2 - first2, BOX2)
    boxes = tl.cdiv(batch, BATCH) * boxes0 * boxes1 * boxes2
    share = tl.cdiv(boxes, parts)
    start = part * share
    trips = tl.minimum(share, boxes - start)
    batch_read = tl.where(trips > 0, batch, 0)
    return (
        (first0, first1, first2), (end0, end1, end2), (boxes0, boxes1, boxes2),
        start, tl.maximum(trips, 1), batch_read,
    )  # fmt: skip


@triton.jit
def pixels_of_a_box(BATCH: tl.constexpr, BOX0: tl.constexpr, BOX1: tl.constexpr, BOX2: tl.constexpr):
    """Image and position within a box of each of its pixels, the last axis fastest."""
    r = tl.arange(0, BATCH * BOX0 * BOX1 * BOX2)
    return r // (BOX2 * BOX1 * BOX0), r // (BOX2 * BOX1) % BOX0, r // BOX2 % BOX1, r % BOX2


@triton.jit
def axis_of(DGRAD: tl.constexpr, phase, q, q_first, q_last, size, kernel, stride, dilation, pad, period):
    """One axis of a block whose pixels have the indices q, all from q_first to q_last.

    Returns the pixels' indices in the result and, at u = 0, in the operand, whose axis has `size`; what u adds to the
    latter; the taps' first and step; and the range of u that reads inside the operand for some pixel.
    """
    if DGRAD:
        out_step, out_first, tap_step, tap_first, count, in_step, in_tap, in_first = dgrad_line(
            phase, kernel, stride, dilation, pad, period
        )
    else:
        out_step, out_first, tap_step, tap_first, count, in_step, in_tap, in_first = fprop_line(
            kernel, stride, dilation, pad
        )
    begin, end = taps_inside(q_first, q_last, size, count, in_step, in_tap, in_first)
    return q * out_step + out_first, q * in_step + in_first, in_tap, tap_first, tap_step, begin, end


@triton.jit
def phases_of(DGRAD: tl.constexpr, y_size, stride):
    """Length of q on each axis, the same in every phase, and the number of phases of the last two axes."""
    if DGRAD:
        q0_size, q1_size = tl.cdiv(y_size[0], stride[0]), tl.cdiv(y_size[1], stride[1])
        return q0_size, q1_size, tl.cdiv(y_size[2], stride[2]), stride[1], stride[2]
    else:
        return y_size[0], y_size[1], y_size[2], 1, 1


@triton.jit
def first_step(step, depth_tiles, begin0, begin1, end1, begin2, end2):
    """`(u0, u1, u2, depth tile)` of one step of the flat list of taps and channels; the channels run fastest."""
    tap, depth_tile = unravel(step, depth_tiles)
    tap, u2 = unravel(tap, tl.maximum(end2 - begin2, 1))
    u0, u1 = unravel(tap, tl.maximum(end1 - begin1, 1))
    return begin0 + u0, begin1 + u1, begin2 + u2, depth_tile


@triton.jit
def next_step(u0, u1, u2, depth_tile, depth_tiles, begin1, end1, begin2, end2):
    """The step after; a division would cost about 20 instructions."""
    depth_tile += 1
    carry = depth_tile == depth_tiles
    depth_tile = tl.where(carry, 0, depth_tile)
    u2 += tl.cast(carry, tl.int32)
    carry = u2 == end2
    u2 = tl.where(carry, begin2, u2)
    u1 += tl.cast(carry, tl.int32)
    carry = u1 == end1
    u1 = tl.where(carry, begin1, u1)
    u0 += tl.cast(carry, tl.int32)
    return u0, u1, u2, depth_tile
