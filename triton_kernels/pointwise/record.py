"""Pointwise convolution: one tap, so a matrix product over channels, at every pixel.

    fprop   y[k, q] = sum over c of  w[k, c] * x[c, q] + bias[k]
    dgrad   x[c, q] = sum over k of  w[k, c] * y[k, q] + bias[c]        q: the pixels of all images
    wgrad   w[k, c] = sum over q of  y[k, q] * x[c, q]

What one block computes, for fprop and dgrad:

                      depth                   columns: pixels                          columns
              rows  [ w[k, c] ]    x   depth [ x[c, q] ]      + bias   =   rows   [ y[k, q] ]

and for wgrad, over its share of the pixels, whose partial sums are then added in order:

                      depth: pixels           columns                                  columns
              rows  [ y[k, q] ]    x   depth [ x[c, q] ]               =   rows   [ w[k, c] ]

The same kernel reads NCHW and NHWC where they lie: the loads run along whichever axis has stride 1. With one tap, a
stride and a padding are a choice of pixels, i = o * stride - pad, and that is a view: no kernel sees them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convext.problem import FACES, OPEN, OPERANDS, PRECISIONS, ConvProblem, layout
from convext.triton_kernels.launch import Launch, Specimen
from convext.triton_kernels.pixels import Plane, channel_stride, coalesce, pixel_offset, pixel_strides, power_of_two
from convext.triton_kernels.reduce import add_in_order, partial_sums
from convext.triton_kernels.tiles import Tile, first_that_fills, fitting, known, legal, split

# From the largest tile to the smallest: the first that fits the problem and fills the device is taken. What multiplies
# from registers has tables of its own (float32 by its precision), of tiles that do not spill.
TILES: dict[int, dict[str, tuple[Tile, ...]]] = {
    0: {"any": (Tile(32, 32, 64, 4, 1), Tile(16, 32, 64, 4, 1), Tile(16, 16, 64, 4, 1))},
    80: {
        "any": (
            Tile(128, 128, 64, 4, 4),
            Tile(128, 128, 64, 8, 4),
            Tile(64, 128, 64, 4, 4),
            Tile(128, 64, 64, 4, 4),
            Tile(64, 64, 128, 4, 3),
            Tile(32, 64, 128, 4, 4),
            Tile(16, 64, 128, 4, 4),
            Tile(16, 16, 128, 1, 4),
        ),
        "ieee": (Tile(64, 64, 64, 4, 3), Tile(32, 64, 64, 4, 2), Tile(16, 64, 64, 4, 3), Tile(16, 16, 64, 1, 3)),
        "tf32x3": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 128, 4, 4), Tile(16, 16, 128, 1, 4)),
        "float64": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 128, 4, 2), Tile(16, 16, 128, 1, 3)),
    },
    90: {
        "any": (
            Tile(128, 256, 128, 8, 3),
            Tile(128, 128, 128, 4, 3),
            Tile(128, 128, 128, 8, 3),
            Tile(64, 128, 128, 4, 4),
            Tile(128, 64, 128, 4, 4),
            Tile(64, 64, 128, 4, 4),
            Tile(32, 64, 128, 4, 4),
            Tile(16, 64, 128, 4, 4),
            Tile(16, 16, 128, 1, 4),
        ),
        "ieee": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 64, 4, 2), Tile(16, 64, 64, 4, 3), Tile(16, 16, 64, 1, 3)),
        "float64": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 128, 4, 2), Tile(16, 16, 128, 1, 3)),
    },
}
# WGMMA takes TF32 operands from shared memory along their depth only: where they lie otherwise they pass through
# registers, of which 128x128 in 4 warps has too few.
TILES[90]["tf32"] = (TILES[90]["any"][0], *TILES[90]["any"][2:])
# WGMMA, whose operands need no registers, is in 9.0 only of these; 12.0 multiplies as 8.0 does.
TILES[120] = TILES[80] | {
    "any": (*TILES[80]["any"][:4], Tile(64, 64, 128, 8, 3), *TILES[80]["any"][5:]),
    "ieee": (Tile(64, 64, 64, 8, 3), *TILES[80]["ieee"][1:]),
}
# In TF32, on 8.0 more stages of 32x64 would spill, and so would 64x64 on 12.0.
TILES[80]["tf32"] = (*TILES[80]["any"][:5], Tile(32, 64, 128, 4, 2), *TILES[80]["any"][6:])
TILES[120]["tf32"] = (*TILES[120]["any"][:4], *TILES[120]["any"][5:])
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def why_not(problem: ConvProblem) -> str | None:
    """None for one tap and groups of at least 16 channels, else one sentence."""
    p = problem
    if p.taps != 1:
        return f"the kernel {p.kernel} has {p.taps} taps, not one"
    fewest = min(p.c, p.k) // p.groups
    if p.groups > 1 and fewest < 16:
        return f"{fewest} channels in each of {p.groups} groups, and a tile takes at least 16 of one group"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    pixels = p.n * max(math.prod(p.input), math.prod(p.output))
    if pixels >= 2**31:
        return f"{pixels:,} pixels, and they are counted in 32 bits"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie."""
    return []


