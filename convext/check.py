"""The tolerance rule: a kernel may err at most twice as much as torch's own operator in that dtype, plus a floor.

    max |ours - float64| <= 2 * max |torch's - float64| + floor

Both errors are measured on the same operands. Fixed tolerances do not work: torch's own bfloat16 error grows from
0.06 to 1.0 as the channels grow from 8 to 2048. The floor, two units in the last place of the largest result,
covers the cases that torch happens to get exactly right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convext import aten, reference
from convext.problem import OPERANDS, ConvProblem


@dataclass(frozen=True)
class Agreement:
    """How far a result and torch's are from float64, in the unit of the result."""

    error: float
    torch_error: float
    floor: float

    @property
    def bound(self) -> float:
        return 2 * self.torch_error + self.floor

    @property
    def ok(self) -> bool:
        return self.error <= self.bound  # False for NaN

    def __str__(self) -> str:
        return (
            f"error {self.error:.3g} {'<=' if self.ok else '> '} {self.bound:.3g} "
            f"= 2 * {self.torch_error:.3g} (torch's) + {self.floor:.3g}"
        )


def agreement(
    problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor, oracle: Tensor | None = None
) -> Agreement:
    """Measures `result` against float64 by the tolerance rule.

    Args:
        problem: what was computed.
        a, b, bias: the operands that it was computed from.
        result: what came out.
        oracle: the float64 result, where it is already at hand; else `reference.compute` makes it.

    Raises:
        AssertionError: shape, dtype or memory format of `result` are not the problem's.
    """
    assert result.shape == problem.open_shape, f"shape {tuple(result.shape)}, expected {problem.open_shape}"
    assert result.dtype == problem.dtype, f"dtype {result.dtype}, expected {problem.dtype}"
    oracle = reference.compute(problem, a, b, bias) if oracle is None else oracle
    if oracle.numel() == 0:
        return Agreement(0.0, 0.0, 0.0)
    torchs = aten.run(problem, a, b, bias)
    floor = 2 * torch.finfo(problem.dtype).eps * oracle.abs().max().item()
    return Agreement(_distance(result, oracle), _distance(torchs, oracle), floor)


def _distance(result: Tensor, oracle: Tensor) -> float:
    return (result.double() - oracle).abs().max().item()


def operands(problem: ConvProblem, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Standard normal operands for `problem`, dense in its memory format, drawn on its device."""

    def draw(role: str) -> Tensor:
        shape = problem.shape(role)
        t = torch.randn(shape, generator=generator, device=problem.device).to(problem.dtype)
        return t.movedim(1, -1).contiguous().movedim(-1, 1) if problem.channels_last else t

    first, second = OPERANDS[problem.face]
    return draw(first), draw(second)
