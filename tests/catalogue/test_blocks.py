"""The blocks: parameters, shapes, the mistakes that they are known for, and that they train, compile and checkpoint."""

from __future__ import annotations

import copy
import sys
import types
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from convext import blocks
from convext.analysis import output_shape, parameters, receptive_field
from convext.blocks import backbone
from convext.layers import DilatedConv2d
from convext.nn import Conv2d

# Every block, small, with an input that is neither square nor even.
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "NetworkInNetwork": (lambda: blocks.NetworkInNetwork(3, 16), (2, 3, 9, 8)),
    "ASPP": (lambda: blocks.ASPP(3, 4), (2, 3, 21, 20)),
    "EfficientASPP": (lambda: blocks.EfficientASPP(3, 6), (2, 3, 21, 20)),
    "MultiScaleExtractor": (lambda: blocks.MultiScaleExtractor(3, 4), (2, 3, 9, 8)),
    "HybridBlock": (lambda: blocks.HybridBlock(5), (2, 5, 9, 8)),
    "GradualDilation": (lambda: blocks.GradualDilation(4, 3), (2, 4, 9, 8)),
    "AntiGriddingBlock": (lambda: blocks.AntiGriddingBlock(4), (2, 4, 9, 8)),
    "AntiAliasedDilated": (lambda: blocks.AntiAliasedDilated(4, 5), (2, 4, 9, 8)),
    "SeparableDilatedConv": (lambda: blocks.SeparableDilatedConv(4, 5), (2, 4, 9, 8)),
    "SeparableDilatedConv1d": (lambda: blocks.SeparableDilatedConv1d(4, 5), (2, 4, 9)),
    "SegmentationHead": (lambda: blocks.SegmentationHead(4, (5, 6, 7)), (2, 4, 9, 8)),
    "WaveNetBlock": (lambda: blocks.WaveNetBlock(4, 2), (2, 4, 9)),
    "WaveNetStack": (lambda: blocks.WaveNetStack(4, 5, 3), (2, 4, 9)),
    "DilatedSegNet": (lambda: blocks.DilatedSegNet(5, channels=8), (2, 3, 33, 31)),
    "MobileDilatedSeg": (lambda: blocks.MobileDilatedSeg(5, channels=8), (2, 3, 33, 31)),
}


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_every_block_is_tested() -> None:
    assert set(SMALL) == set(blocks.__all__)


@pytest.mark.parametrize("name", SMALL)
def test_keeps_the_size(name: str) -> None:
    make, shape = SMALL[name]
    assert first(make()(torch.randn(shape))).shape[2:] == shape[2:]


@pytest.mark.parametrize("name", SMALL)
def test_trains_one_step(name: str) -> None:
    make, shape = SMALL[name]
    model, x = make(), torch.randn(shape)
    target = torch.randn_like(first(model(x)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = F.mse_loss(first(model(x)), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_compiles_without_graph_breaks(name: str) -> None:
    make, shape = SMALL[name]
    model, x = make().eval(), torch.randn(shape)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(first(compiled(x)), first(model(x)))


@pytest.mark.parametrize("name", SMALL)
def test_checkpointed_gradients_are_the_same(name: str) -> None:
    make, shape = SMALL[name]
    model, x = make().eval(), torch.randn(shape)
    grads = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
        model.zero_grad()
        first(run(x)).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("name", [name for name in SMALL if not name.endswith(("Net", "Seg"))])
def test_takes_what_convolutions_take_unbatched(name: str) -> None:
    make, shape = SMALL[name]
    model, x = make().eval(), torch.randn(shape)
    torch.testing.assert_close(first(model(x[0])), first(model(x))[0])


@pytest.mark.parametrize("name", SMALL)
def test_state_goes_through_a_checkpoint(name: str, tmp_path) -> None:
    make, shape = SMALL[name]
    a, b, x = make().eval(), make().eval(), torch.randn(shape)
    torch.save(a.state_dict(), tmp_path / "model.pt")
    b.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(first(a(x)), first(b(x)))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: blocks.NetworkInNetwork(3, 64), 10112),
        (lambda: blocks.WaveNetBlock(256), 328448),
        (lambda: blocks.WaveNetStack(256, 30), 9853440),
        (lambda: blocks.ASPP(2048, 256), 14681088 + 2048 * 256 + 256),
        (lambda: blocks.ASPP(2048, 256).branches, 14681088),
        (lambda: blocks.EfficientASPP(2048, 256), 291328),
        (lambda: blocks.EfficientASPP(960, 128), 70912),
        (lambda: blocks.MultiScaleExtractor(3, 64), 8960),
        (lambda: blocks.HybridBlock(64), 36928),
        (lambda: blocks.GradualDilation(64, 6), 222336),
        (lambda: blocks.AntiGriddingBlock(64), 73856),
        (lambda: blocks.SegmentationHead(64), 73856 + 295168 + 1180160),
        (lambda: blocks.SeparableDilatedConv(64, 64), 4800),
        (lambda: blocks.SeparableDilatedConv(64, 128), 8960),
        (lambda: DilatedConv2d(64, 64, 3, dilation=2), 36928),
    ],
)
def test_parameters(make: Callable[[], nn.Module], count: int) -> None:
    with torch.device("meta"):
        assert parameters(make()) == count


