"""Depthwise convolution, groups == channels: the stencil kernels behind one interface.

All three faces in one to three dimensions, with any kernel size, stride, dilation, padding and channel multiplier, in
both layouts, read and written where they lie. A short causal convolution is the 1-D case with its padding at the
beginning, a transposed depthwise convolution is dgrad. `stencil_gather` computes fprop and dgrad, `stencil_wgrad` the
weight gradient; `stencil_plan` gives the axes their roles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convext import layout
from convext.problem import ConvProblem
from convext.triton_kernels.launch import Launch
from convext.triton_kernels.stencil_gather import gather
from convext.triton_kernels.stencil_launch import choose_gather, plan_gather

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def why_not(problem: ConvProblem) -> str | None:
    """None for a depthwise convolution that fits in registers on some way to walk it, else one sentence."""
    p = problem
    if p.groups != p.c:
        return f"groups={p.groups} differ from the {p.c} channels of x"
    if p.dtype not in DTYPES:
        return f"{p.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if p.device == "cuda" and p.arch < 80:
        return f"compute capability {p.arch / 10}, and its tiles are for 8.0 and newer"
    if p.empty:
        return None
    choice = choose_gather(p, 1)
    return choice if isinstance(choice, str) else None


def copies(problem: ConvProblem) -> list[str]:
    """None: operands are read where they lie, whatever their strides."""
    return []


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    result = layout.empty(problem.open_shape, problem.channels_last, a)
    if problem.empty:
        return result.zero_() if bias is None else result.copy_(bias.view(-1, *[1] * problem.rank).expand_as(result))
    launch_gather(problem, a, b, bias, result)()
    return result


def launch_gather(problem: ConvProblem, a: Tensor, w: Tensor, bias: Tensor | None, result: Tensor) -> Launch:
    """The launch that gathers `result` from `a`."""
    plan = plan_gather(problem, a.stride(), w.stride(), result.stride())
    constants = {**plan.constants, "BIAS": bias is not None}
    return Launch(gather, plan.programs, (a, w, bias, result, *plan.arguments), constants, plan.warps)
