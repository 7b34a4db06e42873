"""Tiles of the implicit GEMM, and which of them a problem gets: a modelled cost, so the choice is never timed.

A block multiplies `rows x depth` by `depth x columns` in each of its steps. The unit of cost is one multiply-add of
the tensor cores:

    step    rows * columns * depth                          the products
          + LOAD * (rows + columns) * depth                 the operands on their way to shared memory
    total   step * steps of a block * blocks of the busiest multiprocessor
          + BYTE * 8 bytes for each partial sum             written and read again, where the sum is split
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from convext.problem import ConvProblem
from convext.triton_kernels.index import three_axes
from convext.triton_kernels.products import TMA_ROUNDS
from convext.triton_kernels.tiles import BATCHES, BESIDE, Tile, known, legal, multiprocessors

# Where channels lie side by side, and groups of them fill at least the 4 bytes of one asynchronous copy.
TILES: dict[int, dict[str, tuple[Tile, ...]]] = {
    0: {"any": (Tile(32, 32, 128, 4, 1), Tile(16, 16, 64, 4, 1))},
    80: {
        "16-bit": (
            Tile(128, 128, 64, 8, 3),
            Tile(128, 64, 128, 4, 3),
            Tile(64, 64, 128, 4, 3),
            Tile(128, 64, 64, 4, 4),
            Tile(128, 32, 64, 4, 4),
            Tile(128, 16, 64, 4, 4),
            Tile(32, 32, 128, 4, 3),
        ),
        "tf32": (Tile(128, 64, 128, 8, 3), Tile(64, 64, 128, 4, 3), Tile(128, 16, 128, 4, 3), Tile(32, 32, 128, 4, 3)),
        "tf32x3": (Tile(64, 64, 128, 4, 3), Tile(64, 16, 64, 4, 3), Tile(32, 32, 128, 4, 3)),
        "ieee": (Tile(64, 64, 64, 8, 3), Tile(64, 16, 64, 4, 3), Tile(32, 32, 64, 4, 3)),
        "float64": (Tile(64, 64, 128, 8, 3), Tile(32, 32, 128, 4, 3), Tile(64, 16, 128, 4, 3)),
    },
    90: {
        "16-bit": (
            Tile(256, 128, 128, 8, 3),
            Tile(128, 128, 128, 8, 3),
            Tile(128, 64, 128, 4, 4),
            Tile(64, 64, 128, 4, 4),
            Tile(128, 64, 64, 4, 4),
            Tile(128, 32, 128, 4, 4),
            Tile(128, 32, 64, 4, 4),
            Tile(128, 16, 128, 4, 4),
            Tile(128, 16, 64, 4, 4),
            Tile(64, 16, 128, 4, 4),
        ),
        "tf32": (Tile(128, 128, 128, 8, 3), Tile(128, 64, 128, 4, 4), Tile(64, 64, 128, 4, 4), Tile(64, 16, 128, 4, 4)),
        "tf32x3": (
            Tile(128, 128, 128, 8, 3),
            Tile(128, 64, 128, 8, 2),
            Tile(64, 64, 128, 4, 3),
            Tile(64, 16, 128, 4, 3),
        ),
        "ieee": (Tile(128, 64, 64, 8, 3), Tile(64, 64, 64, 8, 2), Tile(64, 16, 64, 4, 3)),
        "float64": (Tile(64, 64, 128, 8, 3), Tile(32, 32, 128, 4, 3), Tile(64, 16, 128, 4, 3)),
    },
}
# WGMMA, whose operands need no registers, is in 9.0 only of these; 12.0 multiplies as 8.0 does.
TILES[120] = TILES[80]

# For operands that TMA brings in as boxes (igemm_boxes.py): from architecture 90 on.
BOX_TILES: dict[int, tuple[Tile, ...]] = {
    0: (Tile(32, 32, 128, 4, 1),),
    90: (
        Tile(256, 128, 128, 8, 3),
        Tile(128, 128, 128, 4, 3),
        Tile(64, 128, 128, 4, 4),
        Tile(128, 64, 128, 4, 4),
        Tile(64, 64, 128, 4, 4),
    ),
    120: (Tile(128, 64, 128, 4, 3), Tile(64, 64, 128, 4, 3)),
}
# Where every element is loaded by itself: pixels innermost, or an odd number of channels.
SCALAR_TILES = (Tile(64, 64, 32, 8, 2), Tile(64, 32, 32, 4, 2), Tile(64, 16, 32, 4, 2), Tile(16, 16, 32, 4, 2))

LOAD = 32  # multiply-adds in the time of one operand element: measured on an H200 also where TMA brings it
BYTE = 157  # and one byte of memory: 2,048 a cycle and multiprocessor against 13 bytes (3.0 TB/s, 132 x 1.7 GHz)
MOST_PARTS = 256
# Registers for sums, and four for each copy of a step: its address, its mask and where it goes. More of them spill.
MOST_REGISTERS = 176


@dataclass(frozen=True)
class Plan:
    """A tile, and how many parts its blocks' sums are split into.

    `box` is images and pixels on three axes: the rows of a tile for TMA, the depth of one for wgrad, else None.
    """

    tile: Tile
    parts: int = 1
    box: tuple[int, int, int, int] | None = None


def tiles_for(problem: ConvProblem, scalar: bool) -> tuple[Tile, ...]:
    """The table's row for a problem; `scalar` where its operands cannot be loaded in vectors."""
    table = TILES[known(TILES, problem.arch)]
    if "any" in table:
        return table["any"]
    row = problem.precision if problem.dtype.itemsize == 4 else "16-bit" if problem.dtype.itemsize == 2 else "float64"
    if not scalar:
        return table[row]
    tiles = scalar_tiles(problem.arch, row)
    # On 9.0 two stages of boxes on three axes spill an address or two, and three stages do not.
    spills = problem.face == "wgrad" and problem.rank == 3 and row == "ieee" and known(TILES, problem.arch) == 90
    return tuple(replace(tile, stages=3) for tile in tiles) if spills else tiles


