"""Implicit GEMM: every convolution as a product of matrices that are never formed.

    fprop   y[pixel, k]  = sum over (tap, c) of x[pixel at tap, c] * w[k, c, tap]      igemm_image.py
    dgrad   x[pixel, c]  = sum over (tap, k) of y[pixel at tap, k] * w[k, c, tap]      the same, one phase at a time
    wgrad   w[k, c, tap] = sum over pixels   of y[pixel, k] * x[pixel at tap, c]       igemm_weight.py

One, two and three dimensions are one index space of three axes; a group is an axis of the grid. Operands are read where
they lie, with any strides, and the result is written in the problem's memory format. Where channels are not side by
side (NCHW), every element is loaded by itself; where that is modelled to cost more than a copy, `run` makes the copy
and `copies` names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from convext import layout
from convext.problem import FACES, OPEN, OPERANDS, ConvProblem
from convext.triton_kernels import igemm_tiles
from convext.triton_kernels.igemm_boxes import box_kernel
from convext.triton_kernels.igemm_image import image_kernel
from convext.triton_kernels.igemm_tiles import Plan, planned
from convext.triton_kernels.igemm_weight import weight_kernel
from convext.triton_kernels.index import three_axes
from convext.triton_kernels.launch import Launch, Specimen
from convext.triton_kernels.pixels import coalesce, power_of_two
from convext.triton_kernels.reduce import add_in_order, partial_sums
from convext.triton_kernels.tiles import known, legal

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LONGEST_AXIS = 1 << 29  # indices on one axis are 32-bit, padding and taps included
MOST_BLOCKS = (1 << 31) - 1  # on the first axis of a grid

# Seconds, on an H100: what an element that is loaded by itself costs more than its share of a 16-byte copy (12.2 and
# 2.2 thread-instructions in the main loops of 64 x 64 tiles, compiled for sm_90), at 29.6e12 instructions a second;
# memory traffic; and the start of one more kernel.
SCALAR_LOAD = 10 / 29.6e12
BYTE = 1 / 3.0e12
KERNEL_START = 3e-6


def why_not(problem: ConvProblem) -> str | None:
    """None for every convolution of a floating dtype, but for axes that 32-bit indices do not reach."""
    p = problem
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    reach = max(
        max(i, o * s, k * d) + pad
        for i, o, k, s, d, pad in zip(p.input, p.output, p.kernel, p.stride, p.dilation, p.pad, strict=True)
    )
    if reach > LONGEST_AXIS:
        return f"indices up to {reach:,} on one axis, of {LONGEST_AXIS:,}"
    if not p.empty and (blocks := igemm_tiles.blocks(p, igemm_tiles.choose(p, scalar=True))) > MOST_BLOCKS:
        return f"{blocks:,} blocks, of {MOST_BLOCKS:,} in one launch"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """The channels-last copies of contiguous operands that cost less than reading them element by element."""
    if problem.channels_last or problem.empty:
        return []
    roles = [role for role in OPERANDS[problem.face] if _scattered(problem.shape(role))]
    if not _copies_pay(problem, roles):
        return []
    return [
        f"copies {role} to channels last: {math.prod(problem.shape(role)) * problem.dtype.itemsize:,} bytes"
        for role in roles
    ]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`.

    Two launches where the sum is split: partial sums in float32 (float64 for float64), then their sum in order.
    """
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if result.numel() == 0:
        return result
    if problem.empty:  # a sum over no terms
        result.zero_()
        return result if bias is None else result.add_(bias.view(-1, *[1] * problem.rank))
    apart = [role for role, t in zip(OPERANDS[problem.face], (a, b), strict=True) if _pixels_inner(t)]
    if _copies_pay(problem, apart):
        a, b = layout.dense(a, channels_last=True), layout.dense(b, channels_last=True)
    scalar = _unit(problem, a, b, result) * problem.dtype.itemsize < 4 or _pixels_inner(a) or _pixels_inner(b)
    boxes = _in_boxes(a) and _in_boxes(b) and _flat_taps(b)
    return compute(problem, a, b, bias, result, igemm_tiles.choose(problem, scalar, boxes))


