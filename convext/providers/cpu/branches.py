"""cpu.branches: parallel convolutions of one input in C++ (csrc/cpu/faces/branches.h), each into its own channels.

The branches' jobs are done side by side, so that x comes from memory once, and nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from convext.problem import ConvProblem
from convext.problem.branches import BranchesProblem
from convext.providers.cpu import library, native

# Measured: 870 blocks of 2 to 5 branches of 1, 9 or 25 taps, dilated by up to 18, on maps of 8 x 8 to 224 x 224, at
# batches 1 to 8, with one thread and two, float32, AMD EPYC (Zen 4), against the layers one by one and torch.cat. With
# more channels oneDNN's products are ahead of ours by more than the concatenation costs.
MEASURED = "amd-avx512"
MOST_CHANNELS, MOST_PRODUCTS = 12, 75  # of x; of one element of a result
LEAST_CHANNELS = 32  # of a branch, in eights, where they are innermost
LEAST_ROWS = 28  # of a depthwise result whose channels are outermost
LEAST = 2**18  # products of all branches: nothing smaller was measured


def why_not(problem: BranchesProblem) -> str | None:
    """What the kernels of one convolution do not take, of any branch."""
    return next((reason for part in problem.parts if (reason := native.why_not(part))), None)


def slower(problem: BranchesProblem) -> str | None:
    """Where it was not measured to be faster than the layers one by one, and all other machines."""
    if library.machine() != MEASURED:
        return f"was measured on {MEASURED} alone, and this is {library.machine()}"
    first, products = problem.parts[0], sum(part.flops for part in problem.parts) // 2
    if first.dtype is not torch.float32 or first.rank != 2 or max(first.stride) > 1:
        return (
            f"was measured in float32, in 2-D and at stride 1, not in {first.dtype}, {first.rank}-D and {first.stride}"
        )
    if len(problem.parts) < 2 or products < LEAST:
        return f"is for two branches or more of {LEAST:,} products, but got {len(problem.parts)} of {products:,}"
    loses = _loses_depthwise if first.groups > 1 else _loses_dense
    return next((reason for part in problem.parts if (reason := loses(part))), None)


def _loses_dense(part: ConvProblem) -> str | None:
    if part.c > MOST_CHANNELS or part.c * part.taps > MOST_PRODUCTS:
        return (
            f"wins with up to {MOST_CHANNELS} channels of x and {MOST_PRODUCTS} products for an element of a branch, "
            f"but got {part.c} and {part.c * part.taps}"
        )
    if part.channels_last and (part.k < LEAST_CHANNELS or part.k % 8):
        return (
            f"wins channels last where a branch has {LEAST_CHANNELS} channels or more that come in eights, "
            f"but got {part.k}"
        )
    return None


def _loses_depthwise(part: ConvProblem) -> str | None:
    if not part.c == part.k == part.groups:
        return f"wins with one filter for each channel, but got {part.groups} groups of {part.c} channels to {part.k}"
    if not part.channels_last and (part.taps == 1 or part.output[0] < LEAST_ROWS):
        return (
            f"wins channels first with two taps or more on {LEAST_ROWS} rows or more, "
            f"but got {part.taps} on {part.output[0]}"
        )
    return None


def run(problem: BranchesProblem, x: Tensor, w: Sequence[Tensor], bias: Sequence[Tensor | None]) -> Tensor:
    """All branches of a problem that it takes; operands of any strides."""
    return convolve(_isa(problem, x), problem, x, w, bias)


def _isa(problem: BranchesProblem, x: Tensor) -> str:
    """The widest where nothing is packed (faces/innermost.h). Else far taps leave windows of wide vectors little room,
    in either memory format: AVX2 was measured to be as fast, and on small maps up to 1.5 times as fast."""
    unpacked = all(part.c == part.k == part.groups for part in problem.parts) and x.stride(1) == 1
    return library.isa(narrow=not (unpacked and problem.parts[0].channels_last))


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
