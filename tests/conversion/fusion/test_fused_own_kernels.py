"""The ways of a fused layer by our own kernels for CPUs: which layers have them, and what they compute."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fusible import assert_by_the_rule, exact
from torch import nn

import convext
from convext.conversion.fusion import Fused, epilogues, pointwise
from convext.providers.cpu import library

pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_way_of_our_own_kernel(rank, adds, dtype):
    """Depthwise layers of any rank, in both formats; then with other weights, as a copy, with an input refused."""
    conv = getattr(convext, f"Conv{rank}d")(40, 40, 3, padding=1, stride=2, groups=40).requires_grad_(False).to(dtype)
    layer = Fused(conv, epilogues.Epilogue() if adds else epilogues.Epilogue("silu"), adds).eval()
    assert "stencil" in layer.ways
    layer.way = "stencil"

    def check(layer, x, residual):
        z = getattr(F, f"conv{rank}d")(
            x.double(), layer.conv.weight.double(), layer.conv.bias.double(), 2, 1, groups=40
        )
        exact = z + residual.double() if adds else F.silu(z)
        allowed = 4 * torch.finfo(dtype).eps * (1 + exact.abs().max())
        y = layer(x, residual) if adds else layer(x)
        assert y.dtype is dtype
        assert (y.double() - exact).abs().max() <= allowed
        return y

    x, residual = torch.randn(2, 40, *[9] * rank).to(dtype), torch.randn(2, 40, *[5] * rank).to(dtype)
    lies_last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    assert check(layer, x, residual).stride(1) != 1
    assert check(layer, lies_last, residual).stride(1) == 1
    conv.weight.mul_(2)
    check(layer, lies_last, residual)
    twin = copy.deepcopy(layer)
    twin.conv.weight.mul_(2)
    check(twin, lies_last, residual)
    check(layer, lies_last, residual)
    with pytest.raises(RuntimeError, match="40 channels"):
        layer(torch.randn(2, 39, *[9] * rank).to(dtype), residual if adds else None)


@pytest.mark.parametrize("name", ["identity", "relu", "silu"])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(("rank", "stride"), [(2, 1), (2, 2), (3, 1)])
def test_the_way_of_our_own_kernel_of_one_tap(rank, stride, adds, name, ran_pointwise):
    """In both formats; then with other weights, as a copy, with a residual that broadcasts and an input refused."""
    conv = getattr(convext, f"Conv{rank}d")(24, 40, 1, stride=stride).requires_grad_(False)
    layer = Fused(conv, epilogues.Epilogue(name), adds).eval()
    layer.way = "pointwise"
    assert "pointwise" in layer.ways

    def check(layer, x, *residual):
        for given in (x, x.contiguous(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)):
            z = getattr(F, f"conv{rank}d")(given, layer.conv.weight, layer.conv.bias, stride)
            torchs = layer.epilogue(z + residual[0] if residual else z)
            of_all = exact(layer.conv, given, residual[0] if residual else None, layer.epilogue)
            assert_by_the_rule(layer(given, *residual), torchs, of_all)

    x, residual = torch.randn(2, 24, *[7] * rank), torch.randn(2, 40, *[(7 - 1) // stride + 1] * rank)
    given = [residual] if adds else []
    check(layer, x, *given)
    conv.weight.mul_(2)
    check(layer, x, *given)
    twin = copy.deepcopy(layer)
    twin.conv.weight.mul_(2)
    check(twin, x, *given)
    check(layer, x, *given)
    assert len(ran_pointwise) == 8
    if adds:
        check(layer, x, residual[:1])
    with convext.backend("aten"):
        check(layer, x, *given)
    layer(x.requires_grad_(), *given)
    assert len(ran_pointwise) == 8
    with pytest.raises(RuntimeError, match="24 channels"):
        layer(torch.randn(2, 23, *[7] * rank), *given)


@pytest.fixture
def ran_pointwise(monkeypatch):
    """How often our own kernel of one tap ran."""
    runs, run = [], pointwise.Packed.run
    monkeypatch.setattr(pointwise.Packed, "run", lambda self, *call: (runs.append(1), run(self, *call))[1])
    return runs


def test_our_own_kernel_of_one_tap_is_no_way_for_what_it_does_not_compute():
    of = [
        convext.Conv2d(24, 40, 1, groups=2),
        convext.Conv2d(24, 40, 1, padding=1),
        convext.Conv2d(24, 40, (1, 2)),
        convext.Conv2d(24, 40, 1).double(),
        convext.Conv1d(24, 40, 1),
        convext.ConvTranspose2d(24, 40, 1),
        nn.utils.parametrizations.weight_norm(convext.Conv2d(24, 40, 1)),
    ]
    assert all("pointwise" not in Fused(conv, epilogues.Epilogue("relu"), False).ways for conv in of)
    assert "pointwise" in Fused(convext.Conv2d(24, 40, 1, padding="valid"), epilogues.Epilogue("relu"), True).ways


def test_our_own_kernel_is_no_way_for_what_it_does_not_compute():
    of = [
        (convext.Conv2d(4, 8, 3, groups=4), "silu", False),
        (convext.Conv2d(4, 4, 3, groups=2), "silu", False),
        (convext.ConvTranspose2d(4, 4, 3, groups=4), "silu", False),
        (convext.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4), "silu", False),
        (convext.Conv2d(4, 4, 3, padding="same", groups=4), "silu", False),
        (convext.Conv2d(4, 4, 3, groups=4), "relu", True),  # which follows the sum here
    ]
    assert all("stencil" not in Fused(conv, epilogues.Epilogue(name), adds).ways for conv, name, adds in of)
