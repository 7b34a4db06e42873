"""How large a tile is: what one program keeps in registers, as data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from convext.problem.separable import SeparableProblem
from convext.triton_kernels.tiles import known

WIDEST = 4  # columns of a lane where channels are innermost, or with a stride, which spreads those of x
ROW_TAPS = 7  # on an axis at most
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class SeparableTile:
    """`rows x pixels` of y, summed over middle channels of which a step computes `channels` at these pixels.

    A thread keeps `rows * pixels` accumulators over its 32 * warps, and the sums of one step.
    """

    pixels: int
    channels: int
    rows: int
    warps: int


# By architecture and by how products are formed; "narrow" of rows in NCHW that are read in less than four elements at a
# time, whose addresses and masks take registers. None of these spills. Beyond 256 rows the middle is computed again.
TILES: dict[int, dict[str, tuple[SeparableTile, ...]]] = {
    0: {"any": (SeparableTile(32, 16, 32, 4), SeparableTile(16, 16, 16, 4))},
    80: {
        "any": (
            SeparableTile(64, 64, 256, 8),
            SeparableTile(32, 64, 256, 8),
            SeparableTile(128, 32, 128, 8),
            SeparableTile(32, 64, 128, 4),
            SeparableTile(64, 64, 64, 4),
            SeparableTile(32, 64, 64, 4),
            SeparableTile(128, 32, 32, 8),
            SeparableTile(64, 32, 32, 4),
        ),
        "narrow": (
            SeparableTile(32, 64, 256, 8),
            SeparableTile(32, 64, 128, 4),
            SeparableTile(64, 64, 64, 8),
            SeparableTile(128, 32, 32, 8),
        ),
        "tf32": (SeparableTile(64, 32, 128, 8), SeparableTile(64, 16, 64, 4), SeparableTile(64, 16, 32, 4)),
        "tf32x3": (SeparableTile(64, 32, 128, 8), SeparableTile(64, 16, 64, 4), SeparableTile(64, 16, 32, 4)),
        "ieee": (SeparableTile(64, 16, 64, 4), SeparableTile(32, 32, 32, 4)),
    },
}


def tiles_for(problem: SeparableProblem, vector: int) -> tuple[SeparableTile, ...]:
    """The table's row for a problem whose rows of x are read in chunks of `vector` elements."""
    p = problem.pointwise
    table = TILES[known(TILES, p.arch)]
    kind = "narrow" if vector < 4 and not p.channels_last else "any"
    return table.get(p.precision if p.dtype == torch.float32 else kind, table["any"])


def width_of(problem: SeparableProblem, vector: int) -> int:
    """Columns of a lane, as many as two chunks of `vector` elements, in which the rows of x are read."""
    p = problem.depthwise
    widest = WIDEST if p.channels_last else min(16 // p.dtype.itemsize, 2 * vector)
    if p.stride[1] > 1:
        widest = min(widest, WIDEST)
    return min(widest, 1 << (p.output[1] - 1).bit_length())


def reached(problem: SeparableProblem, width: int) -> Collection[int]:
    """The columns of x that a lane of `width` columns reads."""
    p = problem.depthwise
    return {b * p.stride[1] + t * p.dilation[1] for b in range(width) for t in range(p.kernel[1])}
