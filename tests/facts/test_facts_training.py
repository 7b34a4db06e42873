"""Training of a dilated convolution: mixed precision and gradient checkpointing."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

import convext

pytestmark = pytest.mark.usefixtures("backend")


def autocast_spellings(device: str) -> list:
    old = torch.cuda.amp.autocast if device == "cuda" else torch.cpu.amp.autocast
    return [torch.autocast(device, torch.bfloat16), old(dtype=torch.bfloat16)]


def scaler_spellings(device: str) -> list:
    old = torch.cuda.amp.GradScaler if device == "cuda" else torch.cpu.amp.GradScaler
    return [torch.amp.GradScaler(device), old()]


@pytest.mark.parametrize("spelling", [0, 1], ids=["torch.autocast", "amp.autocast"])
def test_mixed_precision(spelling, device):
    conv = convext.Conv2d(4, 6, 3, padding=2, dilation=2, device=device)
    optimiser = torch.optim.SGD(conv.parameters(), lr=0.1)
    before = conv.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the older spelling
        autocast, scaler = autocast_spellings(device)[spelling], scaler_spellings(device)[spelling]
    with autocast:
        y = conv(torch.randn(2, 4, 8, 9, device=device))
        loss = y.float().square().mean()
    assert y.dtype == torch.bfloat16
    scaler.scale(loss).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in conv.parameters()
    )
    scaler.step(optimiser)
    scaler.update()
    assert not torch.equal(conv.weight, before)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_torchs_gradients(use_reentrant, device):
    layers, torchs = (
        nn.Sequential(*[module.Conv2d(3, 3, 3, padding=d, dilation=d) for d in (1, 2, 4, 8)]).to(device)
        for module in (convext, nn)
    )
    torchs.load_state_dict(layers.state_dict())
    x = torch.randn(2, 3, 17, 18, device=device, requires_grad=True)

    def gradients(y: Tensor, net: nn.Module) -> tuple[Tensor, ...]:
        for t in (x, *net.parameters()):
            t.grad = None
        y.square().sum().backward()
        return tuple(t.grad for t in (x, *net.parameters()))

    plain = gradients(torchs(x), torchs)
    checkpointed = gradients(checkpoint_sequential(layers, 2, x, use_reentrant=use_reentrant), layers)
    for actual, expected in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(actual, expected)
