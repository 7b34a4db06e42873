"""Grouped convolution with few channels a group: groups are packed side by side until they fill a tensor core.

    fprop   y[k, o] = sum over c and t of  w[k, c, t] * x[c, i]      i = o * stride + t * dilation - pad
    dgrad   x[c, i] = sum over k and t of  w[k, c, t] * y[k, o]      c and k of one group      grouped_image.py
    wgrad   w[k, c, t] = sum over o of     y[k, o] * x[c, i]                                   grouped_weight.py

The useful part of a product is one group's share of the pack, and the rest is zeros; groups of 16 channels and more
fill a product by themselves (igemm.py). Operands are read where they lie, in both layouts and with any strides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convext.problem import FACES, OPEN, OPERANDS, PRECISIONS, ConvProblem, layout
from convext.triton_kernels.grouped.image import packed_image_kernel
from convext.triton_kernels.grouped.weight import packed_weight_kernel
from convext.triton_kernels.igemm.tiles import best_box, phase_sizes
from convext.triton_kernels.index import three_axes
from convext.triton_kernels.launch import Launch, Specimen
from convext.triton_kernels.lying import Lying, descriptor_strides, offset_type
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.reduce import add_in_order, partial_sums
from convext.triton_kernels.tiles import known, split

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NARROWEST, WIDEST = 16, 128  # channels that a product takes on each side
LONGEST_AXIS = 1 << 29  # indices on one axis are 32-bit, padding and taps included


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
# narrow; triple TF32 products and float64 keep their operands in registers, and so do TF32 products without WGMMA.
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
    "image tf32": (PackTile(64, 128, 4, 3), PackTile(64, 32, 8, 3)),
    "weight tf32": (PackTile(64, 64, 4, 3), PackTile(64, 32, 8, 3)),
    "image float64": (PackTile(32, 64, 4, 2), PackTile(32, 32, 8, 2)),
    "weight float64": (PackTile(32, 32, 4, 2), PackTile(32, 16, 8, 2)),
}
TILES[120] = TILES[80] | {
    "image": (PackTile(64, 128, 4, 2), PackTile(64, 64, 4, 2)),
    "image tf32": (PackTile(32, 128, 8, 2), PackTile(32, 64, 16, 2)),
    "image float64": (PackTile(16, 64, 4, 1), PackTile(16, 32, 8, 1)),
    "weight float64": (PackTile(32, 32, 4, 1), PackTile(32, 16, 8, 1)),
}


def why_not(problem: ConvProblem) -> str | None:
    """None for groups of which one side has 2 to 15 channels, and the other up to 8 times as many."""
    p = problem
    k, c = p.k // p.groups, p.c // p.groups
    if p.groups == 1:
        return "one group, and a pack is of several"
    if c < 2:
        return f"{c} channel of x in each of {p.groups} groups: depthwise, and a product would be mostly zeros"
    if min(k, c) >= NARROWEST:
        return f"{min(k, c)} channels in each of {p.groups} groups, which fill a product of {NARROWEST} without packing"
    if min(k, c) == 0:
        return "groups without channels"
    if _width(k, c, NARROWEST) > WIDEST:
        return f"{c} to {k} channels in a group: packed to {NARROWEST} one way, {_width(k, c, NARROWEST)} the other"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    reach = max(
        max(i, o * s, t * d) + pad
        for i, o, t, s, d, pad in zip(p.input, p.output, p.kernel, p.stride, p.dilation, p.pad, strict=True)
    )
    if reach > LONGEST_AXIS:
        return f"indices up to {reach:,} on one axis, of {LONGEST_AXIS:,}"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The channels-last copy of contiguous weights."""
    taps_apart = problem.taps > 1 and problem.c > problem.groups and not problem.channels_last
    if problem.face == "wgrad" or problem.empty or not taps_apart:
        return []
    return [f"copies w to channels last: {math.prod(problem.w_shape) * problem.dtype.itemsize:,} bytes"]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if result.numel() == 0:
        return result
    if problem.empty:  # a sum over no terms
        result.zero_()
        return result if bias is None else result.add_(bias.view(-1, *[1] * problem.rank))
    if problem.face == "wgrad":
        launch, partial = weight_launch(problem, a, b, result)
        launch()
        if partial is not None:
            add_in_order(partial, result)
    else:
        image_launch(problem, a, b, bias, result)()
    return result


