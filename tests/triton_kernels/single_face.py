"""One face of one convolution through one module of kernels, against float64."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from convext.commands import check
from convext.problem import OPEN, OPERANDS, ConvProblem, Face, output_size


@dataclass(frozen=True)
class Case:
    """A small convolution, the same on each axis of `size`, and what it is in the list for.

    `trim` takes outputs away at the end, as an asymmetric or a causal convolution does.
    """

    reason: str
    size: tuple[int, ...]
    n: int
    c: int
    k: int
    groups: int = 1
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    trim: int = 0

    def __str__(self) -> str:
        return self.reason

    def problem(
        self, face: Face, dtype: torch.dtype, channels_last: bool, device: str, precision: str = "ieee"
    ) -> ConvProblem:
        rank = len(self.size)
        kernel, stride, pad, dilation = (
            (value,) * rank for value in (self.kernel, self.stride, self.pad, self.dilation)
        )
        output = tuple(o - self.trim for o in output_size(self.size, kernel, stride, pad, pad, dilation))
        shape = {
            "x": (self.n, self.c, *self.size),
            "w": (self.k, self.c // self.groups, *kernel),
            "y": (self.n, self.k, *output),
        }
        first, second = OPERANDS[face]
        return ConvProblem.of(
            face, shape[first], shape[second], shape[OPEN[face]][2:], stride, pad, dilation, self.groups, dtype,
            channels_last, device, arch(device), precision,
        )  # fmt: skip


def arch(device: str) -> int:
    """Compute capability times ten of the GPU under test; 0 for the interpreter."""
    if device != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def assert_agrees(
    kernels: ModuleType, problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Runs a problem, compares by the tolerance rule and checks the memory format; returns the result."""
    assert kernels.why_not(problem) is None
    result = kernels.run(problem, a, b, bias)
    agreement = check.agreement(problem, a, b, bias, result)
    assert agreement.ok, f"{agreement}\n{problem}"
    return result


def random_bias(problem: ConvProblem) -> Tensor | None:
    """One value for each channel of the result, but for wgrad, which takes none."""
    if problem.face == "wgrad":
        return None
    return torch.randn(problem.open_shape[1], device=problem.device).to(problem.dtype)


def far_apart(t: Tensor, axis: int) -> Tensor:
    """A copy of `t` of size 2 along `axis`, with 2^31 elements in between, in memory that nothing else touches."""
    strides = list(t.contiguous().select(axis, 0).contiguous().stride())
    strides.insert(axis, 1 << 31)
    result = torch.empty((1 << 31) + t.numel(), dtype=t.dtype, device=t.device).as_strided(t.shape, strides)
    return result.copy_(t)
