"""The Triton kernels of causal convolutions with an activation, compiled, against torch in float64."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from cases import ARCHITECTURES
from gpu_emulator import library
from gpu_emulator.triton_device import emulated
from torch.nn import functional as F

from convext.causal import triton_calls

ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["BCL", "BLC"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_forward_and_gradients(arch: int, channels_last: bool, activation: str) -> None:
    x, w, bias, grad = (torch.randn(*shape) for shape in ((2, 8, 37), (8, 4), (8,), (2, 8, 37)))
    if channels_last:
        x, grad = (t.mT.contiguous().mT for t in (x, grad))
    before = library.launches()
    with emulated(arch), mock.patch.object(triton_calls, "_arch", return_value=arch):
        y = triton_calls.forward(x, w, bias, None, None, None, None, 1, activation)
        by_x, by_w, by_bias, _ = triton_calls.backward(grad, x, w, bias, None, None, None, 1, activation)
    assert library.launches() >= before + 2
    exact = [t.double().requires_grad_() for t in (x, w, bias)]
    z = F.conv1d(F.pad(exact[0], (3, 0)), exact[1].unsqueeze(1), exact[2], groups=8)
    expected = ACTIVATIONS[activation](z)
    gradients = torch.autograd.grad(expected, exact, grad.double())
    for ours, theirs in zip((y, by_x, by_w, by_bias), (expected, *gradients), strict=True):
        torch.testing.assert_close(ours.double(), theirs.detach(), rtol=1e-5, atol=1e-4)
