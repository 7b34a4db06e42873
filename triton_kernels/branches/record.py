"""Parallel convolutions of one input, each stored where it belongs in the concatenation.

    one by one   x ─read─> conv i ─write─> y_i ─read─> torch.cat ─write─> y      for each branch i
    here         x ─read─> conv i ──────────────────────────────write─> y

Each branch is a launch of a single convolution's kernel, the stencil's where it is depthwise and the implicit product's
else, which takes any strides of its result: a slice of y's channels. Small images stay in the second-level cache from
one launch to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.problem.branches import BranchesProblem
from convext.triton_kernels.igemm import record as igemm
from convext.triton_kernels.stencil import record as stencil


def why_not(problem: BranchesProblem) -> str | None:
    """What the kernel of a branch does not take."""
    return next((reason for part in problem.parts if (reason := _kernel_of(part).why_not(part))), None)


def slower(problem: BranchesProblem) -> str | None:
    """Where there is nothing to concatenate, and of dense branches, for which another kernel may be the faster one."""
    if problem.parts[0].device != "cuda":
        return "is for GPUs: elsewhere Triton interprets it"
    if len(problem.parts) < 2:
        return "is for two branches or more, but got 1"
    dense = [part for part in problem.parts if _kernel_of(part) is not stencil]
    if dense:
        return f"is for depthwise branches, but one has {dense[0].groups} groups of {dense[0].c} channels of x"
    return None


def run(problem: BranchesProblem, x: Tensor, w: Sequence[Tensor], bias: Sequence[Tensor | None]) -> Tensor:
    """All branches of a problem that it takes; operands of any strides."""
    first = problem.parts[0]
    y = layout.empty((first.n, problem.channels, *first.output), first.channels_last, x)
    slices = y.split([part.k for part in problem.parts], 1)
    for part, weight, b, result in zip(problem.parts, w, bias, slices, strict=True):
        _kernel_of(part).run_into(part, x, weight, b, result)
    return y


def _kernel_of(part: ConvProblem) -> ModuleType:
    return stencil if part.groups == part.c else igemm
