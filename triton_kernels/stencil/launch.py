"""From a problem and its strides to the launches of the stencil kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from convext.problem import ConvProblem
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.stencil.image import groups_in_flight
from convext.triton_kernels.stencil.plan import (
    ALONE,
    LONGEST_ROW,
    REGISTERS,
    RELOADED,
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
from convext.triton_kernels.tiles import multiprocessors

Strides = tuple[int, ...]

# Of a lane in NHWC whose threads have several, at most: two sectors of memory in 16 bits. Of 72 or 144 channels few are
# padding then, and a program's lanes are neighbours along a row, which read the same columns.
CHANNELS = 32


@dataclass(frozen=True)
class Choice:
    """The axes in their roles, and the tile."""

    roles: Roles
    loop: Axis
    roll: Axis
    row: Axis
    tile: Tile

    @property
    def width(self) -> int:
        """Columns of a lane."""
        return self.tile.columns * self.row.R

    @property
    def taps(self) -> int:
        """Taps of a plane: those that registers hold."""
        return self.roll.taps * self.row.taps

    @property
    def columns_in_flight(self) -> int:
        """Columns of every row of y that a lane has in registers: sums of a gather, factors of a weight gradient."""
        return groups_in_flight(self.roll.roll) * self.roll.R * self.width

    def legal(self, problem: ConvProblem, planes: int = 1, columns: int = 1, most: int = REGISTERS) -> str | None:
        """`plan.legal` with the taps of `planes`. Most registers are for where a step of a thread reads one column."""
        sources = problem.k // problem.c if problem.face == "dgrad" else 1
        if self.loop.taps * self.row.taps * self.width * max(self.tile.channels, 1) * sources == 1:
            most = ALONE
        return legal(self.tile, problem, planes * self.taps, columns, self.columns_in_flight, most)


@lru_cache(maxsize=4096)
def choose(problem: ConvProblem, aligned: int = 1) -> Choice | str:
    """The first roles and tile that are legal, those that hold all taps before others; or why there are none.

    `aligned` is the number of elements that rows of the tensors are aligned to, for the chunks of NCHW.
    """
    axes, reason = gather_axes(problem), "no tile"
    legal_choice = None
    for roles in assignments(problem.rank, problem.channels_last):
        loop, roll, row = (Axis() if r is None else axes[r] for r in roles)
        if not roll.rolls:
            reason = f"dilation {roll.D} and stride {roll.R} of axis {roles.roll} share a factor"
            continue
        if problem.channels_last and row.taps > LONGEST_ROW:
            reason = f"{row.taps} taps of a row, of {LONGEST_ROW} where channels are last"
            continue
        for tile in tiles(problem, row.output, aligned if roles.row == problem.rank - 1 else 1):
            choice = Choice(roles, loop, roll, row, tile)
            refusal = choice.legal(problem, 1, tile.columns)
            if refusal is not None:
                reason = refusal
            elif problem.face == "wgrad" or holds_all_taps(problem, choice):
                return choice
            elif not problem.channels_last or choice.legal(problem, most=RELOADED) is None:
                legal_choice = legal_choice or choice
    return legal_choice or reason


def holds_all_taps(problem: ConvProblem, choice: Choice) -> bool:
    """Whether the taps of every plane that an output gathers from fit in registers, not only those of one."""
    planes = choice.loop.taps * (problem.k // problem.c if problem.face == "dgrad" else 1)
    return choice.legal(problem, planes) is None


@dataclass(frozen=True)
class Walk:
    """What both kernels are told about x (what is gathered from) and y (what it is gathered to).

    Attributes:
        choice: roles and tile.
        x_strides, y_strides: of (n, c, loop, roll, row), divided as `in_elements` multiplies.
        lines, lanes: lanes with work; lanes of one program.
        channels: channels of y, in NHWC in units of Y_UNIT.
        channel_blocks, column_blocks, strips, rows: how these, rows of y and its columns are split.
        axes: sizes and equations of loop, roll and row.
        constants: constexprs.
    """

    choice: Choice
    x_strides: Strides
    y_strides: Strides
    lines: int
    lanes: int
    channels: int
    channel_blocks: int
    column_blocks: int
    strips: int
    rows: int
    axes: tuple[int | Strides, ...]
    constants: dict[str, Any]

    @property
    def steps(self) -> int:
        """Of a lane down its strip."""
        return self.rows + groups_in_flight(self.choice.roll.roll) - 1

    @property
    def outputs(self) -> int:
        """Elements of y in a program's strips."""
        return self.lanes * self.constants["BC"] * self.choice.width * self.rows * self.choice.roll.R


