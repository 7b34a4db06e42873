"""Depthwise convolution, groups == channels: the stencil kernels behind one interface.

All three faces in one to three dimensions, with any kernel size, stride, dilation, padding and channel multiplier, in
both layouts, read and written where they lie. A short causal convolution is the 1-D case with its padding at the
beginning, a transposed depthwise convolution is dgrad. `stencil_gather` computes fprop and dgrad, `stencil_wgrad` the
weight gradient; `stencil_plan` gives the axes their roles.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import NOTHING, Ending, ending
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.passes.reduce import add_in_order, partial_sums
from convext.triton_kernels.passes.transpose import first_innermost
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
    if problem.face != "wgrad" and not problem.empty:
        return _gathered(problem, a, b, bias, NOTHING)
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if problem.empty:
        return result.zero_() if bias is None else result.copy_(bias.view(-1, *[1] * problem.rank).expand_as(result))
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        launch, sums = launch_wgrad(problem, a, b, result)
        launch()
        if sums is not result:
            add_in_order(sums, result)
    return result


def run_activated(
    problem: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """`epilogue(run(problem, a, b, bias)) + residual` of an fprop or dgrad, at its store."""
    after = ending(problem, epilogue, residual)
    return after.applied(run(problem, a, b, bias)) if problem.empty else _gathered(problem, a, b, bias, after)


def run_into(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor) -> None:
    """`run` of an fprop or dgrad that is not empty, written into `result`, which has any strides."""
    launch_gather(problem, a, b, bias, result)()


def _gathered(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, after: Ending) -> Tensor:
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    launch_gather(problem, a, b, bias, result, after)()
    return result


def launch_gather(
    problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, result: Tensor, after: Ending = NOTHING
) -> Launch:
    """The launch that computes an fprop or dgrad, and what comes after it, into `result`."""
    plan = plan_gather(problem, a.stride(), w.stride(), result.stride())
    if problem.channels_last and not plan.constants["HOLD"] and w.stride(0) != 1:
        w = first_innermost(w)
        plan = plan_gather(problem, a.stride(), w.stride(), result.stride())
    tensors = (a, w, bias, after.residual, result, 0 if bias is None else bias.stride(0))
    constants = {**plan.constants, "BIAS": bias is not None, "ACTIVATION": after.activation}
    return Launch(gather, plan.programs, (*tensors, *plan.arguments), constants, plan.tile.warps, trips=plan.trips)


def launch_wgrad(problem: ConvProblem, x: Tensor, y: Tensor, result: Tensor) -> tuple[Launch, Tensor]:
    """The launch that computes a wgrad, and what it writes: partial sums of `result`, or `result` itself."""
    plan = plan_wgrad(problem, x.stride(), y.stride(), result.stride())
    sums = partial_sums(plan.parts, result) if plan.parts > 1 else result
    if plan.parts > 1 and problem.channels_last:
        sums = sums.view(plan.parts, problem.taps, problem.k)
    arguments = (x, y, sums, *plan.arguments)
    return Launch(weight_sums, plan.programs, arguments, plan.constants, plan.tile.warps, trips=plan.trips), sums
