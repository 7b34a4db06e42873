"""From a problem and how its tensors lie to a launch: grid, arguments, constants."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import triton
from torch import Tensor

from convext.problem.separable import SeparableProblem
from convext.triton_kernels.ending import Ending
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.pixels import PIXEL, Plane, pixel_strides, power_of_two
from convext.triton_kernels.separable.cost import choose
from convext.triton_kernels.separable.image import separable
from convext.triton_kernels.separable.tiles import SeparableTile, width_of


def separable_launch(
    problem: SeparableProblem, x: Tensor, w: Tensor, bias: Tensor | None, v: Tensor, second_bias: Tensor | None,
    residual: Tensor | None, y: Tensor, tile: SeparableTile | None = None,
) -> Launch:  # fmt: skip
    """The launch that computes `y`, with the residual lying as `y` does; by default with the tile of `cost.py`."""
    programs, arguments, constants, tile = _plan(
        problem, tile, x.stride(1), pixel_strides(x), (w.stride(0), *w.stride()[2:]), v.stride()[:2],
        y.stride(1), pixel_strides(y),
    )  # fmt: skip
    bias, second_bias = (None if b is None else b.contiguous() for b in (bias, second_bias))
    activations = {"FIRST": Ending(problem.first).activation, "SECOND": Ending(problem.second).activation}
    trips = -(-problem.depthwise.c // tile.channels)
    return Launch(
        separable, programs, (x, w, bias, v, second_bias, residual, y, *arguments), {**constants, **activations},
        tile.warps, trips=trips,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _plan(
    problem: SeparableProblem, tile: SeparableTile | None, x_channel: int, x_pixels: tuple[int, ...],
    w_strides: tuple[int, ...], v_strides: tuple[int, ...], y_channel: int, y_pixels: tuple[int, ...],
) -> tuple[int, tuple[Any, ...], dict[str, Any], SeparableTile]:  # fmt: skip
    """The length of the grid, what the kernel is told besides tensors, and the tile."""
    p, k, itemsize = problem.depthwise, problem.pointwise.k, problem.depthwise.dtype.itemsize
    x, y = Plane.of(x_channel, x_pixels, itemsize), Plane.of(y_channel, y_pixels, itemsize)
    v = Plane.of(v_strides[0], v_strides[1:], itemsize)
    vector = x.vector if x.unit == PIXEL else 1
    tile = tile or choose(problem, vector)
    width = width_of(problem, vector)
    chunk = 1 if p.channels_last else min(vector, width)
    column_blocks, lanes_of_tile = triton.cdiv(p.output[1], width), tile.pixels // width
    row_blocks, lanes = triton.cdiv(k, tile.rows), p.n * p.output[0] * column_blocks
    units = power_of_two(p.c, limit=64), power_of_two(k), power_of_two(p.output[1], limit=width)
    vertical, horizontal = zip(p.stride, p.dilation, p.pad, strict=True)
    arguments = (
        *x.strides, *y.strides, w_strides, v.strides, lanes, p.c // units[0], k // units[1],
        row_blocks, column_blocks, *p.input, p.output[0], p.output[1] // units[2], vertical,
    )  # fmt: skip
    constants = {
        "TAPS": p.kernel[0], "ROW": (*horizontal, 1, p.kernel[1]), "CHANNELS": units[0], "ROWS": units[1],
        "COLUMNS": units[2], "X_V": x.vector, "X_UNIT": x.unit, "V_V": v.vector, "V_UNIT": v.unit, "Y_V": y.vector,
        "Y_UNIT": y.unit, "CHANNELS_LAST": p.channels_last, "CHUNK": chunk, "WHOLE": p.input[1] % chunk == 0,
        "WHOLE_STEPS": units[0] % tile.channels == 0, "WIDTH": width, "BQ": lanes_of_tile, "BC": tile.channels,
        "BK": tile.rows, "PRECISION": problem.pointwise.precision,
    }  # fmt: skip
    return triton.cdiv(lanes, lanes_of_tile) * row_blocks, arguments, constants, tile
