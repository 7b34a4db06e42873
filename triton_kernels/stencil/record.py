"""Depthwise convolution, groups == channels: the stencil kernels behind one interface.

All three faces in one to three dimensions, with any kernel size, stride, dilation, padding and channel multiplier, in
both layouts, read and written where they lie. A short causal convolution is the 1-D case with its padding at the
beginning, a transposed depthwise convolution is dgrad. `stencil_gather` computes fprop and dgrad, `stencil_wgrad` the
weight gradient; `stencil_plan` gives the axes their roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from convext.problem import FACES, OPERANDS, ConvProblem, Face, layout
from convext.triton_kernels.launch import Launch, Specimen
from convext.triton_kernels.reduce import add_in_order, partial_sums
from convext.triton_kernels.stencil.image import gather
from convext.triton_kernels.stencil.launch import Choice, choose, holds_all_taps, plan_gather, plan_wgrad
from convext.triton_kernels.stencil.weight import weight_sums

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def why_not(problem: ConvProblem) -> str | None:
    """None for a depthwise convolution that a tile's registers can hold, else one sentence."""
    p = problem
    if p.groups != p.c:
        return f"groups={p.groups} differ from the {p.c} channels of x"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    choice = None if p.empty else choose(p)
    return choice if isinstance(choice, str) else None


def copies(problem: ConvProblem) -> list[str]:
    """That of w, where channels are last and its taps are read again and again; activations are read where they lie."""
    choice = None if problem.empty or problem.face == "wgrad" or not problem.channels_last else choose(problem)
    if not isinstance(choice, Choice) or holds_all_taps(problem, choice):
        return []
    return [f"puts the channels of w last in a copy: {problem.k * problem.taps * problem.dtype.itemsize:,} bytes"]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if problem.empty:
        return result.zero_() if bias is None else result.copy_(bias.view(-1, *[1] * problem.rank).expand_as(result))
    if problem.face != "wgrad":
        launch_gather(problem, a, b, bias, result)()
        return result
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        launch, sums = launch_wgrad(problem, a, b, result)
        launch()
        if sums is not result:
            add_in_order(sums, result)
    return result


def launch_gather(problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, result: Tensor) -> Launch:
    """The launch that computes an fprop or dgrad into `result`."""
    plan = plan_gather(problem, a.stride(), w.stride(), result.stride())
    if problem.channels_last and not plan.constants["HOLD"] and w.stride(0) != 1:
        w = w.movedim(0, -1).contiguous().movedim(-1, 0)
        plan = plan_gather(problem, a.stride(), w.stride(), result.stride())
    tensors = (a, w, bias, result, 0 if bias is None else bias.stride(0))
    constants = {**plan.constants, "BIAS": bias is not None}
    return Launch(gather, plan.programs, (*tensors, *plan.arguments), constants, plan.tile.warps, trips=plan.trips)


def launch_wgrad(problem: ConvProblem, x: Tensor, y: Tensor, result: Tensor) -> tuple[Launch, Tensor]:
    """The launch that computes a wgrad, and what it writes: partial sums of `result`, or `result` itself."""
    plan = plan_wgrad(problem, x.stride(), y.stride(), result.stride())
    sums = partial_sums(plan.parts, result) if plan.parts > 1 else result
    arguments = (x, y, sums, *plan.arguments)
    return Launch(weight_sums, plan.programs, arguments, plan.constants, plan.tile.warps, trips=plan.trips), sums


# -------------------------------------------------------------------------------------------------- specimens


class Layer(NamedTuple):
    """A layer with 64 channels of x, padded so that y has a pixel for each `stride` of x: before them if `causal`."""

    faces: tuple[Face, ...]
    size: tuple[int, ...]
    taps: int
    stride: int = 1
    dilation: int = 1
    multiplier: int = 1
    causal: bool = False


# One for each way that tiles are chosen, and one for each tile of the table.
SPECIMENS = {
    "3x3": Layer(("fprop", "wgrad"), (56, 56), 3),
    "5x5": Layer(("fprop",), (56, 56), 5),
    "7x7": Layer(("fprop", "wgrad"), (56, 56), 7),
    "31x31": Layer(FACES, (64, 64), 31),
    "3x3 stride 2": Layer(FACES, (112, 112), 3, stride=2),
    "3x3 dilation 4": Layer(("fprop",), (64, 64), 3, dilation=4),
    "3x3 multiplier 2": Layer(FACES, (56, 56), 3, multiplier=2),
    "3x3 stride 2 multiplier 2": Layer(FACES, (112, 112), 3, stride=2, multiplier=2),
    "3x3 on 14x14": Layer(("fprop", "wgrad"), (14, 14), 3),
    "3x3 on 7x7": Layer(("fprop",), (7, 7), 3),
    "3x3 on 2x2": Layer(("fprop", "wgrad"), (2, 2), 3),
    "3x3 on 2x2 multiplier 2": Layer(("fprop", "wgrad"), (2, 2), 3, multiplier=2),
    "3x3 on 1x1": Layer(("fprop", "wgrad"), (1, 1), 3),
    "causal 4": Layer(("fprop", "wgrad"), (8192,), 4, causal=True),
    "causal 4 multiplier 2": Layer(FACES, (8192,), 4, multiplier=2, causal=True),
    "3x3x3": Layer(("fprop",), (16, 32, 32), 3),
}
IN_EVERY_DTYPE = ("3x3", "3x3 on 2x2", "causal 4")


def specimens(arch: int) -> Iterator[Specimen]:
    """Every entry of SPECIMENS in bfloat16 and both layouts; some in wider dtypes, which have tiles of their own."""
    cases = [(what, torch.bfloat16) for what in SPECIMENS]
    cases += [(what, dtype) for what in IN_EVERY_DTYPE for dtype in (torch.float32, torch.float64)]
    for what, dtype in cases:
        faces, size, taps, stride, dilation, multiplier, causal = SPECIMENS[what]
        rank, pad = len(size), taps - 1 if causal else dilation * (taps - 1) // 2
        output = tuple(i // stride for i in size)
        for face, last in product(faces, (False, True)):
            problem = ConvProblem(
                face, 32, 64, 64 * multiplier, 64, size, (taps,) * rank, output, (stride,) * rank, (pad,) * rank,
                (dilation,) * rank, dtype, last, "cuda", arch,
            )  # fmt: skip
            yield _specimen(f"stencil.{face} {what} {dtype} {'NHWC' if last else 'NCHW'}", problem)


def _specimen(name: str, problem: ConvProblem) -> Specimen:
    p, like = problem, torch.empty((), dtype=problem.dtype, device="meta")
    a, b = (layout.empty(p.shape(role), p.channels_last and role != "w", like) for role in OPERANDS[p.face])
    result = layout.empty(p.open_shape, p.channels_last, like)
    if p.face == "wgrad":
        launch, plan = launch_wgrad(p, a, b, result)[0], plan_wgrad
    else:
        launch, plan = launch_gather(p, a, b, None, result), plan_gather
    found = plan(p, a.stride(), b.stride(), result.stride())
    return Specimen(name.replace("torch.", ""), found.tile, launch, found.outputs, found.trips, found.filling)