def _walk(p: ConvProblem, x_shape: Strides, x_strides: Strides, y_shape: Strides, y_strides: Strides) -> Walk:
    last, itemsize = p.channels_last, p.dtype.itemsize
    contiguous = 1 if last else p.rank + 1
    others = [axis for axis in range(p.rank + 2) if axis != contiguous]

    def unit_of(shape: Strides, strides: Strides) -> int:
        return unit([strides[axis] for axis in others], [shape[axis] for axis in others], itemsize)

    x_unit, y_unit = unit_of(x_shape, x_strides), unit_of(y_shape, y_strides)
    x_chunk = x_unit if x_strides[contiguous] == 1 else 1
    choice = choose(p, min(x_chunk, y_unit))
    if isinstance(choice, str):
        raise ValueError(choice)
    roles, loop, roll, row, tile = choice.roles, choice.loop, choice.roll, choice.row, choice.tile
    x_unit, y_unit, chunk_in, chunk_out = _vectors(p, choice, x_unit, y_unit, x_chunk, y_shape[1])

    def by_role(strides: Strides, divisor: int) -> Strides:
        axes = [0, 1, *(None if r is None else r + 2 for r in roles)]
        return tuple(0 if a is None else strides[a] // (1 if a == contiguous else divisor) for a in axes)

    threads, c = 32 * tile.warps, y_shape[1]
    channels, lanes = 1, threads
    if last:
        most = CHANNELS if tile.channels > 1 else threads
        channels = min(most, triton.next_power_of_2(triton.cdiv(c, tile.channels)) * tile.channels)
        lanes = threads * tile.channels // channels
    column_blocks, channel_blocks = triton.cdiv(row.output, choice.width), triton.cdiv(c, channels)
    planes = p.n * loop.output * roll.residues
    # In NCHW a lane is a thread, in NHWC a thread takes `tile.channels` channels of it.
    columns = planes * column_blocks * triton.cdiv(c, max(tile.channels, 1))
    rows = rows_of_a_strip(tile, p, roll.groups, roll.taps, groups_in_flight(roll.roll), columns)
    strips = triton.cdiv(roll.groups, rows)
    lines = planes * strips * column_blocks
    axes = (
        loop.input, loop.output, roll.input, roll.output, row.input, row.output,
        (loop.S, loop.D, loop.P, loop.R),
        (
            roll.S, roll.D, roll.P, roll.residues,
            -roll.P % roll.R, pow(roll.D, -1, roll.R) if roll.R > 1 else 0,
        ),
    )  # fmt: skip
    constants = {
        "X_UNIT": x_unit, "Y_UNIT": y_unit, "CHANNELS_LAST": last,
        "LOOPED": roles.loop is not None, "LOOP_TAPS": loop.taps,
        "ROLL": roll.roll, "ROW": (row.S, row.D, row.P, row.R, row.taps),
        "X_V": chunk_in, "Y_V": chunk_out, "WIDTH": choice.width, "BQ": lanes, "BC": channels,
        "X_WHOLE": row.input % chunk_in == 0, "Y_WHOLE": row.output % chunk_out == 0,
        "ACC": tl.float64 if p.dtype == torch.float64 else tl.float32,
    }  # fmt: skip
    return Walk(
        choice, by_role(x_strides, x_unit), by_role(y_strides, y_unit), lines, lanes, c // y_unit if last else c,
        channel_blocks, column_blocks, strips, rows, axes, constants,
    )  # fmt: skip


def _vectors(
    p: ConvProblem, choice: Choice, x_unit: int, y_unit: int, x_chunk: int, channels: int
) -> tuple[int, int, int, int]:
    """(X_UNIT, Y_UNIT, X_V, Y_V) of strides that `x_unit` and `y_unit` divide: each a constant, so as few as serve.

    A unit is no larger than the vectors that it proves, and a chunk of y no more than two of x: of what else the sizes
    of images would allow there is little use.
    """
    if p.channels_last:
        x_unit, y_unit = (min(unit, power_of_two(channels), choice.tile.channels) for unit in (x_unit, y_unit))
        return x_unit, y_unit, 1, 1
    if choice.roles.row != p.rank - 1:
        return 1, 1, 1, 1
    chunk_in = min(choice.tile.columns, x_chunk)
    if p.face == "wgrad" and choice.row.S > 1 and chunk_in == 2 and p.dtype.itemsize == 2:
        chunk_in = 1  # two in one load of 4 bytes: LLVM in Triton 3.6 aborts on 5x5 taps (SLPVectorizer.cpp)
    chunk_out = min(choice.width & -choice.width, y_unit, 2 * chunk_in)
    return chunk_in, chunk_out, chunk_in, chunk_out


@dataclass(frozen=True)
class Plan:
    """A kernel's grid, its arguments after its tensors, its constexprs and its tile.

    `parts` of a weight gradient's sums are added later. A program is for `outputs` elements of y, the result of a
    gather and what a weight gradient sums over; its innermost loop makes `trips`, of which the first `filling` of each
    strip complete no row.
    """

    programs: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    tile: Tile
    outputs: int
    trips: int
    filling: int
    parts: int = 1


@lru_cache(maxsize=4096)
def plan_gather(problem: ConvProblem, a_strides: Strides, w_strides: Strides, result_strides: Strides) -> Plan:
    """How `gather` computes an fprop or a dgrad."""
    p, dgrad = problem, problem.face == "dgrad"
    shapes = (p.y_shape, p.x_shape) if dgrad else (p.x_shape, p.y_shape)
    walk = _walk(p, shapes[0], a_strides, shapes[1], result_strides)
    choice, multiplier = walk.choice, p.k // p.c
    sources = multiplier if dgrad else 1
    taps = [0 if r is None else w_strides[r + 2] for r in choice.roles]
    lines = walk.lines if p.channels_last else walk.lines * walk.channels
    channel_blocks = walk.channel_blocks if p.channels_last else 1
    arguments = (
        (w_strides[0], *taps), *walk.x_strides, *walk.y_strides,
        lines, walk.channels, channel_blocks, walk.column_blocks, walk.strips, walk.rows, 1 if dgrad else multiplier,
        *walk.axes,
    )  # fmt: skip
    constants = {
        **walk.constants, "WIDE": lines + walk.lanes >= 2**31, "SOURCES": sources, "REVERSED": dgrad,
        "HOLD": holds_all_taps(p, choice),
    }  # fmt: skip
    planes = 1 if constants["HOLD"] else sources * choice.loop.taps
    return Plan(
        triton.cdiv(lines, walk.lanes) * channel_blocks, arguments, constants, choice.tile, walk.outputs,
        walk.steps * planes, (walk.steps - walk.rows) * planes,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def plan_wgrad(problem: ConvProblem, x_strides: Strides, y_strides: Strides, w_strides: Strides) -> Plan:
    """How `weight_sums` computes a wgrad: its parts are as many as give each multiprocessor eight programs.

    Partial sums have the channels innermost where programs do: see passes/reduce.py.
    """
    p = problem
    walk = _walk(p, p.x_shape, x_strides, p.y_shape, y_strides)
    choice = walk.choice
    blocks, programs = triton.cdiv(walk.lines, walk.lanes), walk.channel_blocks * choice.loop.taps
    parts = min(blocks, triton.cdiv(8 * multiprocessors(p), programs))
    blocks = triton.cdiv(blocks, parts)
    parts = triton.cdiv(walk.lines, walk.lanes * blocks)
    # Strides of k and of taps; the latter in units, for vectors, where channels are neighbours.
    apart = parts > 1 and p.channels_last
    w_k, scale, w_unit = (1, p.k, walk.constants["Y_UNIT"]) if apart else (w_strides[0], 1, 1)
    taps = [0 if r is None else w_strides[r + 2] * scale // w_unit for r in choice.roles]
    arguments = (
        *walk.x_strides, *walk.y_strides, p.k * p.taps // w_unit, w_k, *taps, walk.lines, blocks,
        walk.channels, walk.channel_blocks, walk.column_blocks, walk.strips, walk.rows, p.k // p.c, *walk.axes,
    )  # fmt: skip
    constants = {**walk.constants, "WIDE": walk.lines + walk.lanes * blocks >= 2**31, "W_UNIT": w_unit}
    return Plan(
        programs * parts, arguments, constants, choice.tile, walk.outputs * blocks,
        walk.steps * blocks, (walk.steps - walk.rows) * blocks, parts,
    )  # fmt: skip
