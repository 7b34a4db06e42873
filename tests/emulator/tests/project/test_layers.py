"""Layers and their gradients through the emulated GPU: dispatch, launchers and autograd as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from gpu_emulator import library
from gpu_emulator.triton_device import emulated

import convext
from convext.choice import registry, remembered, settings
from convext.operators import forward


@contextmanager
def convext_emulated(arch: int) -> Iterator[None]:
    """The emulated device, with convext's operators told that CPU tensors lie on it."""

    def machine(t: torch.Tensor) -> tuple[str, int, str]:
        return "cuda", arch, settings.fp32_precision() if t.dtype is torch.float32 else "ieee"

    registry.arch.cache_clear()
    remembered.forget()
    with emulated(arch), mock.patch.object(forward, "machine", machine):
        yield
    registry.arch.cache_clear()
    remembered.forget()


LAYERS = {
    "depthwise": {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6},
    "large depthwise": {"in_channels": 2, "out_channels": 2, "kernel_size": 9, "padding": 4, "groups": 2},
    "pointwise": {"in_channels": 16, "out_channels": 8, "kernel_size": 1},
    "grouped": {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1, "groups": 4},
    "dilated": {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 2, "dilation": 2},
}


@pytest.mark.parametrize(("name", "arch"), [*((name, 90) for name in LAYERS), ("depthwise", 80), ("grouped", 120)])
def test_layer(name: str, arch: int) -> None:
    """Output and all gradients, against torch.nn in float64."""
    layer = convext.Conv2d(**LAYERS[name])
    x = torch.randn(2, layer.in_channels, 9, 8, requires_grad=True)
    reference = torch.nn.Conv2d(**LAYERS[name]).double()
    reference.load_state_dict(layer.state_dict())
    x64 = x.detach().double().requires_grad_()
    before = library.launches()
    with convext_emulated(arch), convext.backend("triton"), convext.precision("ieee"):
        for _ in range(2):  # what was launched first, and what is then launched from memory
            y = layer(x)
            found = torch.autograd.grad((y * y).sum(), (x, layer.weight, layer.bias))
    assert library.launches() >= before + 2 * 4  # the result, and three gradients
    y64 = reference(x64)
    expected = torch.autograd.grad((y64 * y64).sum(), (x64, reference.weight, reference.bias))
    for ours, theirs in zip((y, *found), (y64, *expected), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["depthwise", "pointwise", "grouped"])
def test_a_layer_called_again(name: str) -> None:
    """Its launches come from memory then; the device checks that vector loads are at addresses that allow them."""
    layer = convext.Conv2d(**LAYERS[name])
    memory = torch.randn(2, 2 * layer.in_channels * 64 + 1)
    rows = memory[0, :-1], memory[0, 1:], memory[1, :-1]  # that begin at multiples of 16 bytes, and that do not
    images = [row.view(2, layer.in_channels, 8, 8) for row in rows]
    with convext_emulated(90), convext.backend("triton"), convext.precision("ieee"), torch.no_grad():
        for x in (*images, *images):
            before = library.launches()
            y = layer(x)
            assert library.launches() > before
            oracle = torch.nn.functional.conv2d(
                x.double(), layer.weight.double(), layer.bias.double(), layer.stride, layer.padding, layer.dilation,
                layer.groups,
            )  # fmt: skip
            torch.testing.assert_close(y.double(), oracle, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["large depthwise", "grouped", "dilated"])
def test_temporaries_of_a_call_from_memory(name: str) -> None:
    """Channels last in bfloat16: copies, bands and partial sums, of which some are read through tensor maps."""
    layer = convext.Conv2d(**LAYERS[name]).bfloat16()
    reference = torch.nn.Conv2d(**LAYERS[name]).double()
    reference.load_state_dict(layer.state_dict())
    with convext_emulated(90), convext.backend("triton"):
        for _ in range(3):
            x = torch.randn(2, layer.in_channels, 9, 8).bfloat16().contiguous(memory_format=torch.channels_last)
            x.requires_grad_()
            y = layer(x)
            gradient = torch.randn_like(y)
            found = torch.autograd.grad(y, (x, *layer.parameters()), gradient)
            x64 = x.detach().double().requires_grad_()
            y64 = reference(x64)
            expected = torch.autograd.grad(y64, (x64, *reference.parameters()), gradient.double())
            for ours, theirs in zip((y, *found), (y64, *expected), strict=True):
                torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=2**-5)