def test_parallel_branches_cost_fifty_times_the_reduced_ones() -> None:
    with torch.device("meta"):
        dense, reduced = blocks.ASPP(2048, 256).branches, blocks.EfficientASPP(2048, 256)
    assert parameters(dense) / parameters(reduced) == pytest.approx(50.4, abs=0.05)


# ----------------------------------------------------------------------------------- the mistakes, each by its block


def test_network_in_network_shape() -> None:
    assert output_shape(blocks.NetworkInNetwork(), (1, 3, 32, 32)) == (1, 64, 32, 32)


def test_wavenet_is_causal_and_keeps_the_length() -> None:
    block = blocks.WaveNetBlock(3, dilation=2).double()
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    following, skip = block(x)
    assert following.shape == skip.shape == (1, 3, 16)
    torch.testing.assert_close(following, x + skip)
    changed = x.clone()
    changed[..., 8:] = 0
    assert torch.equal(block(changed)[0][..., :8], following[..., :8])
    # What symmetric padding does instead: two samples more than the residual can take.
    assert nn.Conv1d(3, 3, 2, padding=2, dilation=2).double()(x).shape[-1] == 18


def test_wavenet_block_by_its_formula() -> None:
    block = blocks.WaveNetBlock(3, dilation=2).double()
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    w, b = block.filter_and_gate.weight, block.filter_and_gate.bias
    past = F.pad(x, (2, 0))
    z = torch.tanh(F.conv1d(past, w[:3], b[:3], dilation=2)) * torch.sigmoid(F.conv1d(past, w[3:], b[3:], dilation=2))
    torch.testing.assert_close(block(x)[1], F.conv1d(z, block.mix.weight, block.mix.bias))


def test_wavenet_stack_sums_the_skips_and_sees_3070_samples() -> None:
    stack = blocks.WaveNetStack(3, layers=4, cycle=2).double()
    assert [block.filter_and_gate.dilation[0] for block in stack.blocks] == [1, 2, 1, 2]
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    total, following = 0, x
    for block in stack.blocks:
        following, skip = block(following)
        total = total + skip
    torch.testing.assert_close(stack(x), total)
    full = blocks.WaveNetStack(1, 30)
    assert full.receptive_field == 3070
    assert receptive_field(full, torch.randn(1, 1, 6200)) == (3070,)


def test_aspp_gives_the_channels_that_it_promises() -> None:
    with torch.device("meta"):
        aspp = blocks.ASPP(2048, 256)
        assert aspp(torch.empty(1, 2048, 33, 33)).shape == (1, 1280, 33, 33)
    assert aspp.out_channels == 256 * 5
    assert 4 * 256 + 2048 == 3072  # what the concatenation has when the pooled branch keeps its channels


