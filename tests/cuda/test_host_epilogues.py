"""What follows a convolution at the store of the CUDA kernels, executed: activations and residuals against float64."""

import zlib
from itertools import product
from pathlib import Path

import host_build
import pytest
import test_host_igemm
import test_host_stencil
import torch
import torch.nn.functional as F
from endings import STRIDED, TORCHS, assert_follows, residual_of
from test_host_stencil import depthwise, shifted, strided
from torch import Tensor

import convext
from convext.choice import registry, remembered
from convext.commands import check
from convext.conversion.fusion import Fused
from convext.operators.activated import _runs, activated
from convext.problem import ConvProblem, Face
from convext.problem.epilogue import NAMES, Epilogue
from convext.providers.cuda import igemm, stencil
from convext.replay.tape import record

RECORDS = {"cuda.stencil": stencil, "cuda.igemm": igemm}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of the problems of the bare kernels, what decides how they store: tiles, columns beyond an edge, several rows at once,
# taps that are not compiled in; pairs of channels and single ones, phases, of which some have no taps, copied results.
PATHS = {
    "cuda.stencil": (
        "3x3", "3x3 odd", "3x3 stride 2", "3x3 stride 2 odd", "3x3 unpadded", "7x7", "3x3x3", "4 causal", "4 odd",
        "multiplier 2", "3x2 stride (2, 3)",
    ),
    "cuda.igemm": (
        "3x3", "3x3, 3 channels", "2x2 stride 3", "stride 4, dilation 6", "pointwise", "grouped, odd", "1-D", "3-D",
    ),
}  # fmt: skip
EVERY_PATH = [(kernel, name) for kernel, names in PATHS.items() for name in names]
FURTHER = {  # a slope and bounds on the other side
    Epilogue("leaky_relu", (1.5,)): lambda z: F.leaky_relu(z, 1.5),
    Epilogue("clamp", (0.0, 6.0)): F.relu6,
    Epilogue("clamp", (0.5, -0.5)): lambda z: z.clamp(0.5, -0.5),
}
each_kernel = pytest.mark.parametrize("kernel", RECORDS)
each_face = pytest.mark.parametrize("face", ["fprop", "dgrad"])
each_layout = pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def problem_of(kernel: str, name: str, face: Face, dtype: torch.dtype, last: bool) -> ConvProblem:
    if kernel == "cuda.stencil":
        return depthwise(face, *test_host_stencil.PROBLEMS[name], dtype=dtype, last=last)
    return test_host_igemm.convolution(face, *test_host_igemm.PROBLEMS[name], dtype=dtype, last=last)


def operands(problem: ConvProblem) -> tuple[Tensor, Tensor, Tensor]:
    return *check.operands(problem), torch.randn(problem.open_shape[1]).to(problem.dtype)


def test_the_records_say_so() -> None:
    assert {kernel.name for kernel in registry.kernels() if kernel.activated and kernel.provider == "cuda"} == {
        *RECORDS
    }
    assert {epilogue.name for epilogue in TORCHS} == {*NAMES}


RESIDUALS = {
    "none": lambda r: None, "as the result": lambda r: r, **STRIDED, "shifted": shifted, "strided": strided,
}  # fmt: skip
EVERY = [*product(TORCHS, (False, True), RESIDUALS)]


def assert_each_follows(kernel: str, problem: ConvProblem, chosen: list[tuple[Epilogue, bool, str]]) -> None:
    """Each activation, with a bias or none, and residual; the tensors that are read stay as they are."""
    a, b, bias = operands(problem)
    given = {name: change(residual_of(problem)) for name, change in RESIDUALS.items()}
    before = {name: None if t is None else t.clone() for name, t in given.items()}
    for epilogue, has_bias, name in chosen:
        added = bias if has_bias else None
        found = RECORDS[kernel].run_activated(problem, epilogue, a, b, added, given[name])
        assert_follows(problem, epilogue, a, b, added, given[name], found)
    assert all(t is None or torch.equal(t, before[name]) for name, t in given.items())


