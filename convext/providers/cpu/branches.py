"""cpu.branches: parallel convolutions of one input in C++ (csrc/cpu/faces/branches.h), each into its own channels.

The branches' jobs are done side by side, so that x comes from memory once, and nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from convext.problem.branches import BranchesProblem
from convext.providers.cpu import library, native

MEASURED = "amd-avx512"


def why_not(problem: BranchesProblem) -> str | None:
    """What the kernels of one convolution do not take, of any branch."""
    return next((reason for part in problem.parts if (reason := native.why_not(part))), None)


def slower(problem: BranchesProblem) -> str | None:
    return None


def run(problem: BranchesProblem, x: Tensor, w: Sequence[Tensor], bias: Sequence[Tensor | None]) -> Tensor:
    """All branches of a problem that it takes; operands of any strides."""
    return convolve(isa(problem), problem, x, w, bias)


def isa(problem: BranchesProblem) -> str:
    """The instruction set."""
    return library.isa(problem.parts[0].channels_last)


def convolve(
    isa: str, problem: BranchesProblem, x: Tensor, w: Sequence[Tensor], bias: Sequence[Tensor | None]
) -> Tensor:
    """`run` on one of the instruction sets that the machine has."""
    first = problem.parts[0]
    pad = [value for part in problem.parts for value in part.pad]
    dilation = [value for part in problem.parts for value in part.dilation]
    geometry = first.output, first.stride, pad, dilation, first.groups, first.channels_last
    op = torch.ops.convext_cpu.branches.default
    return cast(Tensor, op(isa, x, w, _one_after_the_other(problem, x, bias), *geometry))


def _one_after_the_other(problem: BranchesProblem, x: Tensor, bias: Sequence[Tensor | None]) -> Tensor | None:
    """The biases of all channels of the result: zeros for a branch without."""
    if all(b is None for b in bias):
        return None
    parts = zip(problem.parts, bias, strict=True)
    return torch.cat([x.new_zeros(part.k) if b is None else b for part, b in parts])