# ----------------------------------------------------------------------------------------------------- packs


def _padded(channels: int) -> int:
    """The power of two that a group of `channels` takes."""
    return 1 << (channels - 1).bit_length()


def _groups_of(k: int, c: int, width: int) -> int:
    """Groups in a pack whose wider side has `width` channels, or more where the other would have less than 16."""
    k, c = _padded(k), _padded(c)
    return max(width // max(k, c), NARROWEST // min(k, c), 1)


def _width(k: int, c: int, width: int) -> int:
    """Channels on the wider side of such a pack."""
    return _groups_of(k, c, width) * max(_padded(k), _padded(c))


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
    if _width(k, c, tile.width) > tile.width:
        tile = wider
    if scalar:
        tile = replace(tile, warps=2 * tile.warps)
    return tile, min(_groups_of(k, c, tile.width), max(_padded(problem.groups), _groups_of(k, c, 1)))


# -------------------------------------------------------------------------------------------------- launches


def _in_units(unit: int, t: Lying) -> tuple[int, ...]:
    return tuple(stride // unit for stride in t.outer)


def _in_boxes(problem: ConvProblem, t: Tensor) -> bool:
    """Whether TMA brings in an image operand: pixels in steps of one, channels innermost, all else 16 bytes apart.

    Wider dtypes are multiplied from registers, or in TF32, whose boxes would exceed a swizzle of 128 bytes.
    """
    p, (n, c, *space) = problem, zip(t.shape, t.stride(), strict=True)
    steps = [stride * t.element_size() for size, stride in (n, *space) if size > 1]
    return (
        (p.arch == 0 or p.arch >= 90)
        and (p.face == "dgrad" or all(s == 1 for s in p.stride))
        and t.element_size() == 2
        and c[1] == 1
        and t.data_ptr() % 16 == 0
        and all(step > 0 and step % 16 == 0 for step in steps)
    )


def _descriptor(t: Tensor, box: tuple[int, int, int, int], depth: int) -> TensorDescriptor:
    """Of an image [N, three axes, channels], for TMA."""
    n, channels, *space = t.shape
    shape = [n, *three_axes(space, 1), channels]
    return TensorDescriptor(t, shape, descriptor_strides(shape, Lying.of(t).outer, t.element_size()), [*box, depth])


def _scalar(*tensors: Tensor) -> bool:
    """Whether a tensor's neighbours in memory are 2-byte pixels, which taps shift off any alignment."""
    return any(t.stride(1) != 1 and t.element_size() == 2 for t in tensors)


def image_launch(problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, y: Tensor) -> Launch:
    """fprop reads x and writes y; dgrad reads y and writes x."""
    p = problem
    w = w if w.stride(1) == 1 else layout.dense(w, channels_last=True)
    k, c = p.k // p.groups, p.c // p.groups
    summed, channels = (c, k) if p.face == "fprop" else (k, c)
    odd = summed > 1 and summed % 2 == 1 and a.stride(1) == 1  # groups that do not begin where vectors do
    tile, pack = choose(p, odd or _scalar(a))
    a_size, y_size = (p.input, p.output) if p.face == "fprop" else (p.output, p.input)
    period = tuple(s // math.gcd(s, d) for s, d in zip(p.stride, p.dilation, strict=True))
    lying = a_lying, w_lying, y_lying = Lying.of(a), Lying.of(w), Lying.of(y)
    unit, w_unit = power_of_two(*a_lying.outer, *y_lying.outer), power_of_two(*w_lying.outer)
    phases = math.prod(p.stride) if p.face == "dgrad" else 1
    sizes = phase_sizes(p)
    box = best_box(sizes, tile.pixels)
    depth = pack * _padded(summed)
    boxed = depth == pack * summed and _in_boxes(p, a)
    return Launch(
        packed_image_kernel,
        math.prod(-(-size // side) for size, side in zip(sizes, box, strict=True)) * -(-p.groups // pack) * phases,
        (
            y, w, None if bias is None else bias.contiguous(), _descriptor(a, box, depth) if boxed else a,
            p.n, p.groups,
            *(three_axes(v, 1) for v in (a_size, y_size, p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0),
            three_axes(period, 1),
            _in_units(unit, a_lying), _in_units(unit, y_lying), _in_units(w_unit, w_lying),
            a_lying.channel, w_lying.channel, y_lying.channel,
        ),
        {
            "DGRAD": p.face == "dgrad", "BOXED": boxed, "RANK": p.rank, "PACK": pack,
            "SUMMED": summed, "SUMMED_PADDED": _padded(summed),
            "CHANNELS": channels, "CHANNELS_PADDED": _padded(channels),
            **dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), box, strict=True)),
            "UNIT": unit, "W_UNIT": w_unit, "PRECISION": p.precision, "INDEX": offset_type(*lying),
        },
        tile.warps, tile.stages, max(p.taps / phases, 1),
    )  # fmt: skip


def weight_launch(problem: ConvProblem, x: Tensor, y: Tensor, w: Tensor) -> tuple[Launch, Tensor | None]:
    """The launch that writes w, or partial sums of it [parts, elements of w], and these."""
    p = problem
    tile, pack = choose(p, _scalar(x, y))
    k, c = p.k // p.groups, p.c // p.groups
    box = best_box((p.n, *three_axes(p.output, 1)), tile.pixels)
    blocks = -(-p.groups // pack) * p.taps
    share, parts = split(p, p.n * math.prod(p.output), tile.pixels, blocks)
    partial = None if parts == 1 else partial_sums(parts, w)
    lying = x_lying, y_lying, w_lying = Lying.of(x), Lying.of(y), Lying.of(w)
    unit = power_of_two(*x_lying.outer, *y_lying.outer)
    launch = Launch(
        packed_weight_kernel,
        blocks * parts,
        (
            x, y, w if partial is None else partial, p.n, p.groups,
            *(three_axes(v, 1) for v in (p.input, p.output, p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0),
            _in_units(unit, x_lying), _in_units(unit, y_lying), w_lying.outer,
            x_lying.channel, y_lying.channel, w_lying.channel,
            parts, w.numel(),
        ),
        {
            "PACK": pack, "K": k, "K_PADDED": _padded(k), "C": c, "C_PADDED": _padded(c),
            **dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), box, strict=True)),
            "UNIT": unit, "PRECISION": p.precision, "INDEX": offset_type(*lying),
        },
        tile.warps, tile.stages, share / tile.pixels,
    )  # fmt: skip
    return launch, partial


# ------------------------------------------------------------------------------------------------- specimens


def specimens(arch: int) -> Iterator[Specimen]:
    """Every tile of the tables, by groups of 8 and of 8 to 1 channels, in both layouts; more groups in bfloat16."""
    forms = [(torch.bfloat16, "ieee"), (torch.float64, "ieee"), *((torch.float32, how) for how in PRECISIONS)]
    groups = [(c, k, 1, form) for form in forms for c, k in ((8, 8), (8, 1))]
    groups += [(4, 4, 1, forms[0]), (4, 8, 2, forms[0])]
    for (c, k, stride, (dtype, precision)), channels_last in product(groups, (True, False)):
        out = 56 // stride
        x, w, y = (
            layout.empty(shape, channels_last, torch.empty((), dtype=dtype, device="meta"))
            for shape in ((32, 32 * c, 56, 56), (32 * k, c, 3, 3), (32, 32 * k, out, out))
        )
        where = "NHWC" if channels_last else "NCHW"
        name = f"{c} to {k} channels stride {stride} {dtype} {precision} {where}".replace("torch.", "")
        for face in FACES:
            tensors = {"x": x, "w": w, "y": y}
            a, b = (tensors[role] for role in OPERANDS[face])
            result = tensors[OPEN[face]]
            problem = ConvProblem.of(
                face, a.shape, b.shape, result.shape[2:], (stride,) * 2, (1, 1), (1, 1), 32, dtype, channels_last,
                "cuda", arch, precision,
            )  # fmt: skip
            if face == "wgrad":
                tile = choose(problem, _scalar(x, y))[0]
                launch, _ = weight_launch(problem, x, y, result)
                outputs = 32 * k * c * 9 * launch.arguments[-2] / launch.programs
                trips = math.ceil(32 * out * out / tile.pixels / launch.arguments[-2])
            else:
                tile = choose(problem, _scalar(a))[0]
                launch = image_launch(problem, a, b, None, result)
                outputs, trips = result.numel() / launch.programs, 9 if face == "fprop" else 9 // stride**2
            yield Specimen(f"grouped.{face} {name}", tile, launch, outputs, trips)