def tiles_for(problem: ConvProblem) -> tuple[Tile, ...]:
    """The table's row for a problem."""
    table = TILES[known(TILES, problem.arch)]
    kind = problem.precision if problem.dtype == torch.float32 else str(problem.dtype).removeprefix("torch.")
    return table.get(kind, table["any"])


def _narrow(itemsize: int, *planes: Plane) -> bool:
    """Whether one of the tensors moves in less than four elements, or 16 bytes of them, at a time."""
    return min(plane.vector for plane in planes) < min(4, 16 // itemsize)


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if problem.face == "wgrad":
        _sum_over_pixels(problem, *_paired(problem, a, b), result)
        return result
    source, target = _paired(problem, a, result) if problem.face == "fprop" else _paired(problem, result, a)[::-1]
    if target.shape != result.shape or source.numel() == 0:
        _fill(result, bias)
    if target.numel() > 0 and source.numel() > 0:
        channels_launch(problem, source, b, bias, target)()
    return result


def _paired(p: ConvProblem, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the pixels i of x and o of y that the tap pairs, `i = o * stride - pad`: the same number of each."""
    if all(s == 1 for s in p.stride) and not any(p.pad) and p.input == p.output:
        return x, y
    inputs: list[slice] = [slice(None), slice(None)]  # all images and channels
    outputs: list[slice] = [slice(None), slice(None)]
    for size, count, s, pad in zip(p.input, p.output, p.stride, p.pad, strict=True):
        first = min(-(-pad // s), count)
        last = max(min((size - 1 + pad) // s + 1, count), first)
        outputs.append(slice(first, last))
        inputs.append(slice(first * s - pad, (last - 1) * s - pad + 1, s) if last > first else slice(0, 0))
    return x[tuple(inputs)], y[tuple(outputs)]


def _fill(result: Tensor, bias: Tensor | None) -> None:
    """What pixels that the tap pairs with nothing hold: a sum over no terms, plus bias."""
    if bias is None:
        result.zero_()
    else:
        result.copy_(bias.view(-1, *[1] * (result.dim() - 2)).expand_as(result))


# ------------------------------------------------------------------------------------------- fprop and dgrad


def channels_launch(
    problem: ConvProblem, source: Tensor, w: Tensor, bias: Tensor | None, target: Tensor, tile: Tile | None = None
) -> Launch:
    """`target[row, q] = sum over depth of w * source[depth, q] + bias[row]`, in each group."""
    pixels = (source.shape[0], *source.shape[2:])
    programs, arguments, constants, tile = _channels_plan(
        problem, tile, pixels, source.stride(1), pixel_strides(source), w.stride()[:2],
        target.stride(1), pixel_strides(target),
    )  # fmt: skip
    arguments = (source, w, target, None if bias is None else bias.contiguous(), *arguments)
    depth = (problem.c if problem.face == "fprop" else problem.k) // problem.groups
    trips = -(-depth // constants["BD"])
    return Launch(_multiply, programs, arguments, constants, tile.warps, tile.stages, trips)


@lru_cache(maxsize=4096)
def _channels_plan(
    p: ConvProblem, tile: Tile | None, pixels: tuple[int, ...], source_channel: int, source_pixels: tuple[int, ...],
    w_strides: tuple[int, int], target_channel: int, target_pixels: tuple[int, ...],
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
    narrow = _narrow(itemsize, source, w, target)
    tile = tile or first_that_fills(tiles_for(p), p, rows, count, depth, narrow, p.groups)
    row_blocks, pixel_blocks = triton.cdiv(rows, tile.rows), triton.cdiv(count, tile.columns)
    units = power_of_two(rows), power_of_two(depth), power_of_two(sizes[-1])
    arguments = (
        rows // units[0], depth // units[1], count // units[2], (*sizes[:-1], sizes[-1] // units[2]),
        row_blocks, pixel_blocks, k * w_strides[0], source.strides, w.strides, target.strides,
    )  # fmt: skip
    constants = {
        "ROWS": units[0], "DEPTH": units[1], "PIXELS": units[2], "AXES": len(sizes),
        "SOURCE_V": source.vector, "SOURCE_UNIT": source.unit, "W_V": w.vector, "W_UNIT": w.unit,
        "TARGET_V": target.vector, "TARGET_UNIT": target.unit,
        "BR": tile.rows, "BQ": tile.columns, "BD": tile.steps(itemsize), "PRECISION": p.precision,
    }  # fmt: skip
    return p.groups * row_blocks * pixel_blocks, arguments, constants, tile


@triton.jit
def _multiply(
    source, w, target, bias,
    rows, depth, pixels, sizes, row_blocks, pixel_blocks, w_group, source_strides, w_strides, target_strides,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PIXELS: tl.constexpr, AXES: tl.constexpr,
    SOURCE_V: tl.constexpr, SOURCE_UNIT: tl.constexpr, W_V: tl.constexpr, W_UNIT: tl.constexpr,
    TARGET_V: tl.constexpr, TARGET_UNIT: tl.constexpr,
    BR: tl.constexpr, BQ: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BR, BQ] tile of target; `rows`, `depth` and `pixels` are in units of ROWS, DEPTH and PIXELS."""
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
    in_rows, in_pixels = r < rows, q < pixels
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
        acc = tl.dot(w_tile, source_tile, acc, input_precision=PRECISION, out_dtype=acc.dtype)
        w_at += BD * w_depth
        source_at += BD * source_step
    if bias is not None:
        acc += tl.load(bias + group * rows + r, mask=in_rows, other=0.0).to(acc.dtype)[:, None]
    target_step = channel_stride(target_strides, TARGET_V, TARGET_UNIT)
    target_at = (group * rows + r)[:, None] * target_step
    target_at += pixel_offset(q, sizes, PIXELS, target_strides, TARGET_V, TARGET_UNIT, AXES)[None, :]
    tl.store(target + target_at, acc.to(target.dtype.element_ty), mask=in_rows[:, None] & in_pixels[None, :])


# ------------------------------------------------------------------------------------------------------ wgrad


def _sum_over_pixels(problem: ConvProblem, x: Tensor, y: Tensor, w: Tensor) -> None:
    """`w[k, c] = sum over q of y[k, q] * x[c, q]`, in each group."""
    if w.numel() == 0:
        return
    if x.numel() == 0:
        w.zero_()
        return
    launch, partial = pixels_launch(problem, x, y, w)
    launch()
    if partial is not None:
        add_in_order(partial, w)


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
    return Launch(_accumulate, programs, arguments, constants, tile.warps, tile.stages, trips), partial


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
    tile = tile or fitting(tiles_for(p), p, rows, columns, count, _narrow(itemsize, x, y))[0]
    step = tile.steps(itemsize)
    row_blocks, column_blocks = triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns)
    blocks = p.groups * row_blocks * column_blocks
    share, parts = split(p, count, step, blocks)
    units = power_of_two(rows), power_of_two(columns), power_of_two(sizes[-1])
    arguments = (
        rows // units[0], columns // units[1], count // units[2], (*sizes[:-1], sizes[-1] // units[2]),
        share // step, row_blocks, column_blocks, p.groups, x.strides, y.strides,
    )  # fmt: skip
    constants = {
        "ROWS": units[0], "COLUMNS": units[1], "PIXELS": units[2], "AXES": len(sizes),
        "X_V": x.vector, "X_UNIT": x.unit, "Y_V": y.vector, "Y_UNIT": y.unit,
        "BR": tile.rows, "BC": tile.columns, "BQ": step, "PRECISION": p.precision,
    }  # fmt: skip
    return blocks * parts, parts, arguments, constants, tile


@triton.jit
def _accumulate(
    x, y, target,
    rows, columns, pixels, sizes, steps, row_blocks, column_blocks, groups, x_strides, y_strides,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, AXES: tl.constexpr,
    X_V: tl.constexpr, X_UNIT: tl.constexpr, Y_V: tl.constexpr, Y_UNIT: tl.constexpr,
    BR: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BR, BC] tile of one part of w: the sum over `steps` times BQ pixels.

    `rows`, `columns` and `pixels` are in units of ROWS, COLUMNS and PIXELS. target [parts, groups * rows, columns].
    """
    block = tl.program_id(0)
    row_block = block % row_blocks
    block = block // row_blocks
    column_block = block % column_blocks
    block = block // column_blocks
    group = (block % groups).to(tl.int64)
    part = block // groups
    rows, columns, pixels = rows * ROWS, columns * COLUMNS, pixels * PIXELS

    r = row_block * BR + tl.arange(0, BR)
    c = column_block * BC + tl.arange(0, BC)
    in_rows, in_columns = r < rows, c < columns
    y_at = y + (group * rows + r)[:, None] * channel_stride(y_strides, Y_V, Y_UNIT)  # [BR, 1]
    x_at = x + (group * columns + c) * channel_stride(x_strides, X_V, X_UNIT)  # [BC]
    acc = tl.zeros((BR, BC), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    tl.assume(steps > 0)  # a loop that runs at least once keeps the tensor cores' products asynchronous
    for step in range(0, steps):
        q = (part * steps + step) * BQ + tl.arange(0, BQ)
        inside = q < pixels
        y_pixel = pixel_offset(q, sizes, PIXELS, y_strides, Y_V, Y_UNIT, AXES)
        x_pixel = pixel_offset(q, sizes, PIXELS, x_strides, X_V, X_UNIT, AXES)
        y_tile = tl.load(y_at + y_pixel[None, :], mask=in_rows[:, None] & inside[None, :], other=0.0)
        # Lanes run along the last axis of what is loaded: that is where x has its neighbours.
        if X_UNIT == 2:
            x_mask = in_columns[:, None] & inside[None, :]
            x_tile = tl.load(x_at[:, None] + x_pixel[None, :], mask=x_mask, other=0.0).T
        else:
            x_mask = inside[:, None] & in_columns[None, :]
            x_tile = tl.load(x_at[None, :] + x_pixel[:, None], mask=x_mask, other=0.0)
        acc = tl.dot(y_tile, x_tile, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    target_at = ((part * groups + group) * rows + r)[:, None] * columns + c[None, :]
    tl.store(target + target_at, acc.to(target.dtype.element_ty), mask=in_rows[:, None] & in_columns[None, :])


# -------------------------------------------------------------------------------------------------- specimens


def specimens(arch: int) -> Iterator[Specimen]:
    """Each tile in both layouts, every dtype and precision; bfloat16 stands for float16 too.

    In bfloat16 and TF32 also with an odd number of pixels, which NCHW moves one by one.
    """
    forms = [(torch.bfloat16, "ieee"), (torch.float64, "ieee"), *((torch.float32, how) for how in PRECISIONS)]
    images = {"NHWC": (True, 56), "NCHW": (False, 56), "NCHW 57x57": (False, 57)}
    for (dtype, precision), (where, (channels_last, side)), face in product(forms, images.items(), FACES):
        if side % 2 == 1 and (dtype, precision) not in (forms[0], (torch.float32, "tf32")):
            continue
        sizes = {"x": (64, 256, side, side), "w": (512, 256, 1, 1), "y": (64, 512, side, side)}
        like = torch.empty((), dtype=dtype, device="meta")
        tensors = {role: layout.empty(size, channels_last, like) for role, size in sizes.items()}
        a, b = (tensors[role] for role in OPERANDS[face])
        problem = ConvProblem.of(
            face, a.shape, b.shape, sizes[OPEN[face]][2:], (1, 1), (0, 0), (1, 1), 1, dtype, channels_last, "cuda",
            arch, precision,
        )  # fmt: skip
        for tile in tiles_for(problem):
            if legal(tile, problem, narrow=side % 2 == 1) is not None:
                continue
            if face == "wgrad":
                launch, _ = pixels_launch(problem, tensors["x"], tensors["y"], tensors["w"], tile)
                trips = launch.arguments[3 + 4]
            else:
                launch = channels_launch(problem, a, b, None, tensors[OPEN[face]], tile)
                trips = b.shape[0 if face == "dgrad" else 1] // launch.constants["BD"]
            warps = "" if tile.warps == 4 else f" in {tile.warps} warps"
            name = f"pointwise.{face} {dtype} {precision} {where} {tile.rows}x{tile.columns}{warps}"
            yield Specimen(name.replace("torch.", ""), tile, launch, tile.rows * tile.columns, trips)
