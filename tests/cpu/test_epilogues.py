"""What follows a sum before it is stored, on every instruction set: activations and residuals against float64."""

import pytest
import torch
import torch.nn.functional as F
from problems import bias_of, problem
from test_kernels import misaligned, sliced, strided

from convext.commands import check
from convext.problem import ConvProblem, layout, reference
from convext.problem.epilogue import NAMES, Epilogue
from convext.providers import aten
from convext.providers.cpu import native

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TORCHS = {
    Epilogue("identity"): lambda z: z,
    Epilogue("silu"): F.silu,
    Epilogue("gelu"): F.gelu,
    Epilogue("relu"): F.relu,
    Epilogue("leaky_relu", (0.3,)): lambda z: F.leaky_relu(z, 0.3),
    Epilogue("clamp", (0.0, 6.0)): F.relu6,
    Epilogue("clamp", (-0.5, 0.25)): lambda z: z.clamp(-0.5, 0.25),
    Epilogue("hardswish"): F.hardswish,
    Epilogue("hardsigmoid"): F.hardsigmoid,
    Epilogue("gelu_tanh"): lambda z: F.gelu(z, approximate="tanh"),
    Epilogue("sigmoid"): torch.sigmoid,
    Epilogue("tanh"): torch.tanh,
}
# One of each path: rows in place, planes that share loads, strides, steps, channels that lie innermost, groups.
PATHS = (
    "1d in place", "1d strided", "3x3", "3x3 narrow", "5x5 multiplier", "3x2 steps (2, 3), (1, 2)", "3d", "grouped 2",
    "grouped 3 to 5", "3x3 of many channels", "5x5 stride 2 of many channels", "4x4 steps (2, 3) of many channels",
)  # fmt: skip


def test_every_activation_is_tried():
    assert {epilogue.name for epilogue in TORCHS} == set(NAMES)


def assert_right(isa, p, epilogue, a, b, bias, residual):
    """By the tolerance rule: twice the error of torch's composition in the dtype, and two units in the last place."""
    y = native.convolve(isa, p, a, b, bias, epilogue, residual)
    check.assert_described(p, y)
    sums, torchs_sums = reference.compute(p, a, b, bias), aten.run(p, a, b, bias)
    exact, torchs = TORCHS[epilogue](sums), TORCHS[epilogue](torchs_sums)
    if residual is not None:
        exact, torchs = exact + residual.double(), torchs + residual
    if p.dtype is torch.float64:  # whose error the oracle has itself
        return torch.testing.assert_close(y, exact, rtol=1e-13, atol=1e-13)
    torchs_error = (torchs - exact).abs().max()
    if epilogue.name == "clamp":  # few results are between the bounds: how torch rounds is seen in all sums
        torchs_error = torch.maximum(torchs_error, (torchs_sums - sums).abs().max())
    allowed = 2 * torchs_error + 2 * torch.finfo(p.dtype).eps * exact.abs().max()
    assert (y - exact).abs().max() <= allowed, f"{p}, {epilogue}, {'no ' * (residual is None)}residual"


def residual_of(p):
    return layout.dense(torch.randn(p.open_shape).to(p.dtype), p.channels_last)


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", PATHS)
def test_agrees_with_float64(isa, name, channels_last):
    for face in ("fprop", "dgrad"):
        for dtype in DTYPES:
            p = problem(face, name, dtype, channels_last)
            a, b, bias = *check.operands(p), bias_of(p)
            for epilogue in TORCHS:
                assert_right(isa, p, epilogue, a, b, bias, None)
                assert_right(isa, p, epilogue, a, b, bias, residual_of(p))


@pytest.mark.parametrize("change", [strided, sliced, misaligned])
def test_residuals_and_operands_of_any_strides(isa, change):
    for name in ("3x3", "grouped 2", "3x3 of many channels", "grouped 3d far taps"):
        for channels_last in (False, True):
            p = problem("fprop", name, torch.float32, channels_last)
            a, b = check.operands(p)
            residual = change(residual_of(p))
            before = residual.clone()
            assert_right(isa, p, Epilogue("hardswish"), change(a), b, None, residual)
            assert torch.equal(residual, before), "the residual was written to"


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("epilogue", TORCHS, ids=str)
def test_what_is_not_finite_goes_where_torch_lets_it_go(isa, epilogue, channels_last):
    """By kernels of one tap, 1, so that sums are what they are of. (torch's float32 makes NaN of GELU's infinity.)"""
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e30, -1e30, 100.0, -100.0, 0.0, -0.0])
    x = values.repeat(1, 32, 3, 2)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    w = torch.ones(32, 1, 1, 1)
    p = ConvProblem.of("fprop", x.shape, w.shape, x.shape[2:], (1, 1), (0, 0), (1, 1), 32, x.dtype, channels_last)
    y = native.convolve(isa, p, x, w, None, epilogue)
    expected = TORCHS[epilogue](x.double()).float()
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-30, equal_nan=True)


def test_uninitialised_memory_is_written_all_over(isa):
    torch.use_deterministic_algorithms(True)  # what torch allocates is then filled with NaN
    try:
        for name in PATHS:
            for channels_last in (False, True):
                for dtype in (torch.float32, torch.bfloat16):
                    p = problem("fprop", name, dtype, channels_last)
                    y = native.convolve(isa, p, *check.operands(p), None, Epilogue("silu"), residual_of(p))
                    assert y.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_bits_do_not_depend_on_threads(isa):
    p = problem("fprop", "3x3 of many channels", torch.float32, True)
    operands = check.operands(p)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(native.convolve(isa, p, *operands, None, Epilogue("silu")))
    torch.set_num_threads(1)
    assert torch.equal(*found)
