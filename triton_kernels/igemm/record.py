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
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from convext.problem import OPEN, OPERANDS, ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import NOTHING, Ending, ending
from convext.triton_kernels.igemm import tiles as igemm_tiles
from convext.triton_kernels.igemm.launch import Lying, recipe, unit_of
from convext.triton_kernels.igemm.tiles import Plan
from convext.triton_kernels.passes.reduce import add_in_order, partial_sums
from convext.triton_kernels.passes.transpose import dense
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.tiles import BATCHES

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
    operands = tuple(
        Lying(shape, torch.empty(shape, device="meta").stride())
        for shape in (problem.shape(role) for role in OPERANDS[problem.face])
    )
    if not _copies_pay(problem, *operands):
        return []
    made = [
        f"copies {role} to channels last: {math.prod(t.shape) * problem.dtype.itemsize:,} bytes"
        for role, t in zip(OPERANDS[problem.face], operands, strict=True)
        if t.pixels_inner
    ]
    if _stores_scattered(problem):
        size = math.prod(problem.open_shape) * problem.dtype.itemsize
        made.append(f"copies {OPEN[problem.face]} to channels first: {size:,} bytes")
    return made


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`.

    Two launches where the sum is split: partial sums in float32 (float64 for float64), then their sum in order.
    """
    return _computed(problem, a, b, bias, NOTHING)


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """`epilogue(run(problem, a, b, bias)) + residual` of an fprop or dgrad, at the store of the sum."""
    after = ending(problem, epilogue, residual)
    return after.applied(run(problem, a, b, bias)) if problem.empty else _computed(problem, a, b, bias, after)


def _computed(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, after: Ending) -> Tensor:
    if problem.empty or math.prod(problem.open_shape) == 0:  # a sum over no terms, or no sums
        result = layout.empty(problem.open_shape, problem.channels_last, a).zero_()
        return result if bias is None else result.add_(bias.view(-1, *[1] * problem.rank))
    beside = after.residual is not None and not problem.channels_last
    a, b, plan = _planned(problem, a, b, beside)
    if plan is None:
        result = _computed(replace(problem, channels_last=True), a, b, bias, after.lying(channels_last=True))
        return dense(result, channels_last=False)
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    return compute(problem, a, b, bias, result, plan, after)


def run_into(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor) -> None:
    """`run` of a problem that is not empty, written into `result`, which has any strides."""
    a, b, plan = _planned(problem, a, b, beside=False)
    if plan is None:
        result.copy_(_computed(replace(problem, channels_last=True), a, b, bias, NOTHING))
    elif plan.parts > 1:  # partial sums lie as a dense result does
        result.copy_(compute(problem, a, b, bias, layout.empty(result.shape, problem.channels_last, a), plan))
    else:
        compute(problem, a, b, bias, result, plan)


def _planned(problem: ConvProblem, a: Tensor, b: Tensor, beside: bool) -> tuple[Tensor, Tensor, Plan | None]:
    """The operands as they are read, copied where that pays, and the plan for them; none where the result, too, is
    better written in the other memory format."""
    aligned = a.data_ptr() % 16 == 0 and b.data_ptr() % 16 == 0
    plan = _decide(problem, a.stride(), b.stride(), aligned, beside)
    if plan is None:
        a, b = dense(a, channels_last=True), dense(b, channels_last=True)
        if not _stores_scattered(problem):
            plan = _decide(problem, a.stride(), b.stride(), True, beside)
            assert plan is not None
    return a, b, plan


def _stores_scattered(problem: ConvProblem) -> bool:
    """Whether an image in NCHW is better stored channels last, and copied after that.

    The pixels of a tile are neighbours in memory where they are a line. From boxes on two axes, and from the phases of
    a strided result, a store takes a sector of memory for a few elements: on an H200 the copies are 2 to 5 times as
    fast as that for grouped and transposed layers, and 0.9 to 1.15 times for dense 3x3 (tiles_sm_90.jsonl).
    """
    p = problem
    return p.face != "wgrad" and not p.channels_last and (p.rank > 1 or max(p.stride) > 1)


def compute(
    problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor, plan: Plan, after: Ending = NOTHING
) -> Tensor:
    """Writes the open tensor of a problem that is not empty into `result`, by a given plan, and what comes after it."""
    target, strides = (result, result.stride()) if plan.parts == 1 else _partial_sums(problem, plan.parts, result)
    made = recipe(problem, plan, a.stride(), b.stride(), strides)
    if bias is not None:
        bias = bias.contiguous()
    with torch.cuda.device(result.device) if result.is_cuda else nullcontext():
        made.launch(a, b, bias, target, after if plan.parts == 1 else NOTHING)()
        if plan.parts > 1:
            add_in_order(target, result, after)
    return result


def _partial_sums(problem: ConvProblem, parts: int, result: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Memory for partial sums of `result`, and the strides of one: a product's columns, channels, are innermost."""
    sums, strides = partial_sums(parts, result), result.stride()
    if problem.face != "wgrad" or problem.channels_last:
        return sums, strides
    rows, columns = result.shape[:2]
    return sums.view(parts, problem.taps, rows * columns), (columns, 1, *(s * rows * columns for s in strides[2:]))


@lru_cache(maxsize=4096)
def _decide(
    problem: ConvProblem, a: tuple[int, ...], b: tuple[int, ...], aligned: bool, beside: bool = False
) -> Plan | None:
    """The plan for operands with these strides; None where they had better be copied to channels last first.

    `aligned` says whether both begin at a multiple of 16 bytes, `beside` what it says for `igemm_tiles.choose`.
    """
    first, second = _operands(problem, a, b)
    if _copies_pay(problem, first, second):
        return None
    many = replace(problem, n=max(BATCHES))
    few = _copies_pay(many, *_operands(many, a, b))
    itemsize = problem.dtype.itemsize
    apart = first.pixels_inner or second.pixels_inner
    unit = unit_of(problem, first, second)
    scalar = apart or unit * itemsize < 4
    boxes = aligned and first.addressable(itemsize) and second.addressable(itemsize) and second.tap_stride is not None
    return igemm_tiles.choose(problem, scalar, boxes, unit, few, beside)


def _operands(problem: ConvProblem, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Lying, Lying]:
    """How the operands of a problem lie that have these strides."""
    first, second = OPERANDS[problem.face]
    return Lying(problem.shape(first), a), Lying(problem.shape(second), b)


def _copies_pay(problem: ConvProblem, a: Lying, b: Lying) -> bool:
    """Whether to copy the operands whose channels lie apart costs less than loading them element by element."""
    p = problem
    if power_of_two(p.k // p.groups, p.c // p.groups) * p.dtype.itemsize < 4:
        return False  # channels side by side would be loaded one by one, too
    tile, product = igemm_tiles.choose(p, scalar=True).tile, igemm_tiles.product_of(p)
    row_tiles, column_tiles = -(-product.rows // tile.rows), -(-product.columns // tile.columns)
    copying = loading = 0.0
    for role, t in zip(OPERANDS[p.face], (a, b), strict=True):
        if not t.pixels_inner:
            continue
        if p.face == "wgrad":
            reads = p.taps * (column_tiles if role == "y" else row_tiles)
        else:
            reads = row_tiles if role == "w" else p.taps * column_tiles
        elements = math.prod(t.shape)
        copying += 2 * elements * p.dtype.itemsize * BYTE + KERNEL_START
        loading += elements * reads * SCALAR_LOAD
    return copying < loading
