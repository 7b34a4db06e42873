"""Tiles of a matrix product: what one block computes, as data, and the one function that says whether it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from convext.problem import ConvProblem

# Shared memory that one block may have, in bytes, and multiprocessors of the largest device, by architecture. Under
# the interpreter (0) there is neither; numbers that never bind stand in.
SHARED_MEMORY = {0: 1 << 30, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
MULTIPROCESSORS = {0: 4, 80: 108, 86: 84, 89: 142, 90: 132, 100: 148, 120: 188}

# Sums of a thread beside a residual, which takes registers on its way, as do the places where its elements lie; and of
# one that moves fewer than four elements, or 16 bytes of them, at a time.
BESIDE, BESIDE_NARROW = 64, 32

# Images for which tiles are chosen: any other number takes one of these, since a kernel is compiled for its tile.
BATCHES = (1, 8, 64)


def known(table: Mapping[int, object], arch: int) -> int:
    """The newest architecture of `table` that is no newer than `arch`."""
    return max((known for known in table if known <= arch), default=min(table))


@dataclass(frozen=True)
class Tile:
    """`[rows, depth] x [depth, columns]`, accumulated in registers.

    Attributes:
        rows, columns: of the result.
        depth: bytes of each row and column that one step multiplies: 128 is a line of memory.
        warps, stages: of the block, and of its software pipeline.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def steps(self, itemsize: int) -> int:
        """Elements of each row and column that one step multiplies; `tl.dot` takes no fewer than 16."""
        return max(16, self.depth // itemsize)

    def shared_memory(self, itemsize: int) -> int:
        """Bytes of the pipeline's buffers."""
        return self.stages * (self.rows + self.columns) * self.steps(itemsize) * itemsize


def legal(tile: Tile, problem: ConvProblem, narrow: bool = False, axes: int = 1, beside: bool = False) -> str | None:
    """None where a block can hold `tile`, else one sentence with the numbers in it.

    `narrow` where an operand or the result moves in less than four elements, or 16 bytes of them, at a time: their
    addresses and masks take registers too. So do the indices on `axes` of pixels that a sum goes over, and what is read
    `beside` the sums, a residual.
    """
    itemsize = problem.dtype.itemsize
    accumulators = tile.rows * tile.columns * max(4, itemsize) // (4 * 32 * tile.warps)
    # Three TF32 products, and FMAs, have their operands in registers too.
    through_registers = problem.dtype == torch.float32 and problem.precision != "tf32"
    most = (64 if through_registers else 128) // (2 if narrow else 1)
    if narrow and axes > 3:
        most = min(most, 32)
    if beside:
        most = min(most, BESIDE_NARROW if narrow else BESIDE)
    if accumulators > most:
        return f"{tile} keeps {accumulators} accumulators in a thread's registers, and more than {most} spill"
    copies = (tile.rows + tile.columns) * tile.steps(itemsize) // (32 * tile.warps)
    if narrow and copies > 64:
        return f"{tile} copies up to {copies} elements one by one in a thread's step, and more than 64 spill"
    memory, limit = tile.shared_memory(itemsize), SHARED_MEMORY[known(SHARED_MEMORY, problem.arch)]
    if memory > limit:
        return f"{tile} takes {memory:,} bytes of shared memory, and a block has {limit:,}"
    return None


def fitting(
    tiles: Sequence[Tile], problem: ConvProblem, rows: int, columns: int, depth: int, narrow: bool, axes: int = 1,
    beside: bool = False,
) -> list[Tile]:  # fmt: skip
    """The legal tiles that suit a result of `rows` x `columns` summed over `depth`; where none does, the last.

    A tile is less than twice the result each way. One that has a multiprocessor to itself, with more than 128 x 128
    accumulators, hides its loads and its stores behind its own sum only, and wants at least 8 steps of it.
    """
    return [
        tile
        for tile in tiles
        if legal(tile, problem, narrow, axes, beside) is None
        and tile.rows < max(2 * rows, 17)
        and tile.columns < max(2 * columns, 17)
        and (tile.rows * tile.columns <= 128 * 128 or depth >= 8 * tile.steps(problem.dtype.itemsize))
    ] or [tiles[-1]]


def first_that_fills(
    tiles: Sequence[Tile], problem: ConvProblem, rows: int, pixels: int, depth: int, narrow: bool, beside: bool = False
) -> Tile:
    """The first of the tiles for some numbers of images that gives each multiprocessor a block: see `BATCHES`.

    Where none fills the device, the last. For each group and image `rows` x `pixels` are summed over `depth`.
    """

    def candidates(images: int) -> Sequence[Tile]:
        return fitting(tiles, problem, rows, images * pixels, depth, narrow, beside=beside)

    def first(tiles: Sequence[Tile], images: int) -> Tile:
        for tile in tiles:
            blocks = problem.groups * -(-rows // tile.rows) * -(-images * pixels // tile.columns)
            if blocks >= multiprocessors(problem):
                return tile
        return tiles[-1]

    few = {first(candidates(images), images) for images in BATCHES}
    return first([tile for tile in tiles if tile in few], problem.n)


def split(problem: ConvProblem, count: int, step: int, blocks: int) -> tuple[int, int]:
    """How to split a sum over `count` terms, `step` at a time, where `blocks` blocks would each add them all.

    Returns the terms of each part, a multiple of `step`, and the number of parts: as many as give each multiprocessor
    two blocks, and none of fewer than four steps.
    """
    parts = min(-(-2 * multiprocessors(problem) // blocks), -(-count // (4 * step)))
    share = -(-count // (parts * step)) * step
    return share, -(-count // share)


def multiprocessors(problem: ConvProblem) -> int:
    """Of the largest device of the problem's architecture."""
    return MULTIPROCESSORS[known(MULTIPROCESSORS, problem.arch)]
