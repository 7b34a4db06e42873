"""Triton's own launch path on the emulated device: results, findings in its source's terms, registers from ptxas."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from gpu_emulator.library import CudaError
from gpu_emulator.triton_device import emulated
from torch import Tensor
from triton.compiler.compiler import max_shared_mem
from triton.tools.tensor_descriptor import TensorDescriptor

ARCHITECTURES = pytest.mark.parametrize("arch", [80, 90, 120])


@triton.jit
def scale(x, y, n, factor, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seen = (i < n) if MASKED else (i >= 0)
    tl.store(y + i, tl.load(x + i, mask=seen) * factor, mask=seen)


@triton.jit
def multiply(a, b, c, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    product = tl.dot(tl.load(a[0] + i * N + j), tl.load(b + i * N + j))
    tl.store(c + i * N + j, product * a[1])


@triton.jit
def copy_box(source, target, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    box = source.load([-1, 0])
    tl.store(target + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], box)


def test_each_device_has_its_own_shared_memory() -> None:
    """As the manual's table of compute capabilities says, whichever was emulated before."""
    for arch, kibibytes in ((120, 99), (90, 227), (80, 163), (90, 227)):
        with emulated(arch):
            assert max_shared_mem(0) == 1024 * kibibytes


def scaled(x: Tensor, y: Tensor, masked: bool = True) -> object:
    return scale[(triton.cdiv(x.numel(), 64),)](x, y, x.numel(), 2.0, BLOCK=64, MASKED=masked)


@ARCHITECTURES
def test_result(arch: int) -> None:
    x = torch.randn(100)
    with emulated(arch):
        y = torch.empty(100, device="cuda")
        compiled = scaled(x, y)
    assert torch.equal(y, 2 * x)
    assert 0 < compiled.n_regs <= 255
    assert compiled.n_spills == 0


@ARCHITECTURES
def test_products(arch: int) -> None:
    """Arguments in a tuple; tensor cores of float16: whole numbers are exact."""
    a, b = (torch.randint(-3, 4, (32, 32)).half() for _ in range(2))
    with emulated(arch):
        c = torch.empty(32, 32)
        multiply[(1,)]((a, 5), b, c, N=32)
    assert torch.equal(c, 5 * (a.double() @ b.double()).float())


def test_tensor_descriptor() -> None:
    x = torch.arange(64.0).view(8, 8)
    with emulated(90):
        target = torch.empty(4, 8)
        copy_box[(1,)](TensorDescriptor.from_tensor(x, [4, 8]), target, ROWS=4, COLUMNS=8)
    assert torch.equal(target, torch.cat([torch.zeros(1, 8), x[:3]]))


@ARCHITECTURES
def test_findings_in_the_terms_of_the_source(arch: int) -> None:
    x, line = torch.randn(100), scale.starting_line_number + 4
    with emulated(arch):
        y = torch.empty(100)
        words = rf"scale, test_triton_device\.py:{line}, block .* after the end of x: float32\(100,\)"
        with pytest.raises(RuntimeError, match=words):
            scaled(x, y, masked=False)
        scaled(x, y)  # the process lives on
    assert torch.equal(y, 2 * x)


def test_unwritten_tensor() -> None:
    with emulated(90):
        x = torch.empty(64)
        with pytest.raises(RuntimeError, match=r"reads what nothing has written: .* of x: float32"):
            scaled(x, torch.empty(64))
        x.zero_()
        scaled(x, torch.empty(64))


def test_too_much_shared_memory() -> None:
    """Triton refuses by what the driver says of the device: 99 KiB on one, 227 on the other, of which 128 are taken."""
    a, b, c = torch.zeros(128, 128), torch.zeros(128, 128), torch.full((128, 128), 7.0)
    with emulated(120), pytest.raises(Exception, match="out of resource: shared memory"):
        multiply[(1,)]((a, 5), b, c, N=128)
    assert c.eq(7).all()
    with emulated(90):
        multiply[(1,)]((a, 5), b, c, N=128)
    assert c.eq(0).all()


def test_no_such_device() -> None:
    with pytest.raises(CudaError, match=r"7\.0"), emulated(70):
        pass
    assert not torch.cuda.is_available()
