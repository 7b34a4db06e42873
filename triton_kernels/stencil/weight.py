"""wgrad of depthwise convolutions: every tap sums over all outputs, in one pass over x and y.

One program computes a part of the sums of one channel, or of BC channels where these are last. Its BQ lanes walk strips
as those of `gather` do, with sums and rows the other way round: in registers stay the sums of all taps of a plane, and
the rows of y that the loaded row of x meets roll by.

    row of x     rows of y in registers (3 taps, stride 1)

    g       ---> | y[g-2] | y[g-1] | y[g] |               w[tap, t] += sum over columns b of y[g - tap, b] * x[g, b + t]
    g+1     --->          | y[g-1] | y[g] | y[g+1] |

At its end a program adds its lanes and writes one partial sum for each tap; those of all programs are then added in
order. The taps of the loop axis are programs of their own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.index import inside, unravel
from convext.triton_kernels.stencil.image import groups_in_flight, in_elements, plane_offset, repeat, roll_tap
from convext.triton_kernels.stencil.rows import load_row, source_column

ITSELF = tl.constexpr((1, 1, 0, 1, 1))  # the ROW of columns that are read as they are


@triton.jit
def add_products(
    sums, window, columns, SLOT: tl.constexpr, ROLL: tl.constexpr, ROW: tl.constexpr, V: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """`sums` over taps plus the products of one row of x, the SLOT-th of its group, with every row of y it meets."""
    ROLL_TAPS: tl.constexpr = ROLL[0]
    ROW_TAPS: tl.constexpr = ROW[4]
    result = ()
    for r in tl.static_range(ROLL_TAPS):
        for t in tl.static_range(ROW_TAPS):
            value = sums[r * ROW_TAPS + t]
            for group in tl.static_range(groups_in_flight(ROLL)):
                if roll_tap(group, 0, SLOT, ROLL) == r:
                    for b in tl.static_range(WIDTH):
                        value += window[group * WIDTH + b] * columns[source_column(b, t, V, WIDTH, ROW)]
            result += (value,)
    return result


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["lines", "channels", "channel_blocks"]
SIZES = [
    "x_stride_n", "x_stride_c", "x_stride_loop", "x_stride_roll", "x_stride_row", "y_stride_n", "y_stride_c",
    "y_stride_loop", "y_stride_roll", "y_stride_row", "w_part", "w_k", "w_loop", "w_roll", "w_row", "loop_in",
    "loop_out", "roll_in", "roll_out", "row_in", "row_out", "blocks", "column_blocks", "strips", "rows",
    "multiplier",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def weight_sums(
    x, y, w,  # w: [parts, K, taps], or the result where there is one part
    x_stride_n, x_stride_c, x_stride_loop, x_stride_roll, x_stride_row,  # see `in_elements`
    y_stride_n, y_stride_c, y_stride_loop, y_stride_roll, y_stride_row,
    w_part, w_k, w_loop, w_roll, w_row,  # strides, in units of W_UNIT, but that of k
    lines, blocks,  # lanes with work, and how many times BQ of them a program walks
    channels,  # in units of Y_UNIT where they are last
    channel_blocks, column_blocks, strips, rows, multiplier,
    loop_in, loop_out, roll_in, roll_out, row_in, row_out,  # sizes
    loop, roll,  # as those of `gather`
    X_UNIT: tl.constexpr, Y_UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    LOOPED: tl.constexpr, LOOP_TAPS: tl.constexpr, ROLL: tl.constexpr, ROW: tl.constexpr,
    X_V: tl.constexpr, Y_V: tl.constexpr, WIDTH: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr,
    X_WHOLE: tl.constexpr, Y_WHOLE: tl.constexpr, W_UNIT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    x_n, x_c, x_loop, x_roll, x_row = in_elements(
        (x_stride_n, x_stride_c, x_stride_loop, x_stride_roll, x_stride_row), X_UNIT, CHANNELS_LAST
    )  # fmt: skip
    y_n, y_c, y_loop, y_roll, y_row = in_elements(
        (y_stride_n, y_stride_c, y_stride_loop, y_stride_roll, y_stride_row), Y_UNIT, CHANNELS_LAST
    )  # fmt: skip
    roll_s, roll_d, roll_p, residues, _, _ = roll
    GROUPS: tl.constexpr = groups_in_flight(ROLL)
    ROWS_IN: tl.constexpr = ROLL[1]
    ROLL_TAPS: tl.constexpr = ROLL[0]
    ROW_TAPS: tl.constexpr = ROW[4]

    # The program: (part, channels, tap of the loop axis), the last fastest, since these read the same rows.
    pid, loop_tap = unravel(tl.program_id(0), LOOP_TAPS)
    part, block = unravel(pid, channel_blocks)
    if WIDE:
        part = part.to(tl.int64)
    if CHANNELS_LAST:
        channels *= Y_UNIT
        c = (block * BC + tl.arange(0, BC))[None, :]
        lane = tl.arange(0, BQ)[:, None]
    else:
        c = block
        lane = tl.arange(0, BQ)
    zero = tl.zeros(lane.shape, ACC)
    if CHANNELS_LAST:
        zero += tl.zeros(c.shape, ACC)
    sums = repeat(zero, ROLL_TAPS * ROW_TAPS)

    for walk in tl.range(0, blocks, num_stages=1):
        q = (part * blocks + walk) * BQ + lane
        live = (q < lines) & (c < channels)
        q, column = unravel(q, column_blocks)
        q, strip = unravel(q, strips)
        q, residue = unravel(q, residues)
        n, o_loop = unravel(q, loop_out)
        group = strip * rows
        o = residues * group + residue
        end = tl.minimum(o + residues * rows, roll_out)  # of the strip, which may end before its rows do
        i = roll_d * ROWS_IN * group + residue * roll_s - roll_p
        column_in = column * (WIDTH * ROW[0])
        column_out = column * WIDTH

        offset, exists = plane_offset(0, loop_tap, o_loop, loop_in, loop, 0, x_loop, LOOPED)
        inputs = x + n * x_n + c // multiplier * x_c + offset + i * x_roll + column_in * x_row
        outputs = y + n * y_n + c * y_c + o_loop * y_loop + o * y_roll + column_out * y_row
        window = repeat(zero, GROUPS * WIDTH)
        for _step in tl.range(0, rows + GROUPS - 1, num_stages=1):
            of_strip = live & inside(o, end)
            newest = load_row(outputs, column_out, of_strip, row_out, y_row, Y_V, WIDTH, ITSELF, Y_WHOLE, ACC)
            window = window[WIDTH:] + newest
            for slot in tl.static_range(ROWS_IN):
                row_live = live & exists & inside(i, roll_in)
                columns = load_row(inputs, column_in, row_live, row_in, x_row, X_V, WIDTH, ROW, X_WHOLE, ACC)
                sums = add_products(sums, window, columns, slot, ROLL, ROW, X_V, WIDTH)
                i += roll_d
                inputs += roll_d * x_roll
            o += residues
            outputs += residues * y_roll

    results = w + part.to(tl.int64) * w_part * W_UNIT + c.to(tl.int64) * w_k + loop_tap * w_loop * W_UNIT
    for r in tl.static_range(ROLL_TAPS):
        for t in tl.static_range(ROW_TAPS):
            total = tl.sum(sums[r * ROW_TAPS + t], axis=0, keep_dims=CHANNELS_LAST)
            tl.store(results + (r * w_roll + t * w_row) * W_UNIT, total.to(w.dtype.element_ty), mask=c < channels)
