"""The CUDA implicit GEMM, executed: every face, family, way of copying, layout and dtype, on small odd problems."""

from dataclasses import replace
from pathlib import Path

import host_build
import pytest
import torch
from torch import Tensor

from convext.commands import check
from convext.problem import FACES, OPERANDS, ConvProblem, output_size, reference
from convext.providers.cuda import igemm as cuda_igemm
from convext.providers.cuda.launches import NOTHING, Launch, ending

BITS16 = (torch.float16, torch.bfloat16)


def convolution(face, n, c, k, size, kernel, stride=1, pad=0, dilation=1, groups=1, dtype=torch.bfloat16, last=True):
    rank = len(size)
    stride, pad, dilation = (v if isinstance(v, tuple) else (v,) * rank for v in (stride, pad, dilation))
    output = output_size(size, kernel, stride, pad, pad, dilation)
    precision = "tf32" if dtype is torch.float32 else "ieee"
    return ConvProblem(
        face, n, c, k, groups, size, kernel, output, stride, pad, dilation, dtype, last, "cpu", 0, precision
    )


# n, c, k, input, kernel, stride, pad, dilation, groups. Channels of 8 are copied in 16-byte vectors, others one by one.
PROBLEMS = {
    "3x3": (1, 16, 24, (5, 7), (3, 3), 1, 1, 1, 1),
    "3x3, 3 channels": (1, 3, 5, (6, 5), (3, 3), 1, 1, 1, 1),
    "3x3 stride 2": (2, 8, 16, (7, 6), (3, 3), 2, 1, 1, 1),
    "2x2 stride 3": (1, 8, 8, (7, 8), (2, 2), 3, 0, 1, 1),
    "4x4 stride (2, 1)": (1, 8, 8, (6, 5), (4, 4), (2, 1), (1, 2), 1, 1),
    "stride 2, dilation 2": (1, 8, 8, (9, 7), (3, 3), 2, 2, 2, 1),
    "stride 4, dilation 6": (1, 8, 8, (17,), (3,), 4, 6, 6, 1),
    "dilated": (1, 8, 16, (9, 7), (3, 3), 1, (3, 2), (3, 2), 1),
    "pointwise": (2, 40, 72, (5, 7), (1, 1), 1, 0, 1, 1),
    "grouped": (1, 32, 16, (4, 5), (3, 3), 1, 1, 1, 2),
    "grouped, odd": (1, 6, 9, (4, 5), (2, 3), 1, 1, 1, 3),
    "1-D": (2, 8, 8, (19,), (5,), 2, 2, 1, 1),
    "3-D": (1, 8, 8, (3, 4, 3), (3, 2, 3), (1, 2, 1), 1, 1, 1),
}


