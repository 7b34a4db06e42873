"""From a problem and how its tensors lie to a launch: grid, arguments, constants."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from convext.problem import ConvProblem
from convext.triton_kernels.ending import NOTHING, Ending
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.passes.reduce import partial_sums
from convext.triton_kernels.pixels import CHANNEL, Plane, coalesce, pixel_strides, power_of_two
from convext.triton_kernels.pointwise.image import multiply
from convext.triton_kernels.pointwise.tiles import tiles_for
from convext.triton_kernels.pointwise.weight import accumulate
from convext.triton_kernels.tiles import Tile, first_that_fills, fitting, split


def moves_narrowly(itemsize: int, *planes: Plane) -> bool:
    """Whether one of the tensors moves in less than four elements, or 16 bytes of them, at a time."""
    return min(plane.vector for plane in planes) < min(4, 16 // itemsize)


def _scattered(p: ConvProblem, sizes: tuple[int, ...]) -> bool:
    """Whether indices of pixels on these axes take registers that TF32 operands need: they pass through them too."""
    apart = len(sizes) > 2 or (len(sizes) == 2 and sizes[-1] % 4 > 0)
    return apart and p.dtype == torch.float32 and p.precision == "tf32"


def _filled(count: int, values: tuple[int, ...]) -> tuple[int, ...]:
    """`values` and ones, which no kernel of fewer axes reads."""
    return (*values, *(1,) * (count - len(values)))


def channels_launch(
    problem: ConvProblem, source: Tensor, w: Tensor, bias: Tensor | None, target: Tensor, tile: Tile | None = None,
    after: Ending = NOTHING,
) -> Launch:  # fmt: skip
    """`target[row, q] = sum over depth of w * source[depth, q] + bias[row]`, in each group, and what comes after it."""
    pixels = (source.shape[0], *source.shape[2:])
    programs, arguments, constants, tile = _channels_plan(
        problem, tile, pixels, source.stride(1), pixel_strides(source), w.stride()[:2],
        target.stride(1), pixel_strides(target), after.residual is not None,
    )  # fmt: skip
    arguments = (source, w, target, None if bias is None else bias.contiguous(), after.residual, *arguments)
    constants = {**constants, "ACTIVATION": after.activation}
    depth = (problem.c if problem.face == "fprop" else problem.k) // problem.groups
    trips = -(-depth // constants["BD"])
    return Launch(multiply, programs, arguments, constants, tile.warps, tile.stages, trips)


@lru_cache(maxsize=4096)
def _channels_plan(
    p: ConvProblem, tile: Tile | None, pixels: tuple[int, ...], source_channel: int, source_pixels: tuple[int, ...],
    w_strides: tuple[int, int], target_channel: int, target_pixels: tuple[int, ...], beside: bool,
) -> tuple[int, tuple[Any, ...], dict[str, Any], Tile]:  # fmt: skip
    """The length of the grid, what the kernel is told besides tensors, and the tile (the table's, where None)."""
    itemsize = p.dtype.itemsize
    sizes, source_pixels, target_pixels = coalesce(pixels, source_pixels, target_pixels)
    source = Plane.of(source_channel, source_pixels, itemsize)
    target = Plane.of(target_channel, target_pixels, itemsize)
    k, c = p.k // p.groups, p.c // p.groups
    rows, depth, w_row, w_depth = (k, c, *w_strides) if p.face == "fprop" else (c, k, *reversed(w_strides))
    w = Plane.of(w_row, (w_depth,), itemsize)
    count = math.prod(sizes)
    narrow = moves_narrowly(itemsize, source, w, target) or _scattered(p, sizes)
    tile = tile or first_that_fills(tiles_for(p), p, rows, count // p.n, depth, narrow, beside)
    row_blocks, pixel_blocks = triton.cdiv(rows, tile.rows), triton.cdiv(count, tile.columns)
    units = power_of_two(rows), power_of_two(depth), power_of_two(sizes[-1])
    arguments = (
        rows // units[0], depth // units[1], count // units[2], *_filled(4, (*sizes[:-1], sizes[-1] // units[2])),
        row_blocks, pixel_blocks, k * w_strides[0], w.strides, *_filled(5, source.strides), *_filled(5, target.strides),
    )  # fmt: skip
    constants = {
        "ROWS": units[0], "DEPTH": units[1], "PIXELS": units[2], "AXES": len(sizes),
        "SOURCE_V": source.vector, "SOURCE_UNIT": source.unit, "W_V": w.vector, "W_UNIT": w.unit,
        "TARGET_V": target.vector, "TARGET_UNIT": target.unit,
        "WHOLE": source.unit == target.unit == CHANNEL and count % tile.columns == 0,
        "BR": tile.rows, "BQ": tile.columns, "BD": tile.steps(itemsize), "PRECISION": p.precision,
    }  # fmt: skip
    return p.groups * row_blocks * pixel_blocks, arguments, constants, tile


def pixels_launch(
    problem: ConvProblem, x: Tensor, y: Tensor, w: Tensor, tile: Tile | None = None
) -> tuple[Launch, Tensor | None]:
    """The launch that writes w, or partial sums of it [parts, elements of w], and these."""
    pixels = (x.shape[0], *x.shape[2:])
    programs, parts, arguments, constants, tile = _pixels_plan(
        problem, tile, pixels, x.stride(1), pixel_strides(x), y.stride(1), pixel_strides(y)
    )
    partial = None if parts == 1 else partial_sums(parts, w)
    arguments = (x, y, w if partial is None else partial, *arguments)
    trips = math.prod(pixels) / (parts * constants["BQ"])
    return Launch(accumulate, programs, arguments, constants, tile.warps, tile.stages, trips), partial


@lru_cache(maxsize=4096)
def _pixels_plan(
    p: ConvProblem, tile: Tile | None, pixels: tuple[int, ...], x_channel: int, x_pixels: tuple[int, ...],
    y_channel: int, y_pixels: tuple[int, ...],
) -> tuple[int, int, tuple[Any, ...], dict[str, Any], Tile]:  # fmt: skip
    """The grid, how many parts the sum is split into, what the kernel is told besides tensors, and the tile."""
    itemsize = p.dtype.itemsize
    sizes, x_pixels, y_pixels = coalesce(pixels, x_pixels, y_pixels)
    x, y = Plane.of(x_channel, x_pixels, itemsize), Plane.of(y_channel, y_pixels, itemsize)
    rows, columns, count = p.k // p.groups, p.c // p.groups, math.prod(sizes)
    narrow = moves_narrowly(itemsize, x, y) or _scattered(p, sizes)
    tile = tile or fitting(tiles_for(p), p, rows, columns, count, narrow, len(sizes))[0]
    step = tile.steps(itemsize)
    row_blocks, column_blocks = triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns)
    blocks = p.groups * row_blocks * column_blocks
    share, parts = split(p, count, step, blocks)
    units = power_of_two(rows), power_of_two(columns), power_of_two(sizes[-1])
    arguments = (
        rows // units[0], columns // units[1], count // units[2], *_filled(4, (*sizes[:-1], sizes[-1] // units[2])),
        share // step, row_blocks, column_blocks, p.groups, *_filled(5, x.strides), *_filled(5, y.strides),
    )  # fmt: skip
    constants = {
        "ROWS": units[0], "COLUMNS": units[1], "PIXELS": units[2], "AXES": len(sizes),
        "X_V": x.vector, "X_UNIT": x.unit, "Y_V": y.vector, "Y_UNIT": y.unit,
        "WHOLE": x.unit == y.unit == CHANNEL and count % step == 0,
        "BR": tile.rows, "BC": tile.columns, "BQ": step, "PRECISION": p.precision,
    }  # fmt: skip
    return blocks * parts, parts, arguments, constants, tile
