"""Convolutions with what follows them, compiled: each family's kernels on the emulated GPU, against float64."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product

import commits
import pytest
import torch
import torch.nn.functional as F
from cases import ARCHITECTURES, BOX_TILE, Case, every
from gpu_emulator import library
from gpu_emulator.triton_device import emulated
from test_layers import convext_emulated
from tolerance import bound
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import convext
from convext.choice import registry
from convext.commands import check
from convext.conversion.fusion import Fused
from convext.problem import ConvProblem, layout, reference
from convext.problem.epilogue import Epilogue
from convext.triton_kernels.ending import Ending
from convext.triton_kernels.igemm import record as igemm
from convext.triton_kernels.igemm import tiles as igemm_tiles

TORCHS = {
    Epilogue("silu"): F.silu,
    Epilogue("clamp", (0.0, 6.0)): F.relu6,
    Epilogue("gelu_tanh"): lambda z: F.gelu(z, approximate="tanh"),
    Epilogue("tanh"): torch.tanh,
    Epilogue("leaky_relu", (0.1,)): lambda z: F.leaky_relu(z, 0.1),
    Epilogue("hardswish"): F.hardswish,
}
STEEPEST = 1.2  # of their derivatives: how much an error of the sum may grow
FAMILIES = ("stencil", "pointwise", "igemm", "grouped", "banded")


def sample() -> list[tuple[Case, Epilogue]]:
    """A case of every family on every device: others for each commit."""
    turn = commits.number()
    ranked = sorted(every(), key=lambda case: hashlib.sha256(f"{turn} {case}".encode()).digest())
    fused = [case for case in ranked if case.problem.face != "wgrad" and not case.wide]
    found = []
    for i, (arch, family) in enumerate(product(ARCHITECTURES, FAMILIES)):
        case = next(c for c in fused if c.problem.arch == arch and c.record == f"triton.{family}")
        found.append((case, list(TORCHS)[i % len(TORCHS)]))
    return found


def assert_follows(case: Case, epilogue: Epilogue, run: Callable[..., Tensor]) -> None:
    """With a residual. What the sum may err, the result may, and as much as one more rounding."""
    p = case.problem
    with emulated(p.arch):
        a, b, bias = case.operands()
        residual = layout.dense(torch.randn(p.open_shape).to(p.dtype), p.channels_last)
        result = run(p, epilogue, a, b, bias, residual)
    check.assert_described(p, result)
    z = reference.compute(p, a, b, bias)
    oracle = TORCHS[epilogue](z) + residual.double()
    products = "ieee" if case.record == "triton.stencil" else p.precision
    most = STEEPEST * bound(p, a, b, bias, z, products) + 2 * torch.finfo(p.dtype).eps * oracle.abs().max().item()
    assert (result.double() - oracle).abs().max().item() <= most


@pytest.mark.parametrize(("case", "epilogue"), sample(), ids=str)
def test_case(case: Case, epilogue: Epilogue) -> None:
    run = {kernel.name: kernel.activated for kernel in registry.kernels()}[case.record]
    assert run is not None
    assert_follows(case, epilogue, run)


@pytest.mark.parametrize("arch", [90, 120])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_product_by_tma(parts: int, arch: int) -> None:
    """In one sum, and in parts that a second kernel adds: that one finishes them."""

    def run(
        p: ConvProblem, epilogue: Epilogue, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        result, plan = layout.empty(p.open_shape, p.channels_last, a), igemm_tiles.planned(p, BOX_TILE, parts, True)
        return igemm.compute(p, a, b, bias, result, plan, Ending(epilogue, residual))

    by_tma = (case for case in every() if case.wide and case.record == "triton.igemm" and case.problem.arch == arch)
    case = next(case for case in by_tma if case.problem.face == "fprop" and case.problem.channels_last)
    assert_follows(case, Epilogue("silu"), run)


@pytest.mark.parametrize("arch", [80, 90])
def test_a_fused_layer(arch: int) -> None:
    """Its launches are a bare convolution's, the first time and from memory; x is its own residual."""
    conv = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
    for epilogue, adds in ((Epilogue("silu"), False), (Epilogue(), True)):
        layer = Fused(convext.convert(torch.nn.Sequential(conv))[0], epilogue, adds).eval()
        with convext_emulated(arch), convext.backend("triton"), torch.no_grad():
            for _ in range(2):
                x = torch.randn(2, 16, 9, 8)
                before = library.launches()
                y = layer(x, x) if adds else layer(x)
                assert library.launches() == before + 1
                z = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1, groups=16)
                torch.testing.assert_close(y.double(), z + x if adds else F.silu(z), rtol=1e-5, atol=1e-5)
