"""Which axis plays which role in a stencil kernel, and with which tile.

A stencil kernel treats up to three spatial axes differently:

    row    its columns are what a lane holds in registers: any stride, dilation and padding, but every tap is unrolled
    roll   the lane slides along it, with the rows that are not complete yet in registers
    loop   its taps are a loop: any number of them, but each reads its input again

Whoever has fewer axes has a trivial one in the other roles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from convext.problem import ConvProblem
from convext.triton_kernels.tiles import known, multiprocessors


@dataclass(frozen=True)
class Axis:
    """One axis of a gather: `R * i = o * S + t * D - P`, with one of S and R equal to one."""

    input: int = 1
    output: int = 1
    taps: int = 1
    S: int = 1
    D: int = 1
    P: int = 0
    R: int = 1

    @property
    def residues(self) -> int:
        """The classes of outputs that read inputs D apart, as an undilated problem would."""
        return self.D // math.gcd(self.D, self.S)

    @property
    def rolls(self) -> bool:
        """Whether residue classes have the same taps: not where a dgrad's dilation and stride share a factor."""
        return math.gcd(self.D, self.R) == 1

    @property
    def roll(self) -> tuple[int, int, int]:
        """(taps, S, R) of one residue class."""
        return self.taps, self.S // math.gcd(self.D, self.S), self.R

    @property
    def groups(self) -> int:
        """Groups of R outputs in one residue class, with one more for those before the tensor."""
        return -(-((self.output - 1) // self.residues + self.R) // self.R)


def gather_axes(problem: ConvProblem) -> list[Axis]:
    """The axes of the gather that `problem` is, or, for wgrad, the one whose products it sums.

    The gather of dgrad reads y and counts its taps from the last. In wgrad inputs that no output reads are left out:
    there, unlike in fprop, what a tap meets beyond the last output is multiplied by zero, not dropped.
    """
    axes = []
    for i, o, k, s, p, d in zip(
        problem.input, problem.output, problem.kernel, problem.stride, problem.pad, problem.dilation, strict=True
    ):
        if problem.face == "dgrad":
            axes.append(Axis(o, i, k, 1, d, (k - 1) * d - p, s))
        elif problem.face == "wgrad":
            axes.append(Axis(max(min(i, (o - 1) * s + (k - 1) * d + 1 - p), 0), o, k, s, d, p, 1))
        else:
            axes.append(Axis(i, o, k, s, d, p, 1))
    return axes


@dataclass(frozen=True)
class Roles:
    """Indices of the spatial axes in each role, or None."""

    loop: int | None
    roll: int | None
    row: int | None

    def __iter__(self) -> Iterator[int | None]:
        return iter((self.loop, self.roll, self.row))


def assignments(rank: int, channels_last: bool) -> list[Roles]:
    """Every way to give the axes roles, the best first: rows are of the last axis, which is contiguous in NCHW.

    One axis is a row in NHWC as well: on an H200 four taps take 143 us so, and 216 sliding (tiles_sm_90.jsonl).
    """
    if rank == 1:
        return [Roles(None, None, 0), *[Roles(None, 0, None)] * channels_last, Roles(0, None, None)]
    if rank == 2:
        return [Roles(None, 0, 1), Roles(0, None, 1), Roles(1, 0, None), Roles(None, 1, 0), Roles(1, None, 0)]
    return sorted((Roles(*p) for p in permutations(range(3))), key=lambda r: (r.row != 2, r.loop))  # type: ignore[arg-type,return-value]


@dataclass(frozen=True)
class Tile:
    """What one lane holds, and how far it slides.

    Attributes:
        columns: of a lane, before a dgrad's stride multiplies them: in NCHW at most 16 bytes of them.
        channels: of one thread in NHWC, at most 16 bytes; 0 marks a tile for NCHW.
        rows: groups of rows that a lane slides down at most.
        warps: of a program.
    """

    columns: int
    channels: int
    rows: int
    warps: int


# The first legal tile is taken: the widest. In NHWC that has two channels, which in 16 bits are one load of 4 bytes: on
# an H200 [8, 2] takes 0.85 times as long as [4, 4] for 3x3 taps, 0.66 for four taps in 1-D (tiles_sm_90.jsonl).
NCHW = tuple(Tile(columns, 0, 64, 4) for columns in (8, 4, 2, 1))
NHWC = tuple(
    Tile(columns, channels, 32, 4)
    for columns, channels in ((8, 2), (4, 2), (2, 4), (2, 2), (4, 1), (2, 1), (1, 8), (1, 4), (1, 2), (1, 1))
)
TILES: dict[int, tuple[Tile, ...]] = {80: NCHW + NHWC}

# Most chunks of columns, as wide as rows are aligned, that a lane holds in NCHW; and in a gather that slides.
CHUNKS, CHUNKS_SLID = 4, 2
# 32-bit registers for taps and columns in flight, of a thread's 255. Addresses and the row at hand take the rest.
REGISTERS = 128
# And of a gather whose step reads one column, and so has nothing else to hold; or, in NHWC, reads its taps again.
ALONE, RELOADED = 176, 80
# And of a weight gradient, which keeps two places in memory, and where its sums go.
SUMMED = 124
# Of these, columns of a window of more than LONG rows that a weight gradient may roll: no arithmetic moves them on, and
# ptxas copies long chains of them by way of as many registers again.
LONG, ROLLED = 11, 28
# Taps of a row in NHWC, where each column is a load of its own, and ptxas has them all on their way at once.
LONGEST_ROW = 80
# Columns of a lane at most with a stride, which spreads those of x, and of a weight gradient in NHWC.
STRIDED = 4
# Products that a step unrolls, for one channel: beyond, code is larger than the instruction cache.
PRODUCTS = 512


def tiles(problem: ConvProblem, columns: int, aligned: int) -> list[Tile]:
    """The tiles of the problem's architecture and layout that are no wider than a row.

    In NCHW a lane loads its columns in chunks of `aligned` elements, and its neighbour's lie beside them: with many of
    them, each access of a warp would touch more lines of the L1 cache than that delivers in time.

    In NHWC several channels of a thread lie side by side in x as they do in y. With a channel multiplier m they do not,
    since x has one for m of y: Triton would lay the two out differently, and exchange one through shared memory.

    Args:
        columns: of an output row.
        aligned: elements that the rows of an NCHW tensor are aligned to.
    """
    widest = 1 << (columns - 1).bit_length()
    if max(problem.stride) > 1 or (problem.channels_last and problem.face == "wgrad"):
        widest = min(widest, STRIDED)
    if not problem.channels_last:
        chunks = CHUNKS_SLID if problem.rank > 1 and problem.face != "wgrad" else CHUNKS
        widest = min(widest, chunks * aligned, 16 // problem.dtype.itemsize)
    return [
        tile
        for tile in TILES[known(TILES, problem.arch)]
        if (tile.channels > 0) == problem.channels_last
        and tile.columns <= widest
        and tile.channels * problem.dtype.itemsize <= 16
        and (tile.channels <= 1 or problem.k == problem.c)
    ]


def legal(
    tile: Tile, problem: ConvProblem, taps: int, columns: int, in_flight: int, most: int = REGISTERS
) -> str | None:
    """None where a thread can hold what a tile needs, else why not.

    Args:
        taps: that registers hold, or sums over outputs for each of them.
        columns: that a step multiplies with each tap.
        in_flight: columns of all rows that are in registers.
        most: registers for these.
    """
    words = max(problem.dtype.itemsize, 4) // 4
    registers = (taps + in_flight) * max(tile.channels, 1) * words
    most = min(most, SUMMED) if problem.face == "wgrad" else most
    if registers > most:
        return f"{tile} needs {registers} registers for {taps} taps and {in_flight} columns, of {most}"
    rolled = in_flight * max(tile.channels, 1) * words
    if problem.face == "wgrad" and in_flight > LONG * columns and rolled > ROLLED:
        return (
            f"{tile} rolls {in_flight // columns} rows of {columns} columns, and a weight gradient {ROLLED} registers"
        )
    if taps * columns > PRODUCTS:
        return f"{tile} unrolls {taps * columns} products a step, of {PRODUCTS}"
    return None


def rows_of_a_strip(tile: Tile, problem: ConvProblem, groups: int, taps: int, in_flight: int, threads: int) -> int:
    """Groups of rows that a lane slides down: as many as leave 512 threads for each multiprocessor, evenly split.

    A gather in NCHW has a third more of them than taps, as a power of two: then loads of many short strips are on
    their way at once, and the rows that neighbours read too come from the L2. On an H200, 3x3 taps on 56x56: 42 us in
    strips of 4 rows, 50 in strips of 29; 7x7 taps: 81 us in strips of 16, 130 of 4, 85 of 56 (tiles_sm_90.jsonl).

    Args:
        groups: of rows that there are.
        taps: along the lane's way.
        in_flight: groups that a strip's first row waits for: shorter strips would mostly wait.
        threads: that the problem has where each slides down one strip of all rows.
    """
    rows = min(tile.rows, groups)
    if problem.face != "wgrad" and not problem.channels_last:
        rows = min(rows, 1 << (-(-4 * taps // 3) - 1).bit_length())
    while rows >= 2 * in_flight and threads * -(-groups // rows) < 512 * multiprocessors(problem):
        rows //= 2
    return -(-groups // -(-groups // rows))


def unit(strides: Sequence[int], sizes: Sequence[int], itemsize: int) -> int:
    """The largest power of two, up to 16 bytes of elements, that divides the strides of axes longer than one."""
    common = math.gcd(16 // itemsize, *(s for s, size in zip(strides, sizes, strict=True) if size > 1))
    return common & -common
