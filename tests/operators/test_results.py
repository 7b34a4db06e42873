"""What every kernel returns: a tensor of its own, that autograd lets the caller change in place."""

import pytest
import torch
from geometries import channels_last, operator

import convext
from convext.operators import convolve

KINDS = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
ORDERS = {"contiguous": lambda t: t, "channels_last": channels_last}


# How a kernel is called: past the dispatcher or through it, for training or inference, by operands in either order.
CALLS = {
    "direct, training": (convolve, True, "contiguous"),
    "dispatched, inference": (lambda face, *rest: operator(face)(*rest), False, "contiguous"),
    "direct, inference": (convolve, False, "channels_last"),
    "dispatched, training": (lambda face, *rest: operator(face)(*rest), True, "channels_last"),
}


@pytest.mark.parametrize(("call", "recorded", "order"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kernel", [kernel.name for kernel in convext.kernels()])
def test_results_are_no_views(call, recorded, order, kernel, face, geometry, device):
    a, b, bias = geometry.draw(face, device, torch.float32)
    a = ORDERS[order](a).requires_grad_(recorded)
    try:
        result = call(face, a, b, bias, *geometry.tail(face), kernel)
    except ValueError:
        return  # test_choose.py holds which kernel takes what
    assert not result._is_view()
    assert result.storage_offset() == 0
    assert result.untyped_storage().nbytes() == result.numel() * result.itemsize
    if recorded:
        result.relu_()


@pytest.mark.parametrize(
    "kind", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [(), (2,)], ids=["unbatched", "batched"])
def test_activations_in_place(batch, order, kind, backend, device):
    ours = torch.nn.Sequential(getattr(convext, kind)(4, 4, 3), torch.nn.ReLU(inplace=True)).to(device)
    theirs = torch.nn.Sequential(getattr(torch.nn, kind)(4, 4, 3), torch.nn.ReLU(inplace=True)).to(device)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*batch, 4, *[6] * int(kind[-2]), device=device)
    x = ORDERS[order](x) if batch else x
    for net in (ours, theirs):
        net(x).square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
