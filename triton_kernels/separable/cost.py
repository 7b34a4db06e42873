"""What one launch should take, and two: from bytes, instructions and FLOPs, on an H100 (`problem/roofline.py`).

    one    max(memory, L2, (instructions + products) / share of the multiprocessors that have a program)
    two    max(memory, instructions) of the depthwise, max(memory, products) of the pointwise one

    memory         every tensor once; of two launches t too, written by one and read by the other
    L2             x with the halo of each tile, again for each block of output channels; v again for each tile
    instructions   of one launch: elements of t, again for each block of output channels, and of y

A tile's sums and its product take turns, and registers hold few programs of a multiprocessor: their times add up, where
two launches each wait for memory alone. What neither has: the start of a launch, and latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from convext.problem.roofline import H100, ideal_seconds, rate
from convext.problem.separable import SeparableProblem
from convext.triton_kernels.separable.tiles import SeparableTile, reached, tiles_for, width_of
from convext.triton_kernels.tiles import BATCHES, multiprocessors

ISSUE = H100.rates["float32"] / 2  # instructions a second and thread: a multiply-add is one, and two FLOPs
CACHE = 3 * H100.bandwidth  # bytes a second from the L2

# Instructions of a thread, read off the machine code for sm_90 (benchmarks/results/inspect.json): of an element of t
# beside its multiply-adds; of a load, with its address and its mask; of an element of y at the store. The depthwise
# kernel by itself takes about as many an output: 32 of 3x3 taps, 66 of 5x5, 116 of 7x7, channels last.
ELEMENT, LOAD, OUTPUT = 13, 6, 12


@dataclass(frozen=True)
class Prediction:
    """Seconds of one launch and of two, and how often each element of t is computed by the one."""

    one: float
    two: float
    times: int


@lru_cache(maxsize=4096)
def choose(problem: SeparableProblem, vector: int) -> SeparableTile:
    """The tile that should be the fastest for rows of x read in chunks of `vector`: one of those for BATCHES."""

    def best(problem: SeparableProblem, tiles: tuple[SeparableTile, ...]) -> SeparableTile:
        return min(tiles, key=lambda tile: seconds(problem, tile, vector))

    few = [best(_of_batch(problem, n), tiles_for(problem, vector)) for n in BATCHES]
    return best(problem, tuple(few))


def _of_batch(problem: SeparableProblem, n: int) -> SeparableProblem:
    return replace(problem, depthwise=replace(problem.depthwise, n=n), pointwise=replace(problem.pointwise, n=n))


@lru_cache(maxsize=4096)
def predicted(problem: SeparableProblem, vector: int) -> Prediction:
    """Of the tile that `choose` takes."""
    p, y = problem.depthwise, problem.pointwise
    tile = choose(problem, vector)
    stencil = math.prod(p.y_shape) * instructions_of(problem, vector) / ISSUE
    residual = math.prod(y.y_shape) * y.dtype.itemsize * problem.adds / H100.bandwidth
    two = max(ideal_seconds(p, H100), stencil) + ideal_seconds(y, H100) + residual
    return Prediction(seconds(problem, tile, vector), two, -(-y.k // tile.rows))


def seconds(problem: SeparableProblem, tile: SeparableTile, vector: int) -> float:
    """Of one launch with a tile."""
    p, y = problem.depthwise, problem.pointwise
    itemsize, width = p.dtype.itemsize, width_of(problem, vector)
    row_blocks, column_blocks = -(-y.k // tile.rows), -(-p.output[1] // width)
    pixel_blocks = -(-p.n * p.output[0] * column_blocks * width // tile.pixels)
    x, v, out = (math.prod(shape) * itemsize for shape in (p.x_shape, y.w_shape, y.y_shape))
    memory = (x + v + math.prod(p.w_shape) * itemsize + out * (1 + problem.adds)) / H100.bandwidth

    height = max(1.0, tile.pixels / (width * column_blocks))  # rows of a tile
    halo = max(0, (p.kernel[0] - 1) * p.dilation[0] + 1 - p.stride[0]) / (height * p.stride[0])
    cache = ((1 + halo) * x * row_blocks + v * pixel_blocks + out) / CACHE

    programs = pixel_blocks * row_blocks
    places = programs * tile.pixels
    middle = places * tile.channels * -(-p.c // tile.channels)
    instructions = middle * instructions_of(problem, vector) + places * tile.rows * OUTPUT
    products = 2 * middle * tile.rows / rate(y, H100)
    rounds = -(-programs // multiprocessors(p))
    share = programs / (rounds * multiprocessors(p))
    return max(memory, cache, (instructions / ISSUE + products) / share)


def instructions_of(problem: SeparableProblem, vector: int) -> float:
    """Of an element of t: its multiply-adds, the loads of its columns and taps, shared by a lane, and the rest."""
    p, width = problem.depthwise, width_of(problem, vector)
    columns = p.kernel[0] * len(reached(problem, width)) / width
    together = 16 // p.dtype.itemsize if p.channels_last else vector
    taps = p.taps / width * (1 + LOAD / (together if p.channels_last else 1))
    return p.taps + columns * (1 + LOAD / together) + taps + ELEMENT