def test_aspp_branches() -> None:
    aspp, x = blocks.ASPP(3, 4).double(), torch.randn(2, 3, 21, 20, dtype=torch.float64)
    y = aspp(x)
    torch.testing.assert_close(y[:, :4], aspp.branches[0](x))
    rates = [branch.dilation[0] for branch in aspp.branches]
    assert rates == [1, 6, 12, 18]
    pooled = F.conv2d(F.adaptive_avg_pool2d(x, 1), aspp.pooled.weight, aspp.pooled.bias)
    torch.testing.assert_close(y[:, 16:], pooled.expand(-1, -1, 21, 20))


@pytest.mark.parametrize("channels", [1, 3, 6, 7, 8])
def test_efficient_aspp_takes_any_number_of_channels(channels: int) -> None:
    assert blocks.EfficientASPP(5, channels)(torch.randn(1, 5, 9, 8)).shape == (1, channels, 9, 8)


def test_multi_scale_channels_and_fields() -> None:
    extractor = blocks.MultiScaleExtractor(3, 64)
    assert output_shape(extractor, (1, 3, 40, 39)) == (1, 320, 40, 39)
    assert [receptive_field(branch)[0] for branch in extractor.branches] == [3, 5, 9, 17, 33]


def test_hybrid_keeps_odd_channels() -> None:
    assert output_shape(blocks.HybridBlock(64), (1, 64, 9, 8)) == (1, 64, 9, 8)
    assert [conv.out_channels for conv in blocks.HybridBlock(64).children()] == [32, 32]
    assert output_shape(blocks.HybridBlock(5), (1, 5, 9, 8)) == (1, 5, 9, 8)


def test_gradual_dilation_doubles_and_trains_unbatched() -> None:
    block = blocks.GradualDilation(4, 6)
    assert [layer[0].dilation[0] for layer in block.layers] == [1, 2, 4, 8, 16, 32]
    assert block(torch.randn(4, 9, 8)).shape == (4, 9, 8)
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(4)(torch.randn(4, 9, 8))


def test_anti_gridding_is_the_mean_of_two_dilations() -> None:
    block, x = blocks.AntiGriddingBlock(4).double(), torch.randn(1, 4, 9, 8, dtype=torch.float64)
    by_two = F.conv2d(x, block.by_two.weight, block.by_two.bias, padding=2, dilation=2)
    by_three = F.conv2d(x, block.by_three.weight, block.by_three.bias, padding=3, dilation=3)
    torch.testing.assert_close(block(x), (by_two + by_three) / 2)


def test_anti_aliased_does_not_darken_the_border() -> None:
    ones = torch.ones(1, 1, 5, 5)
    darkened = F.avg_pool2d(ones, 3, 1, 1)[0, 0]
    assert [round(darkened[i].item(), 4) for i in ((0, 0), (0, 2), (2, 2))] == [0.4444, 0.6667, 1.0]
    assert torch.equal(blocks.AntiAliasedDilated(1, 1).blur(ones), ones)


@pytest.mark.parametrize(
    ("kernel", "dilation", "shrunk"),
    [(2, 1, 15), (2, 2, 16), (2, 3, 15), (4, 1, 15), (4, 2, 16), (4, 3, 15), (3, 3, 16)],
)
def test_separable_dilated_keeps_the_length_under_even_kernels(kernel: int, dilation: int, shrunk: int) -> None:
    x = torch.randn(1, 4, 16)
    assert nn.Conv1d(4, 4, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation)(x).shape[-1] == shrunk
    assert blocks.SeparableDilatedConv1d(4, 5, kernel, dilation)(x).shape == (1, 5, 16)
    assert blocks.SeparableDilatedConv(4, 5, kernel, dilation)(torch.randn(1, 4, 16, 15)).shape == (1, 5, 16, 15)


