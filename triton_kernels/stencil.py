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

from convext import layout
from convext.problem import ConvProblem
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.reduce import add_in_order, partial_sums
from convext.triton_kernels.stencil_gather import gather
from convext.triton_kernels.stencil_launch import choose, holds_all_taps, plan_gather, plan_wgrad
from convext.triton_kernels.stencil_wgrad import weight_sums

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
    if problem.empty or problem.face == "wgrad" or not _reads_taps_again(problem):
        return []
    return [f"puts the channels of w last in a copy: {problem.k * problem.taps * problem.dtype.itemsize:,} bytes"]


def _reads_taps_again(problem: ConvProblem) -> bool:
    """Whether a gather over channels-last tensors reads taps in its inner loop, where a stride would cost most."""
    choice = choose(problem)
    return problem.channels_last and not isinstance(choice, str) and not holds_all_taps(problem, choice)


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if problem.empty:
        return result.zero_() if bias is None else result.copy_(bias.view(-1, *[1] * problem.rank).expand_as(result))
    if problem.face != "wgrad":
        if _reads_taps_again(problem):
            b = b.movedim(0, -1).contiguous().movedim(-1, 0)
        launch_gather(problem, a, b, bias, result)()
        return result
    parts = plan_wgrad(problem, a.stride(), b.stride(), result.stride()).parts
    sums = partial_sums(parts, result) if parts > 1 else result
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        launch_wgrad(problem, a, b, result, sums)()
        if parts > 1:
            add_in_order(sums, result)
    return result


def launch_gather(problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, result: Tensor) -> Launch:
    """The launch that computes an fprop or dgrad."""
    plan = plan_gather(problem, a.stride(), w.stride(), result.stride())
    tensors = (a, w, bias, result, 0 if bias is None else bias.stride(0))
    constants = {**plan.constants, "BIAS": bias is not None}
    return Launch(gather, plan.programs, (*tensors, *plan.arguments), constants, plan.warps)


def launch_wgrad(problem: ConvProblem, x: Tensor, y: Tensor, result: Tensor, sums: Tensor) -> Launch:
    """The launch that computes a wgrad: into the parts in `sums`, or at once where this is `result`."""
    plan = plan_wgrad(problem, x.stride(), y.stride(), result.stride())
    return Launch(weight_sums, plan.programs, (x, y, sums, *plan.arguments), plan.constants, plan.warps)
