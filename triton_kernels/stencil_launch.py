"""From a problem and strides to the launch of a stencil kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from convext.problem import ConvProblem
from convext.triton_kernels.stencil_gather import gather, groups_in_flight
from convext.triton_kernels.stencil_plan import (
    Axis,
    Roles,
    Tile,
    assignments,
    gather_axes,
    legal,
    rows_of_a_strip,
    tiles,
    unit,
)

Strides = tuple[int, ...]


@dataclass(frozen=True)
class GatherPlan:
    """The arguments of `gather` after its tensors, and the shape of its grid."""

    programs: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int


@dataclass(frozen=True)
class Choice:
    """Roles of the axes, and the tile: of gathers and of weight gradients alike."""

    loop: Axis
    roll: Axis
    row: Axis
    roles: Roles
    tile: Tile


@lru_cache(maxsize=4096)
def choose_gather(problem: ConvProblem, vector: int) -> Choice | str:
    """The first tile and assignment of roles that is legal, or why none is.

    `vector` bounds the columns of a chunk in NCHW: elements that rows are aligned to.
    """
    axes = gather_axes(problem)
    reasons = ["no tile"]
    for tile in tiles(problem):
        if tile.channels == 0 and tile.columns > vector:
            continue
        for roles in assignments(problem.rank, problem.channels_last):
            loop, roll, row = (Axis() if r is None else axes[r] for r in roles)
            if not roll.rolls:
                reasons.append(f"axis {roles.roll}: its dilation and its stride share a factor")
            elif tile.channels == 0 and tile.columns > 1 and roles.row != problem.rank - 1:
                continue
            else:
                width = tile.columns * row.R
                sums = groups_in_flight(roll.roll) * roll.R * width
                reason = legal(tile, problem, roll.taps * row.taps, sums, tile.columns)
                if reason is None:
                    return Choice(loop, roll, row, roles, tile)
                reasons.append(reason)
    return reasons[-1]


@lru_cache(maxsize=4096)
def plan_gather(problem: ConvProblem, x_strides: Strides, w_strides: Strides, y_strides: Strides) -> GatherPlan:
    """How `gather` computes an fprop or dgrad.

    x is the tensor that is gathered from, y the result: of fprop as they are called, of dgrad the other way round.
    """
    p, itemsize, last = problem, problem.dtype.itemsize, problem.channels_last
    transposed = p.face == "dgrad"
    inputs, outputs = (p.output, p.input) if transposed else (p.input, p.output)
    c_in, c_out = (p.k, p.c) if transposed else (p.c, p.k)
    contiguous = 1 if last else p.rank + 1  # the axis that vectors run along

    def unit_of(strides: Strides, channels: int, sizes: tuple[int, ...]) -> int:
        others = [axis for axis in range(p.rank + 2) if axis != contiguous]
        shape = (p.n, channels, *sizes)
        return unit([strides[axis] for axis in others], [shape[axis] for axis in others], itemsize)

    x_unit, y_unit = unit_of(x_strides, c_in, inputs), unit_of(y_strides, c_out, outputs)
    choice = choose_gather(p, x_unit if x_strides[contiguous] == 1 else 1)
    assert not isinstance(choice, str), choice
    loop, roll, row, tile = choice.loop, choice.roll, choice.row, choice.tile
    if not last and choice.roles.row != p.rank - 1:
        x_unit = y_unit = 1

    def by_role(strides: Strides, divisor: int) -> tuple[int, ...]:
        """Strides of n, c, loop, roll and row, all but that of the contiguous axis divided."""
        axes = [0, 1, *(None if r is None else r + 2 for r in choice.roles)]
        return tuple(0 if axis is None else strides[axis] // (1 if axis == contiguous else divisor) for axis in axes)

    w_k, _, *w_space = w_strides
    multiplier = p.k // p.c
    w_roles = [0 if r is None else w_space[r] for r in choice.roles]
    w_start = 0
    if transposed:
        w_start = sum(s * (a.taps - 1) for s, a in zip(w_roles, (loop, roll, row), strict=True))
        w_roles = [-s for s in w_roles]

    chunk = 1 if last else tile.columns
    width = tile.columns * row.R
    threads = 32 * tile.warps
    channels = min(threads, triton.next_power_of_2(triton.cdiv(c_out, tile.channels))) * tile.channels if last else 1
    lanes = threads * max(tile.channels, 1) // channels
    channel_blocks = triton.cdiv(c_out, channels) if last else 1
    column_blocks = triton.cdiv(row.output, width)
    planes = p.n * loop.output * roll.residues * (1 if last else c_out)
    rows = rows_of_a_strip(tile, p, roll.groups, planes * column_blocks * channel_blocks * (channels if last else 1))
    strips = triton.cdiv(roll.groups, rows)
    lines = planes * strips * column_blocks
    sources = multiplier if transposed else 1
    taps = roll.taps * row.taps
    arguments = (
        by_role(x_strides, x_unit), (w_k, *w_roles), w_start, by_role(y_strides, y_unit),
        lines, c_out, channel_blocks, column_blocks, strips, rows, 1 if transposed else multiplier,
        (loop.input, loop.output, loop.S, loop.D, loop.P, loop.R),
        (roll.input, roll.output, roll.S, roll.D, roll.P, roll.residues, -roll.P % roll.R, pow(roll.D, -1, roll.R) if roll.R > 1 else 0),
        (row.input, row.output),
    )  # fmt: skip
    constants = {
        "X_UNIT": x_unit, "Y_UNIT": y_unit, "CHANNELS_LAST": last, "WIDE": lines + lanes >= 2**31,
        "SOURCES": sources, "LOOPED": choice.roles.loop is not None, "LOOP_TAPS": loop.taps,
        "ROLL": roll.roll, "ROW": (row.S, row.D, row.P, row.R, row.taps),
        "V": chunk, "WIDTH": width, "BQ": lanes, "BC": channels,
        "HOLD": legal(tile, p, sources * loop.taps * taps, groups_in_flight(roll.roll) * roll.R * width, 1) is None,
        "WHOLE_IN": row.input % chunk == 0, "WHOLE_OUT": row.output % chunk == 0,
        "ACC": tl.float64 if p.dtype == torch.float64 else tl.float32,
    }  # fmt: skip
    return GatherPlan(triton.cdiv(lines, lanes) * channel_blocks, arguments, constants, tile.warps)
