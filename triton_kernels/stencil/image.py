"""fprop and dgrad of depthwise convolutions: every output gathers its taps.

One program computes BQ lanes, times BC channels in channels-last memory. A lane owns WIDTH neighbouring columns and
slides down a strip of rows. It loads each input row once, adds it to every output row that reads it, and stores the
oldest of these when its last tap has been added:

    input row        accumulators: the output rows that it reaches (3 taps, stride 1)

    g          --->  | row g-2: tap 2, complete | row g-1: tap 1           | row g: tap 0 |
    g+1        --->                             | row g-1: tap 2, complete | row g: tap 1 | row g+1: tap 0 |

fprop and dgrad are one gather: on each axis, `R * i = o * S + t * D - P`. fprop has R = 1; dgrad has S = 1, R the
stride and its taps reversed, and a tap takes part where R divides. Down the rows a step is a group of S input rows,
which reaches groups of R output rows. Output rows that agree modulo D / gcd(S, D) read input rows D apart, as an
undilated problem would: each such residue has lanes of its own. A third axis, and rows with more taps than fit in
registers, are a loop around the taps of a plane (the axes are called "loop", "roll" and "row").
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.index import inside, unravel
from convext.triton_kernels.stencil.rows import load_row, source_column, store_row


@triton.constexpr_function
def groups_in_flight(ROLL):
    """How many groups of output rows one group of input rows reaches. ROLL = (taps, S, R) of the axis of rows."""
    taps, S, R = ROLL
    return (taps + R - 2) // (S * R) + 1


@triton.constexpr_function
def roll_tap(group, a, slot, ROLL):
    """The tap that joins input row `slot` to output row `a` of the group-th group in flight, the oldest first; else -1.

    The gather's equation on this axis: with i = S * g + slot and o = R * (g - age) + a, tap = R * i - S * o.
    """
    taps, S, R = ROLL
    age = groups_in_flight(ROLL) - 1 - group
    tap = S * R * age + R * slot - S * a
    return tap if 0 <= tap < taps else -1


@triton.jit
def in_elements(strides, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Strides of (n, c, loop, roll, row) that came divided by UNIT, but for the one of the axis that vectors run along.

    The product is what shows the compiler that they are multiples of UNIT, so that it may use vectors. In 64 bits, as
    every offset has to be: tensors have more than 2^31 elements.
    """
    n, c, loop, roll, row = strides
    n, c, loop = n.to(tl.int64) * UNIT, c.to(tl.int64), loop.to(tl.int64) * UNIT
    roll, row = roll.to(tl.int64) * UNIT, row.to(tl.int64)
    if CHANNELS_LAST:
        row = row * UNIT
    else:
        c = c * UNIT
    return n, c, loop, roll, row


@triton.jit
def repeat(value, COUNT: tl.constexpr):
    result = ()
    for _ in tl.static_range(COUNT):
        result += (value,)
    return result


@triton.jit
def plus_each(values, added, COUNT: tl.constexpr):
    result = ()
    for i in tl.static_range(COUNT):
        result += (values[i] + added,)
    return result


