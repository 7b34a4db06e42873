"""A depthwise and a pointwise convolution in one kernel, compiled, on the emulated GPU, against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gpu_emulator.triton_device import emulated

pytest.importorskip("triton", reason="Triton is not installed")

from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.problem.separable import SeparableProblem
from convext.triton_kernels.separable import record

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
TF32 = 2.0**-11  # what rounding to it costs at most of a number

# arch, dtype, precision, channels last, channels of x and y, input, taps, stride; padded to half the taps
CASES = {
    "WGMMA, in vectors of channels": (90, BF16, "ieee", True, 72, 64, (6, 8), 3, 1),
    "WGMMA, in chunks of a row": (90, F16, "ieee", False, 40, 64, (4, 16), 3, 1),
    "rows of taps in a loop, pixels one by one": (80, BF16, "ieee", False, 19, 35, (9, 7), 5, 2),
    "TF32": (120, F32, "tf32", True, 20, 18, (5, 6), 3, 1),
    "three TF32 products": (80, F32, "tf32x3", False, 17, 16, (5, 8), 3, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    arch, dtype, precision, last, c, k, input, taps, stride = CASES[name]
    size = tuple((i - 1) // stride + 1 for i in input)
    geometry = size, (stride,) * 2, (taps // 2,) * 2, (1, 1), dtype, (last, last), ("cuda", arch, precision)
    shapes = (2, c, *input), (c, 1, taps, taps), (k, c, 1, 1)
    problem = SeparableProblem.of(Epilogue("silu"), Epilogue("relu"), True, *shapes, *geometry)
    assert record.why_not(problem) is None
    x, w, v, bias, second_bias, residual = (
        torch.randn(shape).to(dtype) for shape in (*shapes, (c,), (k,), problem.pointwise.y_shape)
    )
    x, residual, v = layout.dense(x, last), layout.dense(residual, last), (v / c**0.5).to(dtype)

    def torchs(dtype: torch.dtype) -> torch.Tensor:
        t = F.silu(F.conv2d(x.to(dtype), w.to(dtype), bias.to(dtype), stride, taps // 2, 1, c))
        return torch.relu(F.conv2d(t, v.to(dtype), second_bias.to(dtype))) + residual.to(dtype)

    with emulated(arch):
        y = record.run(problem, x, w, bias, v, second_bias, residual)
    exact = torchs(torch.float64)
    allowed = 2 * (torchs(dtype) - exact).abs().max() + 4 * torch.finfo(dtype).eps * exact.abs().max()
    if precision == "tf32":  # both factors are rounded
        allowed += 2 * TF32 * exact.abs().max() * c**0.5
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert (y - exact).abs().max() <= allowed