def test_segmentation_head_keeps_the_resolution() -> None:
    for chosen, dilations in (({}, [1, 2, 5]), ({"dilations": (2, 4, 8)}, [2, 4, 8])):
        head = blocks.SegmentationHead(64, **chosen)
        assert output_shape(head, (1, 64, 33, 31)) == (1, 512, 33, 31)
        assert [layer.dilation[0] for layer in head if isinstance(layer, Conv2d)] == dilations


@pytest.mark.parametrize("net", [blocks.DilatedSegNet, blocks.MobileDilatedSeg])
def test_segmentation_logits_have_the_size_of_the_input(net: type[nn.Module]) -> None:
    with torch.device("meta"):
        assert net(21)(torch.empty(2, 3, 65, 47)).shape == (2, 21, 65, 47)


# -------------------------------------------------------------------------------------------------- backbones


def test_backbone_of_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    for name, package in [("resnet50", "torchvision"), ("mobilenet_v3_large", "torchvision"), ("timm:x", "timm")]:
        with pytest.raises(ImportError, match=f"pip install {package}, or use 'small'"):
            backbone.make(name)
    with pytest.raises(ValueError, match="no backbone 'large'"):
        backbone.make("large")


def test_timm_backbone_gives_its_last_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with timm's interface: a list of maps, and a table of their channels."""

    class Features(nn.Module):
        feature_info = types.SimpleNamespace(channels=lambda: [4, 8])

        def forward(self, x: Tensor) -> list[Tensor]:
            return [x[:, :1].expand(-1, 4, -1, -1), x[:, :1].expand(-1, 8, -1, -1)]

    def create_model(name: str, features_only: bool, output_stride: int) -> nn.Module:
        assert (name, features_only, output_stride) == ("tiny", True, 8)
        return Features()

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    net = blocks.DilatedSegNet(5, "timm:tiny", channels=4)
    assert net(torch.randn(1, 3, 9, 8)).shape == (1, 5, 9, 8)


@pytest.mark.parametrize(
    ("net", "name"), [(blocks.DilatedSegNet, "resnet50"), (blocks.MobileDilatedSeg, "mobilenet_v3_large")]
)
def test_torchvision_backbones(net: type[nn.Module], name: str) -> None:
    pytest.importorskip("torchvision", reason="torchvision's backbones need torchvision")
    with torch.device("meta"):
        assert net(21, name).eval()(torch.empty(1, 3, 65, 47)).shape == (1, 21, 65, 47)


def test_small_backbone() -> None:
    for separable in (False, True):
        small = backbone.SmallBackbone(8, separable)
        assert receptive_field(small) == (47, 47)
        assert output_shape(small, (1, 3, 65, 47)) == (1, small.out_channels, 9, 6)


# ------------------------------------------------------------------------------------- memory and mixed precision


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_dilated_stack(reentrant: bool) -> None:
    stack = nn.Sequential(*(DilatedConv2d(4, 4, 3, dilation=d) for d in (1, 2, 4, 8)))
    grads = []
    for run in (stack, lambda x: checkpoint_sequential(stack, 2, x, use_reentrant=reentrant)):
        stack.zero_grad()
        x = torch.randn(2, 4, 17, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        run(x).square().sum().backward()
        grads.append([x.grad, *(p.grad.clone() for p in stack.parameters())])
    torch.testing.assert_close(grads[1], grads[0])


def test_mixed_precision_in_both_spellings() -> None:
    layer, x = DilatedConv2d(4, 5, 3, dilation=2), torch.randn(2, 4, 9, 8)
    reference = copy.deepcopy(layer)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old_scaler, old = torch.cuda.amp.GradScaler(enabled=False), torch.cpu.amp.autocast(dtype=torch.bfloat16)
    new_scaler, new = torch.amp.GradScaler("cpu"), torch.amp.autocast("cpu", dtype=torch.bfloat16)
    for scaler, autocast in ((old_scaler, old), (new_scaler, new)):
        layer.zero_grad()
        with autocast:
            y = layer(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), reference, atol=0.05, rtol=0.05)
        scaler.scale(y.float().square().mean()).backward()
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in layer.parameters())
