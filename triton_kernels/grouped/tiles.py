"""Packs of groups: how many groups make a product, and how large a tile of it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from convext.problem import ConvProblem
from convext.triton_kernels.tiles import known

NARROWEST, WIDEST = 16, 128  # channels that a product takes on each side


@dataclass(frozen=True)
class PackTile:
    """A product of a pack of groups.

    Attributes:
        width: channels of the pack, on the side that has more; a group counts as a power of two.
        pixels: of the result (fprop, dgrad), or of one step (wgrad).
        warps, stages: of the block, and of its software pipeline.
    """

    width: int
    pixels: int
    warps: int
    stages: int


# For packs of a tile's width, and for wider ones. FMAs (float32 in "ieee") have no zeros to spare, so their packs are
# narrow; TF32 products, whose operands are rounded, and float64 keep their operands in registers.
# None of these tiles spills (benchmarks/results/inspect.json).
TILES: dict[int, dict[str, tuple[PackTile, PackTile]]] = {
    0: {
        "image": (PackTile(32, 32, 4, 1), PackTile(32, 16, 4, 1)),
        "weight": (PackTile(32, 32, 4, 1), PackTile(32, 16, 4, 1)),
    },
    80: {
        "image": (PackTile(64, 128, 4, 3), PackTile(64, 64, 4, 3)),
        "weight": (PackTile(64, 64, 4, 3), PackTile(64, 32, 4, 3)),
        "image tf32": (PackTile(32, 128, 4, 2), PackTile(32, 64, 8, 2)),
        "weight tf32": (PackTile(64, 32, 4, 3), PackTile(64, 16, 8, 3)),
        "image tf32x3": (PackTile(32, 64, 4, 2), PackTile(32, 32, 8, 2)),
        "weight tf32x3": (PackTile(32, 32, 4, 2), PackTile(32, 16, 8, 2)),
        "image float64": (PackTile(16, 64, 4, 2), PackTile(16, 32, 8, 2)),
        "weight float64": (PackTile(32, 64, 4, 2), PackTile(32, 32, 8, 2)),
        "image ieee": (PackTile(16, 128, 4, 2), PackTile(16, 64, 8, 2)),
        "weight ieee": (PackTile(16, 64, 4, 3), PackTile(16, 32, 8, 3)),
    },
}
TILES[90] = TILES[80] | {
    "image tf32": (PackTile(32, 128, 4, 3), PackTile(32, 64, 8, 2)),
    "weight tf32": (PackTile(64, 32, 4, 3), PackTile(64, 32, 8, 3)),
    "image float64": (PackTile(32, 64, 4, 2), PackTile(32, 32, 8, 2)),
    "weight float64": (PackTile(32, 32, 4, 2), PackTile(32, 16, 8, 2)),
}
TILES[120] = TILES[80] | {
    "image": (PackTile(64, 128, 4, 2), PackTile(64, 64, 4, 2)),
    "image tf32": (PackTile(32, 128, 8, 1), PackTile(32, 64, 16, 2)),
    "image float64": (PackTile(16, 64, 4, 1), PackTile(16, 32, 8, 1)),
    "weight float64": (PackTile(32, 32, 4, 1), PackTile(32, 16, 8, 1)),
}


def _padded(channels: int) -> int:
    """The power of two that a group of `channels` takes."""
    return 1 << (channels - 1).bit_length()


def groups_of(k: int, c: int, width: int) -> int:
    """Groups in a pack whose wider side has `width` channels, or more where the other would have less than 16."""
    k, c = _padded(k), _padded(c)
    return max(width // max(k, c), NARROWEST // min(k, c), 1)


def packed_width(k: int, c: int, width: int) -> int:
    """Channels on the wider side of such a pack."""
    return groups_of(k, c, width) * max(_padded(k), _padded(c))


@lru_cache(maxsize=4096)
def choose(problem: ConvProblem, scalar: bool) -> tuple[PackTile, int]:
    """The tile of a problem, and the groups of its pack.

    `scalar` where operands are loaded one by one, whose addresses take registers: it takes twice the warps.
    """
    table = TILES[known(TILES, problem.arch)]
    kind = "weight" if problem.face == "wgrad" else "image"
    dtype = problem.precision if problem.dtype == torch.float32 else str(problem.dtype).removeprefix("torch.")
    tile, wider = table.get(f"{kind} {dtype}", table[kind])
    k, c = problem.k // problem.groups, problem.c // problem.groups
    if packed_width(k, c, tile.width) > tile.width:
        tile = wider
    if scalar:
        tile = replace(tile, warps=2 * tile.warps)
    return tile, min(groups_of(k, c, tile.width), max(_padded(problem.groups), groups_of(k, c, 1)))