@triton.jit
def load_taps(
    pointers, mask, strides, loop_tap, LOOP_TAPS: tl.constexpr, ROLL_TAPS: tl.constexpr, ROW_TAPS: tl.constexpr,
    REVERSED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The taps of a plane, as a tuple of ROLL_TAPS * ROW_TAPS tensors; REVERSED counts each axis from its last tap."""
    _, loop, roll, row = strides
    if REVERSED:
        pointers += (LOOP_TAPS - 1 - loop_tap) * loop
    else:
        pointers += loop_tap * loop
    taps = ()
    for r in tl.static_range(ROLL_TAPS):
        for t in tl.static_range(ROW_TAPS):
            if REVERSED:
                at = pointers + ((ROLL_TAPS - 1 - r) * roll + (ROW_TAPS - 1 - t) * row)
            else:
                at = pointers + (r * roll + t * row)
            taps += (tl.load(at, mask=mask, other=0.0).to(ACC),)
    return taps


@triton.jit
def add_row(
    acc, columns, taps, SLOT: tl.constexpr, ROLL: tl.constexpr, ROW: tl.constexpr, V: tl.constexpr, WIDTH: tl.constexpr
):
    """`acc` plus the products of one input row, the SLOT-th of its group, with every tap.

    `acc` is a tuple over groups in flight, output rows of a group, columns.
    """
    ROWS_OUT: tl.constexpr = ROLL[2]
    ROW_TAPS: tl.constexpr = ROW[4]
    result = ()
    for group in tl.static_range(groups_in_flight(ROLL)):
        for a in tl.static_range(ROWS_OUT):
            for b in tl.static_range(WIDTH):
                value = acc[(group * ROWS_OUT + a) * WIDTH + b]
                if roll_tap(group, a, SLOT, ROLL) >= 0:
                    for t in tl.static_range(ROW_TAPS):
                        if source_column(b, t, V, WIDTH, ROW) >= 0:
                            tap = taps[roll_tap(group, a, SLOT, ROLL) * ROW_TAPS + t]
                            value += columns[source_column(b, t, V, WIDTH, ROW)] * tap
                result += (value,)
    return result


@triton.jit
def source_and_tap(t, SOURCES: tl.constexpr, LOOP_TAPS: tl.constexpr):
    """The channel and the tap of the loop axis that t counts. One channel is a constant: addresses stay aligned."""
    if SOURCES == 1:
        return 0, t
    else:
        return unravel(t, LOOP_TAPS)


@triton.jit
def plane_offset(source, tap, o, size, loop, x_c, x_loop, LOOPED: tl.constexpr):
    """Where the plane that `tap` of the loop axis joins to output plane `o` lies in channel `source`, and if it exists.

    Counted from the first plane of channel 0.
    """
    S, D, P, R = loop
    offset = source * x_c
    if LOOPED:
        scaled = o * S + tap * D - P
        i = scaled // R
        return offset + i * x_loop, inside(i, size) & (i * R == scaled)
    else:
        return offset, True


# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["lines", "channels", "channel_blocks"]
SIZES = [
    "x_stride_n", "x_stride_c", "x_stride_loop", "x_stride_roll", "x_stride_row", "y_stride_n", "y_stride_c",
    "y_stride_loop", "y_stride_roll", "y_stride_row", "loop_in", "loop_out", "roll_in", "roll_out", "row_in", "row_out",
    "column_blocks", "strips", "rows", "multiplier",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def gather(
    x, w, bias, residual, y,  # residual has the strides of y
    bias_stride,
    w_strides,  # of k, loop, roll, row
    x_stride_n, x_stride_c, x_stride_loop, x_stride_roll, x_stride_row,  # see `in_elements`
    y_stride_n, y_stride_c, y_stride_loop, y_stride_roll, y_stride_row,
    lines,  # lanes with work (of a vector of channels, where these are last)
    channels,  # in units of Y_UNIT where they are last
    channel_blocks, column_blocks, strips, rows,  # rows: groups of output rows in a strip
    multiplier,  # output channels for each input channel
    loop_in, loop_out, roll_in, roll_out, row_in, row_out,  # sizes
    loop,  # S, D, P, R
    roll,  # S, D, P, residues, -P modulo R, inverse of D modulo R
    X_UNIT: tl.constexpr, Y_UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BIAS: tl.constexpr,
    SOURCES: tl.constexpr,  # input channels for each output channel
    REVERSED: tl.constexpr,  # taps count from the last
    LOOPED: tl.constexpr, LOOP_TAPS: tl.constexpr, ROLL: tl.constexpr, ROW: tl.constexpr,
    X_V: tl.constexpr, Y_V: tl.constexpr, WIDTH: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, HOLD: tl.constexpr,
    X_WHOLE: tl.constexpr, Y_WHOLE: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    x_n, x_c, x_loop, x_roll, x_row = in_elements(
        (x_stride_n, x_stride_c, x_stride_loop, x_stride_roll, x_stride_row), X_UNIT, CHANNELS_LAST
    )  # fmt: skip
    y_n, y_c, y_loop, y_roll, y_row = in_elements(
        (y_stride_n, y_stride_c, y_stride_loop, y_stride_roll, y_stride_row), Y_UNIT, CHANNELS_LAST
    )  # fmt: skip
    w_k = w_strides[0]
    roll_s, roll_d, roll_p, residues, phase, inverse = roll
    GROUPS: tl.constexpr = groups_in_flight(ROLL)
    ROWS_IN: tl.constexpr = ROLL[1]
    ROWS_OUT: tl.constexpr = ROLL[2]
    PLANES: tl.constexpr = SOURCES * LOOP_TAPS
    ROLL_TAPS: tl.constexpr = ROLL[0]
    ROW_TAPS: tl.constexpr = ROW[4]
    TAPS: tl.constexpr = ROLL_TAPS * ROW_TAPS
    # Of a long row in NHWC, addresses that are kept from plane to plane take more registers than there are.
    RELOADED_ROW: tl.constexpr = CHANNELS_LAST and ROW_TAPS > 16

    # The lane: (n, c, loop, residue, strip, column block), the last fastest; c is a vector where channels are last.
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    if CHANNELS_LAST:
        pid, block = unravel(pid, channel_blocks)
        c = (block * BC + tl.arange(0, BC))[None, :]
        q = (pid * BQ + tl.arange(0, BQ))[:, None]
        has_channel = c < channels * Y_UNIT
        live = (q < lines) & has_channel
    else:
        q = pid * BQ + tl.arange(0, BQ)
        live = q < lines
        has_channel = live
    q, column = unravel(q, column_blocks)
    q, strip = unravel(q, strips)
    q, residue = unravel(q, residues)
    n, o_loop = unravel(q, loop_out)
    if not CHANNELS_LAST:
        n, c = unravel(n, channels)

    # The strip's first output row, one that tap 0 joins to an input row (it may lie before the tensor), and that row.
    group = strip * rows
    lead = -((residue + phase) * inverse % ROWS_OUT)
    o = residues * (group * ROWS_OUT + lead) + residue
    i = roll_d * ROWS_IN * group + ((residues * lead + residue) * roll_s - roll_p) // ROWS_OUT
    column_in = column * (WIDTH * ROW[0] // ROW[3])
    column_out = column * WIDTH

    done = o - (GROUPS - 1) * ROWS_OUT * residues  # the row that is complete after the first step
    inputs = x + n * x_n + c // multiplier * SOURCES * x_c + i * x_roll + column_in * x_row
    outputs = y + n * y_n + c * y_c + o_loop * y_loop + done * y_roll + column_out * y_row
    added = None
    if residual is not None:
        added = residual + n * y_n + c * y_c + o_loop * y_loop + done * y_roll + column_out * y_row
    weights = w + c.to(tl.int64) * SOURCES * w_k

    held = ()
    if HOLD:
        for t in tl.static_range(PLANES):
            source, tap = source_and_tap(t, SOURCES, LOOP_TAPS)
            held += load_taps(
                weights + source * w_k, has_channel, w_strides, tap, LOOP_TAPS, ROLL_TAPS, ROW_TAPS, REVERSED, ACC
            )
    zero = tl.zeros(live.shape, ACC)
    acc = repeat(zero, GROUPS * ROWS_OUT * WIDTH)
    if BIAS:
        shift = tl.load(bias + c * bias_stride, mask=has_channel, other=0.0).to(ACC)

    for step in tl.range(0, rows + GROUPS - 1, num_stages=1):
        for slot in tl.static_range(ROWS_IN):
            row_live = live & inside(i, roll_in)
            if HOLD:
                for t in tl.static_range(PLANES):
                    source, tap = source_and_tap(t, SOURCES, LOOP_TAPS)
                    offset, exists = plane_offset(source, tap, o_loop, loop_in, loop, x_c, x_loop, LOOPED)
                    columns = load_row(
                        inputs + offset, column_in, row_live & exists, row_in, x_row, X_V, WIDTH, ROW, X_WHOLE, ACC
                    )
                    acc = add_row(acc, columns, held[t * TAPS : (t + 1) * TAPS], slot, ROLL, ROW, X_V, WIDTH)
            else:
                for t in tl.range(0, PLANES, num_stages=1, disable_licm=RELOADED_ROW):
                    source, tap = source_and_tap(t, SOURCES, LOOP_TAPS)
                    offset, exists = plane_offset(source, tap, o_loop, loop_in, loop, x_c, x_loop, LOOPED)
                    columns = load_row(
                        inputs + offset, column_in, row_live & exists, row_in, x_row, X_V, WIDTH, ROW, X_WHOLE, ACC
                    )
                    taps = load_taps(
                        weights + source * w_k, has_channel, w_strides, tap,
                        LOOP_TAPS, ROLL_TAPS, ROW_TAPS, REVERSED, ACC,
                    )  # fmt: skip
                    acc = add_row(acc, columns, taps, slot, ROLL, ROW, X_V, WIDTH)
            i += roll_d
            inputs += roll_d * x_roll
        for a in tl.static_range(ROWS_OUT):
            complete = live & (step >= GROUPS - 1) & inside(done, roll_out)
            sums = acc[a * WIDTH : (a + 1) * WIDTH]
            if BIAS:  # last: each term that a large one is added to would be rounded to its last place
                sums = plus_each(sums, shift, WIDTH)
            store_row(
                outputs, column_out, complete, row_out, y_row, sums, added,
                Y_V, WIDTH, Y_WHOLE, ACTIVATION,
            )  # fmt: skip
            done += residues
            outputs += residues * y_roll
            if residual is not None:
                added += residues * y_roll
        acc = acc[ROWS_OUT * WIDTH :] + repeat(zero, ROWS_OUT * WIDTH)
