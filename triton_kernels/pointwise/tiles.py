"""How large a tile of pointwise products is, by architecture and by how products are formed."""

from __future__ import annotations

import torch

from convext.problem import ConvProblem
from convext.triton_kernels.tiles import Tile, known

# From the largest tile to the smallest: the first that fits the problem and fills the device is taken. What multiplies
# from registers has tables of its own (float32 by its precision), of tiles that do not spill.
TILES: dict[int, dict[str, tuple[Tile, ...]]] = {
    0: {"any": (Tile(32, 32, 64, 4, 1), Tile(16, 32, 64, 4, 1), Tile(16, 16, 64, 4, 1))},
    80: {
        "any": (
            Tile(128, 128, 64, 4, 4),
            Tile(128, 128, 64, 8, 4),
            Tile(64, 128, 64, 4, 4),
            Tile(128, 64, 64, 4, 4),
            Tile(64, 64, 128, 4, 3),
            Tile(32, 64, 128, 4, 4),
            Tile(16, 64, 128, 4, 4),
            Tile(16, 16, 128, 1, 4),
        ),
        "ieee": (Tile(64, 64, 64, 4, 3), Tile(32, 64, 64, 4, 2), Tile(16, 64, 64, 4, 3), Tile(16, 16, 64, 1, 3)),
        "tf32x3": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 128, 4, 4), Tile(16, 16, 128, 1, 4)),
        "float64": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 128, 4, 2), Tile(16, 16, 128, 1, 3)),
    },
    90: {
        "any": (
            Tile(128, 256, 128, 8, 3),
            Tile(128, 128, 128, 4, 3),
            Tile(128, 128, 128, 8, 3),
            Tile(64, 128, 128, 4, 4),
            Tile(128, 64, 128, 4, 4),
            Tile(64, 64, 128, 4, 4),
            Tile(32, 64, 128, 4, 4),
            Tile(16, 64, 128, 4, 4),
            Tile(16, 16, 128, 1, 4),
        ),
        "ieee": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 64, 4, 2), Tile(16, 64, 64, 4, 3), Tile(16, 16, 64, 1, 3)),
        "float64": (Tile(64, 64, 128, 4, 2), Tile(32, 64, 128, 4, 2), Tile(16, 16, 128, 1, 3)),
    },
}
# TF32 operands pass through registers on their way to WGMMA, where they are rounded: 128x128 in 4 warps has too few,
# and 64x128 for half as deep a step.
TILES[90]["tf32"] = (TILES[90]["any"][0], TILES[90]["any"][2], Tile(64, 128, 64, 4, 4), *TILES[90]["any"][4:])
# WGMMA, whose operands need no registers, is in 9.0 only of these; 12.0 multiplies as 8.0 does. There more than two
# stages of 64x128, and of 32x64 in three products, take the last registers of a weight gradient.
TILES[120] = TILES[80] | {
    "any": (
        *TILES[80]["any"][:2],
        Tile(64, 128, 64, 4, 2),
        TILES[80]["any"][3],
        Tile(64, 64, 128, 8, 3),
        *TILES[80]["any"][5:],
    ),
    "ieee": (Tile(64, 64, 64, 8, 3), *TILES[80]["ieee"][1:]),
    "tf32x3": (TILES[80]["tf32x3"][0], Tile(32, 64, 128, 4, 2), TILES[80]["tf32x3"][2]),
}
# In TF32, on 8.0 128x64 would spill, and 32x64 with deeper steps; on 12.0 64x64.
TILES[80]["tf32"] = (*TILES[80]["any"][:3], TILES[80]["any"][4], Tile(32, 64, 64, 4, 4), *TILES[80]["any"][6:])
TILES[120]["tf32"] = (*TILES[120]["any"][:4], *TILES[120]["any"][5:])
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def tiles_for(problem: ConvProblem) -> tuple[Tile, ...]:
    """The table's row for a problem."""
    table = TILES[known(TILES, problem.arch)]
    kind = problem.precision if problem.dtype == torch.float32 else str(problem.dtype).removeprefix("torch.")
    return table.get(kind, table["any"])
