"""Tiles of a matrix product: what one block computes, as data, and the one function that says whether it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convext.problem import ConvProblem

# Shared memory that one block may have, in bytes, and multiprocessors of the largest device, by architecture. Under
# the interpreter (0) there is neither; numbers that never bind stand in.
SHARED_MEMORY = {0: 1 << 30, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
MULTIPROCESSORS = {0: 4, 80: 108, 86: 84, 89: 142, 90: 132, 100: 148, 120: 188}


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


def legal(tile: Tile, problem: ConvProblem) -> str | None:
    """None where a block can hold `tile`, else one sentence with the numbers in it."""
    itemsize = problem.dtype.itemsize
    accumulators = tile.rows * tile.columns * max(4, itemsize) // (4 * 32 * tile.warps)
    if accumulators > 128:
        return f"{tile} keeps {accumulators} accumulators a thread in registers, of 128 that do not spill"
    memory, limit = tile.shared_memory(itemsize), SHARED_MEMORY[known(SHARED_MEMORY, problem.arch)]
    if memory > limit:
        return f"{tile} takes {memory:,} bytes of shared memory, and a block has {limit:,}"
    return None


def fitting(tiles: Sequence[Tile], problem: ConvProblem, rows: int, columns: int) -> list[Tile]:
    """The legal tiles that are less than twice a result of `rows` x `columns` each way; where none is, the last."""
    return [
        tile
        for tile in tiles
        if legal(tile, problem) is None and tile.rows < max(2 * rows, 17) and tile.columns < max(2 * columns, 17)
    ] or [tiles[-1]]


def first_that_fills(tiles: Sequence[Tile], problem: ConvProblem, rows: int, columns: int, batch: int = 1) -> Tile:
    """The first tile that fits `batch` results of `rows` x `columns` and gives each multiprocessor a block.

    Where none fills the device, the last that fits.
    """
    candidates = fitting(tiles, problem, rows, columns)
    for tile in candidates:
        if batch * -(-rows // tile.rows) * -(-columns // tile.columns) >= multiprocessors(problem):
            return tile
    return candidates[-1]


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