@each_dtype
@each_layout
@each_face
@each_kernel
def test_activations_and_residuals(host_library: Path, kernel, face, last, dtype) -> None:
    """One in nine of all, others in each: over faces, formats and dtypes each comes."""
    turn = zlib.crc32(f"{kernel} {face} {last} {dtype}".encode()) % 9
    assert_each_follows(kernel, problem_of(kernel, "3x3", face, dtype, last), EVERY[turn::9])


@pytest.mark.long
@pytest.mark.turn("epilogues")
@each_dtype
@each_layout
@each_face
@each_kernel
def test_every_activation_with_every_residual(host_library: Path, kernel, face, last, dtype) -> None:
    host_build.set_schedule(host_library, "priority", seed=3)
    assert_each_follows(kernel, problem_of(kernel, "3x3", face, dtype, last), EVERY)


@each_dtype
@each_layout
@each_face
@pytest.mark.parametrize(("kernel", "name"), EVERY_PATH)
def test_every_path(host_library: Path, kernel, name, face, last, dtype) -> None:
    host_build.set_schedule(host_library, "random", seed=len(name))
    problem = problem_of(kernel, name, face, dtype, last)
    a, b, bias = operands(problem)
    residual = residual_of(problem)
    for epilogue, added in (
        (Epilogue("silu"), residual),
        (Epilogue("clamp", (-0.5, 0.7)), None),
        (Epilogue(), residual),
    ):
        found = RECORDS[kernel].run_activated(problem, epilogue, a, b, bias, added)
        assert_follows(problem, epilogue, a, b, bias, added, found)


@pytest.mark.long
def test_large_tiles(host_library: Path) -> None:
    problem = test_host_igemm.convolution("fprop", 1, 40, 1536, (11, 128), (1, 1))
    a, b, bias = operands(problem)
    residual = residual_of(problem)
    found = igemm.run_activated(problem, Epilogue("silu"), a, b, bias, residual)
    assert_follows(problem, Epilogue("silu"), a, b, bias, residual, found)


@each_layout
@each_kernel
@pytest.mark.parametrize("epilogue", [*TORCHS, *FURTHER], ids=str)
def test_far_numbers_go_where_torch_lets_them_go(host_library: Path, epilogue, kernel, last) -> None:
    """By one tap, 1, so that sums are what they are of: NaN, infinities, numbers near them and near zero."""
    finite = [3e38, -3e38, 1e30, -1e30, 100.0, -100.0, 5.0, 0.3, 0.2, -0.2, 1e-3, -1e-3, 1e-20, 0.0, -0.0]
    numbers = check.nearest_tf32(torch.tensor(finite))  # which cuda.igemm multiplies exactly
    x = torch.cat([numbers, torch.tensor([torch.nan, torch.inf, -torch.inf])]).view(1, 1, 1, -1)
    precision = "tf32" if kernel == "cuda.igemm" else "ieee"
    ones = (1, 1), (0, 0), (1, 1), 1  # stride, pad, dilation, groups
    problem = ConvProblem.of(
        "fprop", x.shape, (1, 1, 1, 1), x.shape[2:], *ones, x.dtype, last, "cpu", 0, precision
    )  # fmt: skip
    y = RECORDS[kernel].run_activated(problem, epilogue, x, torch.ones(1, 1, 1, 1), None, None)
    expected = {**TORCHS, **FURTHER}[epilogue](x.double()).float()
    gelus = 2e-7 if epilogue.name == "gelu" else 1e-30  # whose share of the normal distribution is a fit
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=gelus, equal_nan=True)


def call(kernel: str, problem: ConvProblem, epilogue: Epilogue, *tensors: Tensor | None) -> Tensor:
    p = problem
    geometry = p.open_shape[2:], p.stride, p.pad, p.dilation, p.groups, kernel
    return activated(p.face, *tensors, *geometry, epilogue.name, epilogue.scalars)


