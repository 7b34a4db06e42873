"""Patches, windows and tiles of the banded products, and which tile a problem gets: a modelled cost, never timed.

A window begins where vectors of `unit` elements do, so that it can be loaded in them:

          <--------- lead: the padding, rounded up --------->
                                                            first column of the patch
          <- shift -><------------ kw ------------>         |
          [  . . . ][     what column 0 reads      ] . . . . . . . . . . . . . ]
          [  . . . . . . . . . [ what column BW - 1 reads        ] . . . . . . ]   WINDOW: a power of two that holds all
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from convext.problem import ConvProblem
from convext.triton_kernels.igemm.tiles import LOAD, Box, covered, cube
from convext.triton_kernels.stencil.plan import Axis, gather_axes
from convext.triton_kernels.tiles import BESIDE, BESIDE_NARROW, Tile, known, multiprocessors, split
from convext.triton_kernels.tiles import legal as legal_product


@dataclass(frozen=True)
class BandTile:
    """What one step of a program multiplies.

    Attributes:
        rows, columns: of the patches that outputs are cut into.
        patches: of one program in fprop and dgrad, of one step in wgrad.
        warps, stages: of the block, and of its software pipeline.
        window_rows: that one program of wgrad sums over; 1 in fprop and dgrad, where each step takes one.
    """

    rows: int
    columns: int
    patches: int
    warps: int
    stages: int
    window_rows: int = 1


# For images (fprop, dgrad) and for weights (wgrad). Products of float32 are three of TF32 each, which take fewer
# instructions than FMAs only where operands need no registers: WGMMA, in 9.0. 12.0 multiplies as 8.0 does.
TILES: dict[int, dict[str, tuple[BandTile, ...]]] = {
    0: {
        "image": (BandTile(4, 16, 16, 4, 1), BandTile(2, 32, 16, 4, 1)),
        "weight": (BandTile(4, 16, 16, 4, 1, 2), BandTile(2, 32, 16, 4, 1, 1)),
    },
    80: {
        "image": (BandTile(4, 32, 128, 4, 2), BandTile(4, 16, 128, 4, 3), BandTile(4, 16, 64, 4, 3)),
        "weight": (
            BandTile(4, 32, 64, 8, 3, 2),
            BandTile(4, 32, 64, 8, 3, 1),
            BandTile(4, 16, 64, 4, 2, 4),
            BandTile(4, 16, 64, 4, 2, 2),
            BandTile(4, 32, 32, 8, 3, 2),
            BandTile(4, 16, 32, 4, 3, 1),
        ),
    },
    90: {
        "image": (BandTile(4, 32, 128, 4, 3), BandTile(4, 16, 128, 4, 3), BandTile(4, 16, 64, 4, 3)),
        "weight": (
            BandTile(4, 32, 64, 4, 3, 2),
            BandTile(4, 32, 64, 4, 3, 1),
            BandTile(4, 16, 64, 4, 3, 4),
            BandTile(4, 16, 64, 4, 3, 2),
            BandTile(4, 32, 32, 8, 3, 2),
            BandTile(4, 16, 32, 4, 3, 1),
        ),
        "image float32": (BandTile(4, 32, 128, 8, 2), BandTile(4, 16, 128, 4, 3), BandTile(4, 16, 64, 4, 2)),
        "weight float32": (
            BandTile(4, 32, 32, 8, 2, 2),
            BandTile(4, 16, 32, 8, 2, 4),
            BandTile(4, 16, 32, 4, 2, 2),
            BandTile(4, 16, 32, 4, 2, 1),
        ),
    },
}
TILES[120] = TILES[80]


@dataclass(frozen=True)
class Plan:
    """A tile for windows of `window` columns, which begin `lead` columns, a multiple of `unit`, before their patch."""

    problem: ConvProblem
    tile: BandTile
    unit: int

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Rows and columns of the gather that the problem is, or that wgrad sums over."""
        rows, columns = gather_axes(self.problem)
        return rows, columns

    @property
    def lead(self) -> int:
        return -(-self.axes[1].P // self.unit) * self.unit

    @property
    def shift(self) -> int:
        """Column a of a window meets column b of its patch through tap a - b - shift."""
        return self.lead - self.axes[1].P

    @property
    def window(self) -> int:
        used = self.shift + self.tile.columns - 1 + self.axes[1].taps
        return max(16, 1 << (used - 1).bit_length())

    @property
    def window_rows(self) -> int:
        """Rows of a window."""
        return self.axes[0].taps + self.tile.rows - 1

    @property
    def band_shape(self) -> tuple[int, int, int, int]:
        """Of the bands of w: each row's, and as many empty ones on both sides as a patch has rows to shift by."""
        kh, tile = self.axes[0].taps, self.tile
        return (self.problem.c, kh + 2 * (tile.rows - 1), tile.columns, self.window)

    @property
    def patches(self) -> tuple[int, int, int, int]:
        """(images, 1, rows of patches, columns of patches) of one channel: four axes, as a `Box` has."""
        rows, columns = self.axes
        return (self.problem.n, 1, -(-rows.output // self.tile.rows), -(-columns.output // self.tile.columns))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part of `patches` that one step multiplies."""
        return _box(self.patches, self.tile)

    @property
    def boxes(self) -> int:
        """Of one channel."""
        return math.prod(-(-size // side) for size, side in zip(self.patches, self.box, strict=True))

    @property
    def row_blocks(self) -> int:
        """Programs of wgrad that share the rows of a window."""
        return -(-self.window_rows // self.tile.window_rows)

    @property
    def share(self) -> tuple[int, int]:
        """(boxes of one program, programs that share those of a channel) in wgrad."""
        return split(self.problem, self.boxes, 1, self.problem.c * self.row_blocks)

    @property
    def warps(self) -> int:
        """The tile's; 8 where loads are narrow, whose masks take registers, or float32 windows wide, as operands do."""
        itemsize = self.problem.dtype.itemsize
        narrow, wide = self.unit < (8 if itemsize == 2 else 2), itemsize > 2 and self.window > 64
        return 8 if narrow or wide else self.tile.warps

    @property
    def crowded(self) -> bool:
        """Whether a thread of narrow loads has more sums than leave registers for a residual beside them."""
        narrow = self.unit * self.problem.dtype.itemsize < 16
        return narrow and self.product.rows * self.product.columns > BESIDE_NARROW * 32 * self.warps

    @property
    def warps_beside(self) -> int:
        """With a residual: as many as leave registers for it, up to 8."""
        return 8 if self.product.rows * self.product.columns > BESIDE * 32 * self.warps else self.warps

    @property
    def product(self) -> Tile:
        """One step as a matrix product."""
        tile, itemsize, outputs = self.tile, self.problem.dtype.itemsize, self.tile.rows * self.tile.columns
        if self.problem.face == "wgrad":
            return Tile(tile.window_rows * self.window, outputs, tile.patches * itemsize, self.warps, tile.stages)
        return Tile(tile.patches, outputs, self.window * itemsize, self.warps, tile.stages)

    @property
    def cost(self) -> int:
        """Of the busiest multiprocessor: each step's multiply-adds, and its operands' way to shared memory."""
        problem, product = self.problem, self.product
        wgrad = problem.face == "wgrad"
        blocks, steps = problem.c * self.boxes, self.window_rows
        if wgrad:
            trips, parts = self.share
            blocks, steps = problem.c * self.row_blocks * parts, trips
        step = product.rows * product.columns + LOAD * (product.rows + product.columns)
        waves = -(-blocks // multiprocessors(problem))
        return waves * steps * product.steps(problem.dtype.itemsize) * step


@lru_cache(maxsize=4096)
def _box(patches: Box, tile: BandTile) -> Box:
    """The part of `patches` that one step multiplies: of 8 images where that wastes next to nothing, nearly square.

    As with `best_box`, there are few boxes, since a kernel is compiled for its own.
    """
    cell = 1 << 30, tile.rows, tile.columns  # the first axis has one patch: it is never doubled
    boxes = [(n, *cube(patches[1:], tile.patches // n, cell)) for n in (8, 1, 32, 64) if n <= tile.patches]
    least = min(covered(patches, box) for box in boxes)
    return next(box for box in boxes if covered(patches, box) <= 1.1 * least)


def legal(plan: Plan) -> str | None:
    """None where a block can hold what a step of `plan` multiplies, else one sentence with the numbers in it."""
    problem, product = plan.problem, plan.product
    if problem.face == "wgrad" and product.rows > 128:
        return f"{plan.tile} sums {product.rows} columns of windows, whose diagonals spill beyond 128"
    if problem.dtype.itemsize == 2 and plan.unit == 1:
        # No asynchronous copy is that small: a step's elements pass through registers, one by one.
        sides = product.rows + (product.columns if problem.face == "wgrad" else 0)
        held = sides * product.steps(2) // (32 * product.warps)
        if held > 32:
            return f"{plan.tile} holds {held} elements of each step in a thread's registers, and more than 32 spill"
    return legal_product(product, replace(problem, precision="tf32x3"))


@lru_cache(maxsize=4096)
def choose(problem: ConvProblem, unit: int, beside: bool = False) -> Plan | None:
    """The legal plan with the least cost, the earlier in the table between equals, or None where no tile is legal.

    One that has room for a residual beside its sums, where there is one.

    Args:
        problem: what is computed; not empty.
        unit: elements that rows of the image that windows are of are aligned to.
    """
    table, kind = TILES[known(TILES, problem.arch)], "weight" if problem.face == "wgrad" else "image"
    tiles = table.get(f"{kind} float32", table[kind]) if problem.dtype == torch.float32 else table[kind]
    plans = [plan for plan in (Plan(problem, tile, unit) for tile in tiles) if legal(plan) is None]
    roomy = [plan for plan in plans if beside and not plan.crowded]
    return min(roomy or plans, key=lambda plan: plan.cost, default=None)
