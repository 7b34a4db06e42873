"""The kernels of csrc, as nvcc compiles them, through their own checks and launchers, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from cases import ARCHITECTURES, CONVOLUTIONS
from gpu_emulator import cuda_device, library
from test_epilogues import STEEPEST, TORCHS
from tolerance import bound
from torch import Tensor

from convext.commands import check
from convext.problem import FACES, ConvProblem, Face, output_size, reference
from convext.problem.epilogue import Epilogue
from convext.problem.layout import dense
from convext.providers.cuda import bias, igemm, native, stencil
from convext.providers.cuda.launches import NOTHING, Launch, ending

CSRC = Path(__file__).parents[4] / "csrc"
FLAGS = ["-DCONVEXT_CPU_TENSORS", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
ARITHMETIC = (
    (igemm, torch.float32, "tf32"), (igemm, torch.float32, "tf32x3"), (igemm, torch.float16, "ieee"),
    (igemm, torch.bfloat16, "ieee"), (stencil, torch.float32, "ieee"), (stencil, torch.float16, "ieee"),
    (stencil, torch.bfloat16, "ieee"),
)  # fmt: skip
pytestmark = pytest.mark.skipif(bool(cuda_device.missing()), reason=str(cuda_device.missing()))


@pytest.fixture(scope="session", autouse=True)
def _library() -> None:
    library.load()
    native.load_host_build(cuda_device.build(CSRC, FLAGS))


def problems(face: Face, dtype: torch.dtype, precision: str) -> Iterator[tuple[str, ConvProblem]]:
    """All of them, in both layouts, with their names."""
    for c, channels_last in product(CONVOLUTIONS, (False, True)):
        output = c.output or output_size(c.input, c.kernel, c.stride, c.pad, c.pad, c.dilation)
        problem = ConvProblem(
            face, c.n, c.c, c.k, c.groups, c.input, c.kernel, output, c.stride, c.pad, c.dilation, dtype,
            channels_last, "cpu", 0, precision,
        )  # fmt: skip
        words = [face, str(dtype).removeprefix("torch."), precision, "NHWC" if channels_last else "NCHW", c.name]
        yield " ".join(words), problem


CASES = {
    f"{record.__name__.rpartition('.')[2]} {name}": (record, problem)
    for (record, dtype, precision), face in product(ARITHMETIC, FACES)
    for name, problem in problems(face, dtype, precision)
    if record.why_not(problem) is None
}
BOTH = {
    name: problem
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
    for name, problem in problems("dgrad", dtype, "ieee")
    if stencil.why_not_both(problem) is None
}


@pytest.fixture
def _on_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """One of the devices, for which the compiled code is the same: they differ in what a launch may ask for."""
    with cuda_device.emulated(ARCHITECTURES[len(request.node.name) % len(ARCHITECTURES)]):
        yield


def assert_agrees(
    problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, result: Tensor, products: str
) -> None:
    check.assert_described(problem, result)
    oracle = reference.compute(problem, a, b, bias)
    assert (result.double() - oracle).abs().max().item() <= bound(problem, a, b, bias, oracle, products)


@pytest.mark.usefixtures("_on_device")
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64(name: str) -> None:
    record, problem = CASES[name]
    a, b = check.operands(problem)
    bias = None if problem.face == "wgrad" else torch.randn(problem.open_shape[1]).to(problem.dtype)
    before = library.launches()
    result = record.run(problem, a, b, bias)
    assert library.launches() > before
    assert_agrees(problem, a, b, bias, result, problem.precision)


# Every fifth that something may follow, with the activations by turns.
FOLLOWED = [*zip([name for name, (_, p) in CASES.items() if p.face != "wgrad"][::5], cycle(TORCHS), strict=False)]


@pytest.mark.usefixtures("_on_device")
@pytest.mark.parametrize(("name", "epilogue"), FOLLOWED, ids=str)
def test_what_follows_agrees_with_float64(name: str, epilogue: Epilogue) -> None:
    """With a bias and a residual. What the sum may err, the result may, and as much as one more rounding."""
    record, problem = CASES[name]
    a, b = check.operands(problem)
    bias = torch.randn(problem.open_shape[1]).to(problem.dtype)
    residual = dense(torch.randn(problem.open_shape).to(problem.dtype), problem.channels_last)
    result = record.run_activated(problem, epilogue, a, b, bias, residual)
    check.assert_described(problem, result)
    z = reference.compute(problem, a, b, bias)
    oracle = TORCHS[epilogue](z) + residual.double()
    rounding = 2 * torch.finfo(problem.dtype).eps * oracle.abs().max().item()
    most = STEEPEST * bound(problem, a, b, bias, z, problem.precision) + rounding
    assert (result.double() - oracle).abs().max().item() <= most


@pytest.mark.usefixtures("_on_device")
@pytest.mark.parametrize("name", BOTH)
def test_both_gradients_agree_with_float64(name: str) -> None:
    problem = BOTH[name]
    (y, w), x = check.operands(problem), dense(torch.randn(problem.x_shape).to(problem.dtype), problem.channels_last)
    dx, dw = stencil.run_both(problem, y, w, x)
    assert_agrees(problem, y, w, None, dx, "ieee")
    assert_agrees(replace(problem, face="wgrad", channels_last=False), x, y, None, dw, "ieee")


# Images [n, c, *space], by what is read and written in vectors: both ways; one way, of which one is more than a tile.
COPIED = {"vectors": (2, 72, 8, 8), "odd pixels": (3, 8, 5, 13), "several in a tile": (5, 16, 3)}


@pytest.mark.usefixtures("_on_device")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", COPIED)
def test_copies_between_formats_are_exact(name: str, dtype: torch.dtype, offset: int) -> None:
    """By the identity, of small integers: copies to channels last, a product, a copy back. x may begin anywhere."""
    shape = COPIED[name]
    x = torch.randint(-8, 9, (torch.Size(shape).numel() + offset,)).to(dtype)[offset:].view(shape)
    w = torch.eye(shape[1]).to(dtype).view(shape[1], shape[1], *[1] * (len(shape) - 2))
    result, one, zero = torch.empty_like(x), (1,) * (len(shape) - 2), (0,) * (len(shape) - 2)
    before = library.launches()
    Launch("igemm", ("fprop",), (x, w, None, None, result), (one, zero, one, 1, *ending(NOTHING), "tf32"))()
    assert library.launches() - before == 3
    assert torch.equal(result, x)


@pytest.mark.usefixtures("_on_device")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 72, 8, 8), (3, 5, 5, 13), (4, 8, 1, 1), (6, 40, 32, 32)], ids=str)
def test_a_biass_gradient_is_a_sum(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> None:
    """Against float64, within a rounding of the result and float32's of its terms."""
    y = dense(torch.randn(shape).to(dtype), channels_last)
    found, exact, terms = bias.run(None, y), y.double().sum((0, 2, 3)), y.double().abs().sum((0, 2, 3))
    assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 2**-20 * terms).all()


def test_a_finding_names_the_line_of_the_source() -> None:
    """Operands outside of the device's memory: the launch fails, with kernel, file, line and address."""
    _, outside = next(problems("fprop", torch.float32, "ieee"))
    a, b = check.operands(outside)
    with cuda_device.emulated(90), pytest.raises(RuntimeError, match=r"launch failed.*ILLEGAL_ADDRESS.*\.cuh:\d+"):
        stencil.run(outside, a, b, None)
