"""The CUDA stencils, executed: every face, tile, layout and dtype on small odd problems, under several schedules."""

from pathlib import Path

import host_build
import pytest
import torch
from endings import assert_added_last
from torch import Tensor

from convext.commands import check
from convext.problem import FACES, ConvProblem, output_size, reference
from convext.providers.cuda import stencil as cuda_stencil

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def depthwise(face, n, c, size, kernel, stride=1, pad=0, dilation=1, multiplier=1, dtype=torch.float32, last=False):
    """A depthwise problem with the same stride, padding and dilation on every axis (or a tuple of them)."""
    rank = len(size)
    stride, pad, dilation = (v if isinstance(v, tuple) else (v,) * rank for v in (stride, pad, dilation))
    output = output_size(size, kernel, stride, pad, pad, dilation)
    return ConvProblem(
        face, n, c, c * multiplier, c, size, kernel, output, stride, pad, dilation, dtype, last, "cpu", 0, "ieee"
    )


# n, channels, input, kernel, stride, pad, dilation, multiplier. Channels of 8 make 16-byte vectors in NHWC, widths of 8
# in NCHW; the others take scalars.
COMPILED = {
    "3x3": (2, 8, (5, 16), (3, 3), 1, 1, 1),
    "3x3 odd": (1, 3, (7, 9), (3, 3), 1, 1, 1),
    "3x3 stride 2": (1, 8, (8, 32), (3, 3), 2, 1, 1),
    "3x3 stride 2 odd": (2, 3, (7, 9), (3, 3), 2, 1, 1),
    "3x3 dilation 2": (1, 8, (7, 16), (3, 3), 1, 2, 2),
    "3x3 unpadded": (1, 8, (6, 10), (3, 3), 1, 0, 1),
    "5x5": (1, 8, (6, 8), (5, 5), 1, 2, 1),
    "7x7": (1, 8, (9, 8), (7, 7), 1, 3, 1),
    "7x7 odd": (1, 2, (3, 5), (7, 7), 1, 3, 1),
    "3x3x3": (1, 8, (3, 4, 8), (3, 3, 3), 1, 1, 1),
    "3x3x3 odd": (2, 3, (4, 3, 5), (3, 3, 3), 1, 1, 1),
    "3x3x3 depth stride": (1, 8, (5, 4, 8), (3, 3, 3), (2, 1, 1), 1, 1),
    "3 causal": (2, 8, (24,), (3,), 1, 2, 1),
    "4 causal": (2, 8, (24,), (4,), 1, 3, 1),
    "4 odd": (1, 5, (19,), (4,), 1, 3, 1),
    "5 same": (1, 8, (16,), (5,), 1, 2, 1),
}
GENERAL = {
    "3x2 stride (2, 3)": (2, 3, (9, 11), (3, 2), (2, 3), (1, 0), (1, 2)),
    "9x9": (1, 2, (6, 7), (9, 9), 1, 4, 1),
    "multiplier 2": (1, 3, (6, 8), (3, 3), 1, 1, 1, 2),
    "2x3x2": (1, 4, (4, 5, 6), (2, 3, 2), (1, 2, 1), 1, (2, 1, 1)),
    "6 stride 4": (2, 4, (21,), (6,), 4, 2, 3),
}
PROBLEMS = {**COMPILED, **GENERAL}


def assert_agrees(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    assert cuda_stencil.why_not(problem) is None
    result = cuda_stencil.run(problem, a, b, bias)
    found = check.agreement(problem, a, b, bias, result)
    assert found.ok, f"{problem}: {found}"
    return result


def with_bias(problem: ConvProblem) -> Tensor | None:
    return None if problem.face == "wgrad" else torch.randn(problem.open_shape[1]).to(problem.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_agrees_with_float64(host_library: Path, face, name, last, dtype) -> None:
    problem = depthwise(face, *PROBLEMS[name], dtype=dtype, last=last)
    host_build.set_schedule(host_library, "priority", seed=len(name))
    assert_agrees(problem, *check.operands(problem), with_bias(problem))


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", ["fprop", "dgrad"])
def test_a_large_bias_is_added_last(host_library: Path, face, name, last) -> None:
    problem = depthwise(face, *PROBLEMS[name], dtype=torch.float32, last=last)
    (a, b), bias = check.operands(problem), 1000 * with_bias(problem)
    sums = reference.compute(problem, a.double(), b.double(), None)
    assert_added_last(cuda_stencil.run(problem, a, b, bias), sums, bias)


@pytest.mark.parametrize("schedule", host_build.SCHEDULES)
@pytest.mark.parametrize("name", ["3x3", "9x9"])
def test_every_schedule_gives_the_same_bits(host_library: Path, name, schedule) -> None:
    problem = depthwise("wgrad", 3, *PROBLEMS[name][1:])
    a, b = check.operands(problem)
    host_build.set_schedule(host_library, "sequential", 0)
    expected = assert_agrees(problem, a, b)
    host_build.set_schedule(host_library, schedule, 7)
    assert torch.equal(assert_agrees(problem, a, b), expected)


def strided(t: Tensor) -> Tensor:
    """`t`'s values, every second element of each axis of something larger."""
    large = torch.full([2 * s + 1 for s in t.shape], float("nan"), dtype=t.dtype)
    view = large[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


def shifted(t: Tensor) -> Tensor:
    """`t`'s values one element beyond an aligned address."""
    return torch.full((t.numel() + 1,), float("nan"), dtype=t.dtype)[1:].view(t.shape).copy_(t)


def constant(t: Tensor) -> Tensor:
    """Stride 0 along every axis."""
    return t.flatten()[0].expand(t.shape)


@pytest.mark.parametrize("change", [strided, shifted, constant])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("face", FACES)
def test_operands_are_read_where_they_lie(host_library: Path, face, which, change) -> None:
    for name in ("3x3", "4 causal", "multiplier 2"):
        problem = depthwise(face, *PROBLEMS[name], dtype=torch.bfloat16)
        operands = list(check.operands(problem))
        operands[which] = change(operands[which])
        assert_agrees(problem, *operands)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("face", ["fprop", "dgrad"])
def test_memory_format_is_the_problems(host_library: Path, face, last) -> None:
    problem = depthwise(face, *PROBLEMS["3x3"], last=last)
    result = assert_agrees(problem, *check.operands(problem))
    format = torch.channels_last if last else torch.contiguous_format
    assert result.is_contiguous(memory_format=format)


def test_wgrad_splits_its_sum(host_library: Path) -> None:
    """More outputs than one block takes: several partial sums, added in order."""
    problem = depthwise("wgrad", 2, 4, (66, 64), (3, 3), 1, 1, 1)
    assert problem.n * problem.output[0] * problem.output[1] >= 2 * 4096
    assert_agrees(problem, *check.operands(problem))
