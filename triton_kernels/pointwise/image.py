"""fprop and dgrad: what one block computes is a tile of channels by pixels.

        depth                   columns: pixels                          columns
rows  [ w[k, c] ]    x   depth [ x[c, q] ]      + bias   =   rows   [ y[k, q] ]
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.pixels import channel_stride, pixel_offset
from convext.triton_kernels.products import add_product

# What changes with batches and with sizes of images: see launch.py.
COUNTS = ["pixels", "pixel_blocks"]
SIZES = [
    "size0", "size1", "size2", "size3", "source_stride0", "source_stride1", "source_stride2", "source_stride3",
    "source_stride4", "target_stride0", "target_stride1", "target_stride2", "target_stride3", "target_stride4",
]  # fmt: skip


@triton.jit(do_not_specialize=COUNTS, do_not_specialize_on_alignment=SIZES)
def multiply(
    source, w, target, bias, residual,  # residual has the strides of target
    rows, depth, pixels, size0, size1, size2, size3, row_blocks, pixel_blocks, w_group, w_strides,
    source_stride0, source_stride1, source_stride2, source_stride3, source_stride4,  # of channels, of AXES axes
    target_stride0, target_stride1, target_stride2, target_stride3, target_stride4,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PIXELS: tl.constexpr, AXES: tl.constexpr,
    SOURCE_V: tl.constexpr, SOURCE_UNIT: tl.constexpr, W_V: tl.constexpr, W_UNIT: tl.constexpr,
    TARGET_V: tl.constexpr, TARGET_UNIT: tl.constexpr,
    WHOLE: tl.constexpr,  # whether all tiles have BQ pixels
    BR: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """One [BR, BQ] tile of target; `rows`, `depth` and `pixels` are in units of ROWS, DEPTH and PIXELS."""
    sizes = (size0, size1, size2, size3)
    source_strides = (source_stride0, source_stride1, source_stride2, source_stride3, source_stride4)  # fmt: skip
    target_strides = (target_stride0, target_stride1, target_stride2, target_stride3, target_stride4)  # fmt: skip
    # Blocks of rows are neighbours: they read the same pixels at about the same time.
    block = tl.program_id(0)
    row_block = block % row_blocks
    block = block // row_blocks
    pixel_block = block % pixel_blocks
    group = (block // pixel_blocks).to(tl.int64)
    rows, depth, pixels = rows * ROWS, depth * DEPTH, pixels * PIXELS

    r = row_block * BR + tl.arange(0, BR)
    d = tl.arange(0, BD)
    q = pixel_block * BQ + tl.arange(0, BQ)
    in_rows, in_pixels = r < rows, tl.full((BQ,), True, tl.int1) if WHOLE else q < pixels
    source_step = channel_stride(source_strides, SOURCE_V, SOURCE_UNIT)
    source_at = group * depth * source_step + pixel_offset(
        q, sizes, PIXELS, source_strides, SOURCE_V, SOURCE_UNIT, AXES
    )
    source_at = source + d.to(tl.int64)[:, None] * source_step + source_at[None, :]  # [BD, BQ]
    w_row = channel_stride(w_strides, W_V, W_UNIT)
    w_depth = w_strides[1] if W_UNIT == 2 else tl.cast(w_strides[1], tl.int64) * W_V
    w_at = w + group * w_group + r.to(tl.int64)[:, None] * w_row + d.to(tl.int64)[None, :] * w_depth  # [BR, BD]

    acc = tl.zeros((BR, BQ), tl.float64 if source.dtype.element_ty == tl.float64 else tl.float32)
    tl.assume(depth > 0)  # a loop that runs at least once keeps the tensor cores' products asynchronous
    for first in range(0, depth, BD):
        inside = d < depth - first
        w_tile = tl.load(w_at, mask=in_rows[:, None] & inside[None, :], other=0.0)
        source_tile = tl.load(source_at, mask=inside[:, None] & in_pixels[None, :], other=0.0)
        acc = add_product(w_tile, source_tile, acc, PRECISION)
        w_at += BD * w_depth
        source_at += BD * source_step
    if bias is not None:
        acc += tl.load(bias + group * rows + r, mask=in_rows, other=0.0).to(acc.dtype)[:, None]
    target_step = channel_stride(target_strides, TARGET_V, TARGET_UNIT)
    target_at = (group * rows + r)[:, None] * target_step
    target_at += pixel_offset(q, sizes, PIXELS, target_strides, TARGET_V, TARGET_UNIT, AXES)[None, :]
    acc = activate(acc, ACTIVATION)
    if residual is not None:
        acc = plus(acc, residual + target_at, in_rows[:, None] & in_pixels[None, :])
    tl.store(target + target_at, acc.to(target.dtype.element_ty), mask=in_rows[:, None] & in_pixels[None, :])
