"""TF32: operands are rounded to nearest before they are multiplied, in every family with tensor cores."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch
import triton
import triton.language as tl
from single_face import Case, random_bias
from torch import Tensor

from convext.commands import check
from convext.problem import FACES, Face, reference
from convext.triton_kernels.grouped import record as grouped
from convext.triton_kernels.igemm import record as igemm
from convext.triton_kernels.pointwise import record as pointwise
from convext.triton_kernels.products import nearest_tf32


@triton.jit
def round_all(x, y, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y + i, nearest_tf32(tl.load(x + i)))


def rounded(t: Tensor) -> Tensor:
    """The nearest float32 with 13 bits of zeros, found in float64: ties away from zero. For normal numbers."""
    fraction, exponent = torch.frexp(t.double())
    nearest = torch.floor(fraction.abs() * 2**11 + 0.5) * 2.0**-11
    return torch.ldexp(torch.copysign(nearest, fraction), exponent).float()


def bits_of(t: Tensor) -> list[str]:
    return [f"{bits & 0xFFFFFFFF:08x}" for bits in t.view(torch.int32).tolist()]


def launched(t: Tensor) -> Tensor:
    result = torch.empty_like(t)
    round_all[(1,)](t, result, SIZE=t.numel())
    return result


def test_numbers_go_to_the_nearest(device: str) -> None:
    t = torch.randn(1 << 12, device=device) * 2.0 ** torch.randint(-100, 100, (1 << 12,), device=device)
    assert torch.equal(launched(t), rounded(t))


# Bits of a float32, and of what cvt.rna.tf32.f32 makes of it.
EDGES = {
    "a tie": ("3f801000", "3f802000"),
    "below a tie": ("3f800fff", "3f800000"),
    "a tie over an odd number": ("bf803000", "bf804000"),
    "into the next binade": ("3ffff000", "40000000"),
    "the smallest normal number": ("00800000", "00800000"),
    "the largest of TF32": ("7f7fe000", "7f7fe000"),
    "nearest to it": ("7f7fefff", "7f7fe000"),
    "the largest of float32": ("7f7fffff", "7f800000"),
    "Inf": ("7f800000", "7f800000"),
    "-Inf": ("ff800000", "ff800000"),
    "0": ("00000000", "00000000"),
    "-0": ("80000000", "80000000"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge: str, device: str) -> None:
    given, expected = EDGES[edge]
    bits = int(given, 16)
    t = torch.tensor([bits - (bits >> 31 << 32)], dtype=torch.int32, device=device).view(torch.float32)
    assert bits_of(launched(t)) == [expected]


@pytest.mark.parametrize("given", ["7fffffff", "ffffffff", "7fc00000", "ffc00000"])
def test_nan_stays_nan(given: str, device: str) -> None:
    """The GPU's own NaN has all its bits set: half a unit more would be -0."""
    if given == "ffffffff" and "EMULATOR_ARCH" in os.environ:
        pytest.skip("on the emulated GPU all ones are memory that nothing has written")
    bits = int(given, 16)
    t = torch.tensor([bits - (bits >> 31 << 32)], dtype=torch.int32, device=device).view(torch.float32)
    assert launched(t).isnan().all()


FAMILIES = {
    "pointwise": (pointwise, Case("", (5, 7), 2, 35, 37)),
    "grouped": (grouped, Case("", (5, 7), 2, 44, 44, 11, kernel=3, pad=1)),
    "igemm": (igemm, Case("", (6, 5), 2, 9, 7, kernel=3, pad=1)),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("face", FACES)
def test_products_err_by_rounding_their_factors_alone(
    face: Face, family: str, channels_last: bool, device: str
) -> None:
    """What comes out is the sum of float32's products of rounded operands."""
    kernels, case = FAMILIES[family]
    assert isinstance(kernels, ModuleType)
    problem = case.problem(face, torch.float32, channels_last, device, "tf32")
    a, b = check.operands(problem)
    bias = random_bias(problem)
    result = kernels.run(problem, a, b, bias)
    assert check.agreement(problem, rounded(a), rounded(b), bias, result).ok
    oracle = reference.compute(problem, a, b, bias)
    assert (result.double() - oracle).abs().max() > 2**-14 * oracle.abs().max(), "nothing was rounded"
