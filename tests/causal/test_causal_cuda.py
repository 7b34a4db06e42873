"""What only a GPU shows: graphs, and more elements than 32 bits count."""

import pytest
import torch
import torch.nn.functional as F

from convext.causal_conv1d import causal_conv1d_fn, causal_conv1d_update

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("layout", ["length", "channels"])
def test_a_graph_replays(layout):
    """Forward, backward and a step are captured once, and follow their inputs."""
    shape = (2, 64, 96) if layout == "length" else (2, 96, 64)
    x = torch.randn(shape, device="cuda")
    x = (x if layout == "length" else x.transpose(1, 2)).requires_grad_()
    w, bias = torch.randn(64, 4, device="cuda", requires_grad=True), torch.randn(64, device="cuda", requires_grad=True)
    token, state = torch.randn(2, 64, device="cuda"), torch.randn(2, 64, 4, device="cuda")

    def work():
        y = causal_conv1d_fn(x, w, bias, activation="silu")
        with torch.no_grad():
            z = causal_conv1d_update(token, state, w, bias, "silu")
        return y, *torch.autograd.grad(y.square().sum(), (x, w, bias)), z

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()  # compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    with torch.no_grad():
        x.copy_(torch.randn_like(x)), token.copy_(torch.randn_like(token))
    before = state.clone()
    graph.replay()
    z = F.conv1d(x, w.unsqueeze(1), bias, padding=3, groups=64)[..., :96]
    y = F.silu(z)
    window = torch.cat([before[:, :, 1:], token.unsqueeze(2)], 2)
    step = F.silu((window * w).sum(2) + bias)
    exact = y, *torch.autograd.grad(y.square().sum(), (x, w, bias)), step
    for a, b in zip(results, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(state, window)


@pytest.mark.parametrize("layout", ["length", "channels"])
def test_more_elements_than_32_bits_count(layout):
    batch, channels, length = 3, 512, 2**31 // 1024 + 9
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("less than 30 GiB of memory are free")
    x = torch.zeros(batch, channels, length, dtype=torch.bfloat16, device="cuda")
    x = x if layout == "length" else x.transpose(1, 2).contiguous().transpose(1, 2)
    assert x.numel() > 2**31
    x[-1, -3:, -40:] = torch.randn(3, 40, device="cuda").bfloat16()
    w = torch.randn(channels, 4, device="cuda")
    x.requires_grad_()
    y = causal_conv1d_fn(x, w, activation="silu")
    (by_x,) = torch.autograd.grad(y, x, y)
    tail = x.detach()[-1:, -3:, -40:].double().requires_grad_()
    z = F.silu(F.conv1d(tail, w[-3:].double().unsqueeze(1), padding=3, groups=3)[..., :40])
    torch.testing.assert_close(y[-1:, -3:, -40:].double(), z, rtol=1e-2, atol=1e-2)
    (exact,) = torch.autograd.grad(z, tail, z.detach())
    torch.testing.assert_close(by_x[-1:, -3:, -40:].double(), exact, rtol=3e-2, atol=3e-2)
    assert not y[:-1].any()