def assert_agrees(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    assert cuda_igemm.why_not(problem) is None
    result = cuda_igemm.run(problem, a, b, bias)
    found = check.agreement(problem, a, b, bias, result)
    assert found.ok, f"{problem}: {found}"
    return result


def with_bias(problem: ConvProblem) -> Tensor | None:
    return None if problem.face == "wgrad" else torch.randn(problem.open_shape[1]).to(problem.dtype)


@pytest.mark.parametrize("dtype", BITS16, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_agrees_with_float64(host_library: Path, face, name, last, dtype) -> None:
    problem = convolution(face, *PROBLEMS[name], dtype=dtype, last=last)
    host_build.set_schedule(host_library, "priority", seed=len(name))
    assert_agrees(problem, *check.operands(problem), with_bias(problem))


def to_tf32(t: Tensor) -> Tensor:
    """Rounded to 11-bit mantissas, halves away from zero."""
    return ((t.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("face", FACES)
def test_tf32_errs_by_rounding_its_factors_alone(host_library: Path, face, name) -> None:
    """Against float64 on factors that are rounded beforehand, the rule for float32 holds."""
    problem = convolution(face, *PROBLEMS[name], dtype=torch.float32)
    a, b = (to_tf32(t) for t in check.operands(problem))
    assert_agrees(problem, a, b)
    a, b = check.operands(problem)
    assert torch.equal(cuda_igemm.run(problem, a, b, None), cuda_igemm.run(problem, to_tf32(a), to_tf32(b), None))


@pytest.mark.parametrize("name", ["3x3", "3x3, 3 channels", "3x3 stride 2", "grouped"])
@pytest.mark.parametrize("face", FACES)
def test_three_tf32_products_are_nearly_float32(host_library: Path, face, name) -> None:
    """What is left out, a product of two remainders, is 2^-22 of a term."""
    problem = replace(convolution(face, *PROBLEMS[name], dtype=torch.float32), precision="tf32x3")
    a, b = check.operands(problem)
    result = cuda_igemm.run(problem, a, b, None)
    terms = reference.compute(problem, a.abs(), b.abs())
    error = (result.double() - reference.compute(problem, a, b)).abs()
    assert (error <= 2**-20 * terms).all(), (error / terms).max()


@pytest.mark.parametrize("schedule", host_build.SCHEDULES)
@pytest.mark.parametrize("face", FACES)
def test_every_schedule_gives_the_same_bits(host_library: Path, face, schedule) -> None:
    """More steps than stages, so that stages are reused."""
    problem = convolution(face, 1, 72, 40, (6, 25), (3, 3), 1, 1, 1, 1)
    a, b = check.operands(problem)
    host_build.set_schedule(host_library, "sequential", 0)
    expected = assert_agrees(problem, a, b)
    host_build.set_schedule(host_library, schedule, 11)
    assert torch.equal(assert_agrees(problem, a, b), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    "problem",
    [
        convolution("fprop", 1, 40, 1536, (11, 128), (1, 1)),
        convolution("dgrad", 1, 1536, 40, (11, 128), (1, 1)),
        convolution("wgrad", 1, 128, 128, (11, 12), (11, 12)),
    ],
    ids=FACES,
)
def test_large_tiles(host_library: Path, problem: ConvProblem) -> None:
    """Tiles are large where there are 132 of 128 x 128: 11 x 12 of pixels and channels, or, for wgrad, of taps."""
    host_build.set_schedule(host_library, "random", 3)
    assert_agrees(problem, *check.operands(problem))


def test_wgrad_splits_its_sum(host_library: Path) -> None:
    problem = convolution("wgrad", 2, 8, 8, (33, 33), (1, 1), 1, 0, 1, 1)
    assert problem.n * problem.output[0] * problem.output[1] >= 2 * 512
    assert_agrees(problem, *check.operands(problem))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("face", FACES)
def test_operands_are_read_by_their_strides(host_library: Path, face, which) -> None:
    """The operator itself: slices of larger tensors, and stride 0."""
    problem = convolution(face, *PROBLEMS["3x3"], last=False)
    p = problem
    for change in (lambda t: torch.stack([t, t], dim=-1)[..., 0], lambda t: t[:1, :1].expand(t.shape)):
        operands = list(check.operands(problem))
        operands[which] = change(operands[which])
        result = torch.empty(p.open_shape, dtype=p.dtype)
        Launch(
            "igemm",
            (face,),
            (*operands, None, None, result),
            (p.stride, p.pad, p.dilation, 1, *ending(NOTHING), "ieee"),
        )()
        found = check.agreement(problem, *operands, None, result)
        assert found.ok, f"operand {OPERANDS[face][which]}: {found}"


def test_refusals_name_the_numbers() -> None:
    problem = convolution("fprop", *PROBLEMS["3x3"], dtype=torch.float32)
    assert "precision is ieee" in cuda_igemm.why_not(replace(problem, precision="ieee"))
    assert "not torch.float64" in cuda_igemm.why_not(replace(problem, dtype=torch.float64))


def test_copies_are_listed() -> None:
    problem = convolution("fprop", *PROBLEMS["3x3"], last=False)
    assert cuda_igemm.copies(problem)[0] == "x is copied between contiguous and channels last: 1,120 bytes"
    assert cuda_igemm.copies(replace(problem, channels_last=True)) == []
    assert cuda_igemm.copies(convolution("fprop", *PROBLEMS["3x3, 3 channels"], last=False)) == []