def torchs(problem: ConvProblem, epilogue: Epilogue, *tensors: Tensor | None) -> Tensor:
    """By torch's functions, which autograd knows. The output of a dgrad's fprop has no rest here."""
    p, (a, b, bias, residual) = problem, tensors
    if p.face == "fprop":
        z = F.conv2d(a, b, bias, p.stride, p.pad, p.dilation, p.groups)
    else:
        z = F.conv_transpose2d(a, b, bias, p.stride, p.pad, 0, p.groups, p.dilation)
    return TORCHS[epilogue](z) if residual is None else TORCHS[epilogue](z) + residual


# A derivative that jumps at a bound is another one where z is rounded to bfloat16 before it is computed.
JUMPS = {"clamp", "hardswish", "hardsigmoid"}
GRADIENTS = [
    *(("cuda.stencil", torch.float32, epilogue) for epilogue in TORCHS),
    *(("cuda.igemm", torch.bfloat16, epilogue) for epilogue in TORCHS if epilogue.name not in JUMPS),
]


@each_layout
@each_face
@pytest.mark.parametrize(("kernel", "dtype", "epilogue"), GRADIENTS, ids=str)
def test_gradients(host_library: Path, kernel, dtype, epilogue, face, last) -> None:
    """By all operands, through the operator, of what is remembered too, against torch's autograd in float64."""
    remembered.forget()
    problem = problem_of(kernel, "3x3", face, dtype, last)
    tolerance = 8 * torch.finfo(dtype).eps  # three roundings and the sums of some hundred terms
    for _ in range(2):
        leaves = [t.requires_grad_() for t in (*operands(problem), residual_of(problem))]
        exact = [t.detach().double().requires_grad_() for t in leaves]
        seed = torch.randn(problem.open_shape).to(dtype)
        y, y64 = call(kernel, problem, epilogue, *leaves), torchs(problem, epilogue, *exact)
        found = y, *torch.autograd.grad(y, leaves, seed)
        expected = y64, *torch.autograd.grad(y64, exact, seed.double())
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    remembered.forget()


@each_layout
@each_kernel
def test_calls_are_remembered(host_library: Path, kernel, last) -> None:
    """Of other values, of a residual that is x, that lies elsewhere or otherwise, and without one: in any order."""
    remembered.forget()
    problem, epilogue = problem_of(kernel, "3x3", "fprop", torch.bfloat16, last), Epilogue("silu")
    if kernel == "cuda.igemm":
        problem = test_host_igemm.convolution("fprop", 1, 16, 16, (5, 7), (3, 3), 1, 1, last=last)
    for _ in range(2):
        (a, b, bias), residual = operands(problem), residual_of(problem)
        for added in (residual, None, a, shifted(residual), STRIDED["the other format"](residual)):
            found = call(kernel, problem, epilogue, a, b, bias, added)
            assert_follows(problem, epilogue, a, b, bias, added, found)
    assert [type(run.args[0] if hasattr(run, "args") else run).__name__ for run in _runs.values()] == ["Replay"] * 5
    remembered.forget()


@each_layout
@each_kernel
def test_nothing_else_is_launched(host_library: Path, kernel, last) -> None:
    """What is written down is an allocation and one call, as of a bare convolution."""
    problem = problem_of(kernel, "3x3", "fprop", torch.bfloat16, last)
    a, b, bias = operands(problem)
    run = RECORDS[kernel].run_activated
    _, replay = record(lambda *t: run(problem, Epilogue("silu"), *t), a, b, bias, residual_of(problem))
    _, bare = record(lambda *t: RECORDS[kernel].run(problem, *t), a, b, bias)
    assert len(replay._steps) == len(bare._steps)


def test_explain_says_what_is_saved(host_library: Path) -> None:
    layer = Fused(convext.Conv2d(8, 8, 3, padding=1, groups=8), Epilogue("silu"), adds=False)
    for kernel in RECORDS:
        with convext.backend(kernel):
            told = convext.explain(layer.bfloat16(), (1, 8, 16, 16))
        assert f"epilogue: silu, by {kernel}, before the store: saves 2 passes over the result" in told
