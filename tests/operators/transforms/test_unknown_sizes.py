"""Sizes that only the data tell, as in `x[mask]`, under torch.compile: in one graph, with torch's values."""

import pytest
import torch

import convext

KINDS = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
MASKED = {
    "batch": lambda x, mask: x[mask],
    "length": lambda x, mask: x[:, :, mask],
    "width": lambda x, mask: x[..., mask],
}


def compiled(function):
    torch.compiler.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def step(layer, masked, x, mask, wrap=lambda function: function):
    x = x.detach().requires_grad_()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        loss = wrap(lambda x, mask: layer(masked(x, mask)).square().sum())(x, mask)
    return loss, *torch.autograd.grad(loss, [x, *layer.parameters()])


@pytest.mark.parametrize("where", MASKED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_over_the_input(kind, where, device):
    rank = int(kind[-2])
    arguments = {"stride": 2, "padding": 1, "groups": 2}
    ours = getattr(convext, kind)(4, 4, 3, **arguments).to(device).double()
    theirs = getattr(torch.nn, kind)(4, 4, 3, **arguments).to(device).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(8, 4, *[8] * rank, device=device).double()
    x = x if rank == 2 else x.movedim(1, -1).contiguous().movedim(-1, 1)
    mask = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1], device=device).bool()
    with convext.backend("aten"):
        actual = step(ours, MASKED[where], x, mask, compiled)
    for mine, expected in zip(actual, step(theirs, MASKED[where], x, mask), strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("padding", ["causal", "same", ((1, 0),)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_paddings_beyond_whole_numbers(stride, padding, backend, device):
    if (padding, stride, backend) == ("same", 1, "auto") and torch.__version__ < "2.12":
        pytest.skip("torch's own call, whose conv1d asks u0 + 2 < 3 in torch 2.11")
    layer = convext.Conv1d(3, 4, 3, stride, padding=padding).to(device)
    x, mask = torch.randn(2, 3, 9, device=device), torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 1], device=device).bool()
    begin = 2 if padding == "causal" else 1
    total = 2 if padding == "causal" else 1 if padding == ((1, 0),) else 2 if stride == 1 else 1
    if padding == "same" and stride == 2:
        begin = 0  # 8 elements, 4 outputs: one zero, at the end
    padded = torch.nn.functional.pad(x[:, :, mask], (begin, total - begin))
    expected = torch.nn.functional.conv1d(padded, layer.weight, layer.bias, stride).square().sum()
    torch.testing.assert_close(step(layer, MASKED["length"], x, mask, compiled)[0], expected)
