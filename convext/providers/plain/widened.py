"""plain.widened: bfloat16 and float16 by torch's float32 convolution, rounded once at the end.

torch's own convolutions of these, on a processor without units for them, are up to a hundred times slower.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from convext.problem import OPEN, OPERANDS, ConvProblem
from convext.providers import aten


def why_not(problem: ConvProblem) -> str | None:
    """bfloat16 and float16."""
    if problem.dtype not in (torch.bfloat16, torch.float16):
        return f"is for bfloat16 and float16, not {problem.dtype}"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """Every tensor in float32."""
    roles = (*OPERANDS[problem.face], OPEN[problem.face])
    return [f"copies to float32: {4 * sum(math.prod(problem.shape(role)) for role in roles):,} bytes"]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    wide = replace(problem, dtype=torch.float32)
    return aten.run(wide, a.float(), b.float(), None if bias is None else bias.float()).to(problem.dtype)
