"""The fused backward of the CUDA stencils, executed: both gradients on small odd problems, under several schedules."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import host_build
import pytest
import torch
from test_host_stencil import COMPILED, DTYPES, GENERAL, constant, depthwise, shifted, strided
from torch import Tensor

from convext.commands import check
from convext.problem import ConvProblem
from convext.problem.layout import dense
from convext.providers.cuda import native
from convext.providers.cuda import stencil as cuda_stencil


def operands(problem: ConvProblem) -> list[Tensor]:
    """y, w and x of the dgrad `problem`."""
    return [*check.operands(problem), dense(torch.randn(problem.x_shape).to(problem.dtype), problem.channels_last)]


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Memory that torch hands out uninitialised is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_both_agree(problem: ConvProblem, y: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    assert cuda_stencil.why_not_both(problem) is None
    dx, dw = cuda_stencil.run_both(problem, y, w, x)
    of_x = check.agreement(problem, y, w, None, dx)
    assert of_x.ok, f"x of {problem}: {of_x}"
    of_w = check.agreement(replace(problem, face="wgrad", channels_last=False), x, y, None, dw)
    assert of_w.ok, f"w of {problem}: {of_w}"
    return dx, dw


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", COMPILED)
def test_agrees_with_float64(host_library: Path, name, last, dtype) -> None:
    problem = depthwise("dgrad", *COMPILED[name], dtype=dtype, last=last)
    host_build.set_schedule(host_library, "priority", seed=len(name))
    assert_both_agree(problem, *operands(problem))


@pytest.mark.parametrize("change", [strided, shifted, constant])
@pytest.mark.parametrize("which", ["y", "w", "x"])
def test_operands_are_read_where_they_lie(host_library: Path, which, change) -> None:
    for name in ("3x3", "3x3 stride 2", "4 causal"):
        problem = depthwise("dgrad", *COMPILED[name], dtype=torch.bfloat16)
        given = operands(problem)
        given["ywx".index(which)] = change(given["ywx".index(which)])
        assert_both_agree(problem, *given)


@pytest.mark.parametrize("given_last", [False, True])
def test_memory_format_is_the_problems(host_library: Path, given_last) -> None:
    """Whatever that of the operands is: mixed formats lie in no common vectors."""
    problem = depthwise("dgrad", *COMPILED["3x3"], last=not given_last)
    dx, dw = assert_both_agree(problem, *(dense(t, given_last) for t in operands(problem)))
    assert dx.is_contiguous(memory_format=torch.contiguous_format if given_last else torch.channels_last)
    assert dw.is_contiguous()


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_every_schedule_gives_the_same_bits(host_library: Path, last) -> None:
    """Many strips, columns and channels, whose sums several blocks share."""
    problem = depthwise("dgrad", 2, 16, (33, 40), (3, 3), 1, 1, 1, last=last)
    assert problem.n * problem.k * problem.output[0] * problem.output[1] >= 4096 * 2 * problem.k // 8
    given = operands(problem)
    host_build.set_schedule(host_library, "sequential", 0)
    dx, dw = assert_both_agree(problem, *given)
    for schedule in host_build.SCHEDULES:
        host_build.set_schedule(host_library, schedule, 7)
        again = cuda_stencil.run_both(problem, *given)
        assert torch.equal(again[0], dx)
        assert torch.equal(again[1], dw)


REFUSED = {
    "taps": (GENERAL["9x9"], "kernel=(9, 9), stride=(1, 1), dilation=(1, 1)"),
    "strides": (GENERAL["3x2 stride (2, 3)"], "kernel=(3, 2), stride=(2, 3), dilation=(1, 2)"),
    "stride": ((1, 4, (9, 8), (5, 5), 2, 2, 1), "kernel=(5, 5), stride=(2, 2), dilation=(1, 1)"),
    "dilations": ((1, 4, (9, 8), (3, 3), 1, 1, (1, 2)), "kernel=(3, 3), stride=(1, 1), dilation=(1, 2)"),
    "multiplier": (GENERAL["multiplier 2"], "c=3, k=6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_numbers_what_is_not_compiled(host_library: Path, name) -> None:
    numbers, message = REFUSED[name]
    problem = depthwise("dgrad", *numbers)
    reason = cuda_stencil.why_not_both(problem)
    assert reason is not None
    assert message in reason
    with pytest.raises(RuntimeError, match="expected taps, stride and dilation that have a kernel of their own"):
        cuda_stencil.run_both(problem, *operands(problem))


BAD = {
    "shape of x": (torch.randn(2, 4, 6, 9), r"expected x of shape \[2, 4, 6, 8\], but got shape \[2, 4, 6, 9\]"),
    "rank of x": (torch.randn(4, 6, 8), r"expected x to have 4 dimensions, but got shape \[4, 6, 8\]"),
    "dtype of x": (torch.randn(2, 4, 6, 8).half(), "expected x to be Float, as a is, but got Half"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(host_library: Path, name) -> None:
    x, message = BAD[name]
    tensors = torch.randn(2, 4, 6, 8), torch.randn(4, 1, 3, 3), x, torch.empty(2, 4, 6, 8), torch.empty(4, 1, 3, 3)
    geometry = [1, 1], [1, 1], [1, 1], 4
    with pytest.raises(RuntimeError, match=f"stencil_backward: {message}"):
        native.operators("cpu").stencil_backward(*tensors, *geometry)