def compute(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor, plan: Plan) -> Tensor:
    """Writes the open tensor of a problem that is not empty into `result`, by a given plan."""
    with torch.cuda.device(result.device) if result.is_cuda else nullcontext():
        target = result if plan.parts == 1 else partial_sums(plan.parts, result)
        launch(problem, a, b, bias, result, target, plan)()
        if plan.parts > 1:
            add_in_order(target, result)
    return result


def launch(
    problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor, target: Tensor, plan: Plan
) -> Launch:
    """The launch that writes `target`: `result` itself, or `plan.parts` partial sums with its strides."""
    if problem.face == "wgrad":
        return _weight_launch(problem, a, b, result, target, plan)
    make = _image_launch if plan.box is None else _box_launch
    return make(problem, a, b, bias, result, target, plan)


# -------------------------------------------------------------------------------------------- operands as they lie


def _pixels_inner(t: Tensor) -> bool:
    """Whether neighbours in memory are pixels (or taps) rather than channels."""
    return t.shape[1] > 1 and t.stride(1) != 1


def _scattered(shape: Sequence[int]) -> bool:
    """Whether a contiguous tensor's channels lie apart."""
    return shape[1] > 1 and math.prod(shape[2:]) > 1


def _copies_pay(problem: ConvProblem, roles: Sequence[str]) -> bool:
    """Whether copying these operands costs less than loading them element by element, as often as blocks do."""
    p = problem
    if power_of_two(p.k // p.groups, p.c // p.groups) * p.dtype.itemsize < 4:
        return False  # channels side by side would be loaded one by one, too
    tile, product = igemm_tiles.choose(p, scalar=True).tile, igemm_tiles.product_of(p)
    row_tiles, column_tiles = -(-product.rows // tile.rows), -(-product.columns // tile.columns)
    copying = loading = 0.0
    for role in roles:
        if p.face == "wgrad":
            reads = p.taps * (column_tiles if role == "y" else row_tiles)
        else:
            reads = row_tiles if role == "w" else p.taps * column_tiles
        elements = math.prod(p.shape(role))
        copying += 2 * elements * p.dtype.itemsize * BYTE + KERNEL_START
        loading += elements * reads * SCALAR_LOAD
    return copying < loading


def _outer_strides(t: Tensor) -> tuple[int, int, int, int]:
    """Strides of the first axis and of three axes of space; 0 for axes of size 1, and for those `t` does not have."""
    first, _, *space = (stride if size > 1 else 0 for size, stride in zip(t.shape, t.stride(), strict=True))
    return (first, *three_axes(space, 0))


def _unit(problem: ConvProblem, *tensors: Tensor) -> int:
    """The largest power of two up to 16 that divides the channels of a group and all strides but the channels'."""
    strides = [s for t in tensors for s in _outer_strides(t)]
    return power_of_two(problem.k // problem.groups, problem.c // problem.groups, *strides)


def _in_boxes(t: Tensor) -> bool:
    """Whether TMA can address a tensor: channels side by side, all else at multiples of 16 bytes."""
    steps = [s * t.element_size() for n, s in zip(t.shape, t.stride(), strict=True) if n > 1 and s != 1]
    return t.stride(1) == 1 and t.data_ptr() % 16 == 0 and all(s > 0 and s % 16 == 0 for s in steps)


def _descriptor(t: Tensor, shape: Sequence[int], strides: Sequence[int], box: Sequence[int]) -> TensorDescriptor:
    """For TMA. Along an axis of size 1 any stride leads nowhere, but it has to be one that TMA takes: not 0."""
    *outer, channels = shape
    steps = [channels if size == 1 else stride for size, stride in zip(outer, strides, strict=True)]
    return TensorDescriptor(t, [*shape], [*steps, 1], [*box])


def _flat_taps(w: Tensor) -> bool:
    """Whether one stride leads from every tap of a weight to the next."""
    return len(coalesce(w.shape[2:], w.stride()[2:])[0]) == 1


def _tap_stride(w: Tensor) -> int:
    return coalesce(w.shape[2:], w.stride()[2:])[1][0]


def _in_units(unit: int, *values: int) -> tuple[int, ...]:
    return tuple(value // unit for value in values)


def _index(*tensors: Tensor) -> tl.dtype:
    """64-bit offsets where a tensor reaches over 2^31 elements."""
    extents = (sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return tl.int64 if max(extents) >= 1 << 31 else tl.int32


# -------------------------------------------------------------------------------------------------------- launches


def _image_launch(
    problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, target: Tensor, plan: Plan
) -> Launch:
    """fprop reads x and writes y; dgrad reads y and writes x."""
    p, tile = problem, plan.tile
    k, c = p.k // p.groups, p.c // p.groups
    summed, channels = (c, k) if p.face == "fprop" else (k, c)
    a_size, y_size = (p.input, p.output) if p.face == "fprop" else (p.output, p.input)
    period = tuple(s // math.gcd(s, d) for s, d in zip(p.stride, p.dilation, strict=True))
    unit = _unit(p, a, w, y)
    depth = tile.steps(p.dtype.itemsize)
    return Launch(
        image_kernel,
        igemm_tiles.blocks(p, plan),
        (
            a, w, None if bias is None else bias.contiguous(), target,
            p.n, p.groups, *_in_units(unit, summed, channels),
            *(three_axes(v, 1) for v in (a_size, y_size, p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0),
            three_axes(period, 1),
            *(_in_units(unit, *_outer_strides(t)) for t in (a, w, y)),
            a.stride(1), w.stride(1), y.stride(1),
            plan.parts, y.numel(),
        ),
        {
            "DGRAD": p.face == "dgrad",
            "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": depth,
            "EVEN": summed % depth == 0,
            "UNIT": unit,
            "A_PIXELS_INNER": _pixels_inner(a), "Y_PIXELS_INNER": _pixels_inner(y),
            "PRECISION": p.precision, "INDEX": _index(a, w, y),
        },
        tile.warps, tile.stages,
    )  # fmt: skip


def _box_launch(
    problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, target: Tensor, plan: Plan
) -> Launch:
    """As _image_launch, for operands that TMA can address."""
    p, tile = problem, plan.tile
    assert plan.box is not None
    k, c = p.k // p.groups, p.c // p.groups
    summed, channels = (c, k) if p.face == "fprop" else (k, c)
    a_size, y_size = (p.input, p.output) if p.face == "fprop" else (p.output, p.input)
    period = tuple(s // math.gcd(s, d) for s, d in zip(p.stride, p.dilation, strict=True))
    unit = _unit(p, y)
    depth = tile.steps(p.dtype.itemsize)
    w_box = (1, tile.columns, depth) if p.face == "fprop" else (1, depth, tile.columns)
    return Launch(
        box_kernel,
        igemm_tiles.blocks(p, plan),
        (
            target, None if bias is None else bias.contiguous(),
            _descriptor(a, (p.n, *three_axes(a_size, 1), a.shape[1]), _outer_strides(a), (*plan.box, depth)),
            _descriptor(w, (p.taps, p.k, c), (_tap_stride(w), w.stride(0)), w_box),
            p.n, p.groups, summed, channels,
            *(three_axes(v, 1) for v in (a_size, y_size, p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0),
            three_axes(period, 1),
            _in_units(unit, *_outer_strides(y)), y.stride(1),
            plan.parts, y.numel(),
        ),
        {
            "DGRAD": p.face == "dgrad",
            **dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), plan.box, strict=True)),
            "COLUMNS": tile.columns, "DEPTH": depth, "UNIT": unit, "Y_PIXELS_INNER": _pixels_inner(y),
            "PRECISION": p.precision, "INDEX": _index(y),
        },
        tile.warps, tile.stages,
    )  # fmt: skip


def _weight_launch(problem: ConvProblem, x: Tensor, y: Tensor, w: Tensor, target: Tensor, plan: Plan) -> Launch:
    p, tile = problem, plan.tile
    k, c = p.k // p.groups, p.c // p.groups
    unit = _unit(p, x, y)
    pixels = tile.steps(p.dtype.itemsize)
    assert plan.box is not None
    return Launch(
        weight_kernel,
        igemm_tiles.blocks(p, plan),
        (
            x, y, target,
            p.n, p.groups, *_in_units(unit, k, c),
            *(three_axes(v, 1) for v in (p.input, p.output, p.kernel, p.stride, p.dilation)), three_axes(p.pad, 0),
            *(_in_units(unit, *_outer_strides(t)) for t in (x, y)),
            _outer_strides(w),
            x.stride(1), y.stride(1), w.stride(1),
            plan.parts, w.numel(),
        ),
        {
            "ROWS": tile.rows, "COLUMNS": tile.columns, "PIXELS": pixels,
            **dict(zip(("BATCH", "BOX0", "BOX1", "BOX2"), plan.box, strict=True)),
            "UNIT": unit,
            "X_PIXELS_INNER": _pixels_inner(x), "Y_PIXELS_INNER": _pixels_inner(y),
            "PRECISION": p.precision, "INDEX": _index(x, y, w),
        },
        tile.warps, tile.stages,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- inspection


def specimens(arch: int) -> Iterator[Specimen]:
    """Every tile of the tables with every face, on 256 channels: 3x3 at stride 1; for dgrad 4x4 at stride 2."""
    bfloat16, float32, float64 = torch.bfloat16, torch.float32, torch.float64
    rows = {
        "16-bit": [(bfloat16, "ieee")],
        "tf32": [(float32, "tf32")],
        "float32": [(float32, "ieee"), (float32, "tf32x3")],
        "float64": [(float64, "ieee")],
    }
    pointers = igemm_tiles.TILES[known(igemm_tiles.TILES, arch)]
    cases = [(tile, False, *form, True) for row, forms in rows.items() for tile in pointers[row] for form in forms]
    cases += [(tile, False, bfloat16, "ieee", False) for tile in igemm_tiles.SCALAR_TILES]
    boxes = igemm_tiles.BOX_TILES[known(igemm_tiles.BOX_TILES, arch)]
    cases += [(tile, True, *form, True) for tile in boxes for form in ((bfloat16, "ieee"), (float32, "tf32"))]
    for tile, boxed, dtype, precision, channels_last in cases:
        for face in FACES:
            kernel, stride = ((4, 4), (2, 2)) if face == "dgrad" else ((3, 3), (1, 1))
            output = (28, 28) if face == "dgrad" else (56, 56)
            problem = ConvProblem(
                face, 32, 256, 256, 1, (56, 56), kernel, output, stride, (1, 1), (1, 1), dtype, channels_last, "cuda",
                arch, precision,
            )  # fmt: skip
            if legal(tile, problem) is None and not (boxed and igemm_tiles.why_not_boxes(problem)):
                yield _specimen(problem, planned(problem, tile, 1, boxed))


def _specimen(problem: ConvProblem, plan: Plan) -> Specimen:
    p, tile = problem, plan.tile
    a, b, result = (
        layout.empty(p.shape(role), p.channels_last, torch.empty((), dtype=p.dtype, device="meta"))
        for role in (*OPERANDS[p.face], OPEN[p.face])
    )
    bias = None if p.face == "wgrad" else torch.empty(p.open_shape[1], dtype=p.dtype, device="meta")
    product = igemm_tiles.product_of(p)
    outputs = product.rows * product.columns * product.count / igemm_tiles.blocks(p, plan)
    how = "boxes" if plan.box is not None and p.face != "wgrad" else "NHWC" if p.channels_last else "NCHW"
    dtype = str(p.dtype).removeprefix("torch.")
    name = f"igemm.{p.face} {dtype} {p.precision} {how} {tile.rows}x{tile.columns} of {tile.depth} bytes"
    trips = product.steps(tile.steps(p.dtype.itemsize))
    return Specimen(name, launch(p, a, b, bias, result, result, plan), outputs, trips)
