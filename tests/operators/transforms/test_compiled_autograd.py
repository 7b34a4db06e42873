"""Backward passes that torch compiles (compiled autograd), of layers that differ in geometry alone."""

import pytest
import torch
import torch._dynamo.compiled_autograd as compiled_autograd

import convext


def gradients(module, dilation, x):
    torch.manual_seed(dilation)
    net = torch.nn.Sequential(
        module.Conv2d(3, 4, 3, padding=dilation, dilation=dilation),
        torch.nn.ReLU(),
        module.ConvTranspose2d(4, 3, 2, stride=2),
    ).to(x.device)
    x = x.detach().requires_grad_()
    loss = net(x).square().sum()
    with compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    return [x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kernel", ["auto", "aten"])
def test_gradients(kernel, memory_format, device):
    torch.compiler.reset()
    x = torch.randn(2, 3, 6, 5, device=device).to(memory_format=memory_format)
    for dilation in (1, 2, 1, 3):
        with convext.backend(kernel):
            actual = gradients(convext, dilation, x)
        for ours, expected in zip(actual, gradients(torch.nn, dilation, x), strict=True):
            torch.testing.assert_close(ours, expected)