def scalar_tiles(arch: int, row: str) -> tuple[Tile, ...]:
    """SCALAR_TILES without what spills on 12.0: the largest with elements of two registers each, 64x32 in TF32."""
    spilling = {"tf32x3": 0, "float64": 0, "tf32": 1}.get(row) if arch >= 120 else None
    return tuple(tile for i, tile in enumerate(SCALAR_TILES) if i != spilling)


@dataclass(frozen=True)
class Product:
    """One of the equal products that a problem is: of a group, and of a phase (dgrad) or a tap (wgrad).

    Attributes:
        rows, columns: of its result.
        depth, taps: it sums over `depth` channels or pixels, `taps` times.
        count: how many such products there are.
    """

    rows: int
    columns: int
    depth: int
    taps: int
    count: int

    def blocks(self, tile: Tile) -> int:
        """Blocks that tile all the products, unsplit, with the rows in a line."""
        return -(-self.rows // tile.rows) * -(-self.columns // tile.columns) * self.count

    def steps(self, step: int) -> int:
        """Steps of one block, of `step` channels or pixels of one tap each."""
        return -(-self.depth // step) * self.taps


def product_of(problem: ConvProblem) -> Product:
    """The products of a problem; of a dgrad's phases the average one."""
    p = problem
    pixels, k, c = p.n * math.prod(p.output), p.k // p.groups, p.c // p.groups
    if p.face == "fprop":
        return Product(pixels, k, c, p.taps, p.groups)
    if p.face == "wgrad":
        return Product(k, c, pixels, 1, p.groups * p.taps)
    phases = math.prod(p.stride)
    return Product(math.prod(phase_sizes(p)), c, k, max(p.taps // phases, 1), p.groups * phases)


def why_not_boxes(problem: ConvProblem) -> str | None:
    """Why TMA cannot bring in the operands of `problem`, were they dense and channels last; or None."""
    p, channels = problem, 16 // problem.dtype.itemsize
    if p.face == "wgrad":
        return "wgrad sums over pixels, and reads both operands as images"
    if 0 < p.arch < 90:
        return f"compute capability {p.arch / 10}, and TMA is in 9.0 and newer"
    if p.face == "fprop" and any(s > 1 for s in p.stride):
        return f"with stride {p.stride}, the pixels of a box read pixels that lie apart"
    if p.dtype.itemsize == 8 or (p.dtype.itemsize == 4 and (p.face == "dgrad" or p.precision != "tf32")):
        return f"{p.face} of {p.dtype} in {p.precision} multiplies from registers"
    if p.dtype.itemsize == 4 and not TMA_ROUNDS:
        return "TF32 operands are rounded, by TMA from Triton 3.7 on"
    if p.c % channels or p.k % channels or p.c // p.groups % channels:
        return f"{p.c} and {p.k} channels in {p.groups} groups, of which not all begin at multiples of 16 bytes"
    return None


def blocks(problem: ConvProblem, plan: Plan) -> int:
    """How many blocks a plan launches."""
    product = product_of(problem)
    if plan.box is None or problem.face == "wgrad":
        return product.blocks(plan.tile) * plan.parts
    boxes = math.prod(-(-size // side) for size, side in zip(phase_sizes(problem), plan.box, strict=True))
    return boxes * -(-product.columns // plan.tile.columns) * product.count * plan.parts


def trips(problem: ConvProblem, plan: Plan) -> float:
    """Steps that a block of a plan makes, on average."""
    return product_of(problem).steps(plan.tile.steps(problem.dtype.itemsize)) / plan.parts


def cost(problem: ConvProblem, plan: Plan) -> float:
    """What a plan costs, in multiply-adds of one multiprocessor."""
    product, tile = product_of(problem), plan.tile
    step = tile.steps(problem.dtype.itemsize)
    waves = -(-blocks(problem, plan) // multiprocessors(problem))
    steps = -(-product.steps(step) // plan.parts)
    work = tile.rows * tile.columns + LOAD * (tile.rows + tile.columns)
    partial_sums = product.rows * product.columns * product.count * plan.parts if plan.parts > 1 else 0
    return waves * steps * step * work + BYTE * 8 * partial_sums / multiprocessors(problem)


def crowded(problem: ConvProblem, tile: Tile, unit: int) -> bool:
    """Whether a thread has too few registers for its sums of a tile, and for what copies `unit` elements at a time.

    wgrad, whose steps are pixels, has one address for all channels of a pixel.
    """
    if problem.face == "wgrad":
        return False
    itemsize, threads = problem.dtype.itemsize, 32 * tile.warps
    sums = tile.rows * tile.columns * max(4, itemsize) // (4 * threads)
    copies = (tile.rows + tile.columns) * tile.steps(itemsize) // (threads * min(unit, 16 // itemsize))
    return sums + 4 * copies > MOST_REGISTERS


@lru_cache(maxsize=4096)
def choose(
    problem: ConvProblem, scalar: bool = False, boxes: bool = False, unit: int = 16, few: bool = False,
    beside: bool = False,
) -> Plan:  # fmt: skip
    """The cheapest of the plans for some numbers of images, in the best number of parts: see `BATCHES`.

    Args:
        problem: what is computed; not empty.
        scalar: whether its operands can be loaded element by element only.
        boxes: whether they lie so that TMA can bring them in.
        unit: elements that are copied at a time, up to 16 bytes of them.
        few: whether more images would be copied first, and planned as copies: the plan for one image does for these.
        beside: whether a residual is read as results are stored, one by one.
    """
    plans = [cheapest(replace(problem, n=n), scalar, boxes, unit, beside) for n in BATCHES[: 1 if few else None]]
    return _best(problem, [like for plan in plans for like in in_parts(problem, plan, split=plan.parts > 1)])


@lru_cache(maxsize=4096)
def cheapest(problem: ConvProblem, scalar: bool, boxes: bool, unit: int, beside: bool = False) -> Plan:
    """The plan with the least cost. Arguments as those of `choose`."""
    product, itemsize = product_of(problem), problem.dtype.itemsize
    candidates = [(tile, False) for tile in tiles_for(problem, scalar)]
    fallback = candidates[-1:]
    if boxes and why_not_boxes(problem) is None:  # they win between equals
        candidates = [(tile, True) for tile in BOX_TILES[known(BOX_TILES, problem.arch)]] + candidates

    def fits(tile: Tile, boxed: bool) -> bool:
        oversized = tile.rows >= max(2 * product.rows, 32) or tile.columns >= max(2 * product.columns, 32)
        spills = not boxed and not scalar and crowded(problem, tile, unit)
        spills |= beside and tile.rows * tile.columns > BESIDE * 32 * tile.warps
        # The last step of a tap would read the next group.
        reads_on = boxed and problem.groups > 1 and product.depth % tile.steps(itemsize) > 0
        return not (oversized or spills or reads_on) and legal(tile, problem) is None

    fitting = [candidate for candidate in candidates if fits(*candidate)] or fallback
    whole = [planned(problem, tile, 1, boxed) for tile, boxed in fitting]
    return _best(problem, [plan for one in whole for plan in (one, *in_parts(problem, one, split=True))])


def _best(problem: ConvProblem, plans: list[Plan]) -> Plan:
    """The one with the least cost; between equals the first: the larger tile and the fewer parts."""
    return min([plan for plan in plans if not scattered(problem, plan)] or plans, key=lambda plan: cost(problem, plan))


def scattered(problem: ConvProblem, plan: Plan) -> bool:
    """Whether a thread has too few registers for its sums of a wgrad and for where it stores them, one by one.

    Taps lie between the channels of a weight in NCHW, but not between those of partial sums.
    """
    apart = problem.face == "wgrad" and not problem.channels_last and problem.taps > 1 and plan.parts == 1
    return apart and plan.tile.rows * plan.tile.columns > 64 * 32 * plan.tile.warps


def in_parts(problem: ConvProblem, plan: Plan, split: bool) -> list[Plan]:
    """`plan` in one part, or, where it is to be split, in powers of two of parts; each has four steps or more."""
    steps = product_of(problem).steps(plan.tile.steps(problem.dtype.itemsize))
    most = min(MOST_PARTS, steps // 4) if split else 1
    return [replace(plan, parts=1 << i) for i in range(int(split), most.bit_length())]


def planned(problem: ConvProblem, tile: Tile, parts: int, boxed: bool) -> Plan:
    """The plan of a tile, with its best box where it has one."""
    if problem.face == "wgrad":
        sizes = (problem.n, *three_axes(problem.output, 1))
        return Plan(tile, parts, best_box(sizes, tile.steps(problem.dtype.itemsize)))
    return Plan(tile, parts, best_box(phase_sizes(problem), tile.rows) if boxed else None)


def phase_sizes(problem: ConvProblem) -> tuple[int, int, int, int]:
    """Images, and pixels on three axes, of one phase of an image result."""
    p = problem
    if p.face == "fprop":
        return (p.n, *three_axes(p.output, 1))
    return (p.n, *three_axes([-(-i // s) for i, s in zip(p.input, p.stride, strict=True)], 1))


Box = tuple[int, int, int, int]


@lru_cache(maxsize=4096)
def best_box(sizes: Box, pixels: int) -> Box:
    """Images and pixels on three axes, powers of two with the product `pixels`, that cover `sizes` with little waste.

    A kernel is compiled for its box, and with sizes of images the best one changes. So there are few, one for each of
    four numbers of images. Over the layers of real networks they cover 0.5% more than the best of all boxes do.
    """
    boxes = [(n, *cube(sizes[1:], pixels // n)) for n in (1, 8, 32, 64) if n <= pixels]
    return min(boxes, key=lambda box: covered(sizes, box))


def cube(sizes: tuple[int, ...], pixels: int, cell: tuple[int, int, int] = (1, 1, 1)) -> tuple[int, int, int]:
    """Three sides of a box of so many pixels, each with the sides `cell`: as nearly a cube as powers of two are.

    The shortest is doubled, the last of equals, but on an axis of one pixel.
    """
    sides = [1, 1, 1]
    while math.prod(sides) < pixels:
        sides[min((2, 1, 0), key=lambda i: (sizes[i] == 1, sides[i] * cell[i]))] *= 2
    return sides[0], sides[1], sides[2]


def covered(sizes: Box, box: Box) -> int:
    """Pixels of all boxes that cover `sizes`."""
    return math.prod(-(-size // side) * side for size, side in zip(sizes, box, strict=True))
