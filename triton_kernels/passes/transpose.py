"""Copies from one memory format into the other, a tile at a time: whole sectors are read, and whole ones written.

    source [batches, rows, columns]      images   N x C x pixels      weights  K x C / groups x taps
    result [batches, columns, rows]

A copy by strides has neighbours in memory on one side alone: on the other each element takes a sector of 32 bytes.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from convext.problem import layout
from convext.triton_kernels.launch import Launch

SIDE, ELEMENTS = 64, 4096  # at most, of a tile's rows and columns; of a tile


def dense(t: Tensor, channels_last: bool) -> Tensor:
    """`t` itself where it is dense in the given order, else a copy that is."""
    other = t.movedim(1, -1)  # as it lies in channels last
    if t.is_contiguous() or other.is_contiguous():
        there = other.is_contiguous() if channels_last else t.is_contiguous()
        return t if there else _in_the_other_order(t, channels_last)
    return layout.dense(t, channels_last)


def _in_the_other_order(t: Tensor, channels_last: bool) -> Tensor:
    """A copy in the given order of a tensor that is dense in the other one."""
    result = layout.empty(t.shape, channels_last, t)
    channels, places = t.shape[1], math.prod(t.shape[2:])
    transpose(t, result, t.shape[0], *((channels, places) if channels_last else (places, channels)))
    return result


def first_innermost(t: Tensor) -> Tensor:
    """A copy whose first axis, a weight's filters, is innermost, and the others lie in order around it."""
    if not t.is_contiguous():
        return t.movedim(0, -1).contiguous().movedim(-1, 0)
    first, *others = t.shape
    result = t.new_empty_strided(t.shape, [1, *(stride * first for stride in t.stride()[1:])])
    transpose(t, result, 1, first, math.prod(others))
    return result


def transpose(source: Tensor, result: Tensor, batches: int, rows: int, columns: int) -> None:
    """Writes each matrix of `source`'s memory, [batches, rows, columns], transposed to `result`'s."""
    tile_rows, tile_columns = (min(SIDE, triton.next_power_of_2(size)) for size in (rows, columns))
    tile_batches = min(ELEMENTS // (tile_rows * tile_columns), triton.next_power_of_2(batches))
    sides = {"BATCHES": tile_batches, "ROWS": tile_rows, "COLUMNS": tile_columns}
    programs = math.prod(map(triton.cdiv, (batches, rows, columns), sides.values()))
    Launch(_transpose, programs, (source, result, batches, rows, columns), sides)()


def copied_bytes(launch: Launch) -> int:
    """What a launch reads and writes for a copy alone: 0 where it computes something."""
    return 2 * launch.arguments[0].nbytes if launch.kernel is _transpose else 0


@triton.jit(do_not_specialize=["batches"])
def _transpose(
    source, result, batches, rows, columns, BATCHES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    column_tiles, row_tiles = tl.cdiv(columns, COLUMNS), tl.cdiv(rows, ROWS)
    tile = tl.program_id(0)
    batch = (tile // (column_tiles * row_tiles)) * BATCHES + tl.arange(0, BATCHES)[:, None, None]
    row = (tile // column_tiles % row_tiles) * ROWS + tl.arange(0, ROWS)[None, :, None]
    column = (tile % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, None, :]
    inside = (batch < batches) & (row < rows) & (column < columns)
    matrix = batch.to(tl.int64) * rows * columns
    values = tl.load(source + (matrix + row.to(tl.int64) * columns + column), mask=inside)
    tl.store(result + (matrix + column.to(tl.int64) * rows + row), values, mask=inside)
