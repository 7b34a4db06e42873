"""`convext.lint` names each planted pitfall with its numbers, and is silent on the repaired model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convext
from convext import blocks
from convext.analysis import progress
from convext.layers import CausalConv1d, DilatedConv1d, DilatedConv2d, PointwiseConv2d
from convext.nn import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d


def image(size: int = 40, channels: int = 2) -> Tensor:
    return torch.randn(1, channels, size, size + 1)


def only(model: nn.Module, sample: Tensor, **options: bool) -> convext.analysis.Finding:
    (finding,) = convext.lint(model, sample, **options)
    return finding


def dilated(*dilations: int) -> nn.Sequential:
    return nn.Sequential(*(DilatedConv2d(2, 2, 3, d) for d in dilations))


@pytest.mark.parametrize(
    ("dilations", "numbers"),
    [((2, 2, 2, 2), "9/17 = 0.5294"), ((4, 4, 4), "7/25 = 0.2800"), ((2, 4, 8), "15/29 = 0.5172"),
     ((1, 2, 9), "21/25 = 0.8400")],
)  # fmt: skip
def test_gridding(dilations: tuple[int, ...], numbers: str) -> None:
    finding = only(dilated(*dilations), image())
    assert finding.pitfall == "gridding"
    assert numbers in finding.numbers
    assert "of the receptive field of output 20, 20 on axis 0" in finding.numbers
    assert finding.where == ", ".join(str(i) for i, d in enumerate(dilations) if d > 1)


@pytest.mark.parametrize("dilations", [(1, 2, 5), (2, 3, 2, 3), (1, 2, 4, 8)])
def test_no_gridding(dilations: tuple[int, ...]) -> None:
    assert convext.lint(dilated(*dilations), image()) == []


def test_gridding_is_repaired_by_a_dense_layer_anywhere() -> None:
    assert convext.lint(nn.Sequential(*dilated(2, 2), Conv2d(2, 2, 3, padding=1)), image()) == []
    assert convext.lint(nn.Sequential(Conv2d(2, 2, 3, padding=1), *dilated(2, 2)), image()) == []


def test_gridding_through_functions_and_residuals() -> None:
    class Residual(nn.Module):
        def __init__(self, *dilations: int) -> None:
            super().__init__()
            self.layers = dilated(*dilations)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + torch.relu(layer(x))
            return x

    assert only(Residual(2, 2, 2), image()).where == "layers.0, layers.1, layers.2"
    assert convext.lint(Residual(1, 2, 4), image()) == []


@pytest.mark.parametrize(
    ("kernel", "stride", "numbers"),
    [(3, 2, "sum 2, 1 inputs"), (5, 3, "sum 2, 2, 1 inputs"), (1, 2, "sum 1, 0 inputs")],
)
def test_checkerboard(kernel: int, stride: int, numbers: str) -> None:
    finding = only(ConvTranspose2d(2, 2, kernel, stride), image(8))
    assert (finding.pitfall, finding.where) == ("checkerboard", "the model")
    assert numbers in finding.numbers


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (6, 3), (2, 2), (3, 1)])
def test_no_checkerboard(kernel: int, stride: int) -> None:
    assert convext.lint(ConvTranspose2d(2, 2, kernel, stride), image(8)) == []
    resized = nn.Sequential(nn.Upsample(scale_factor=stride), Conv2d(2, 2, 3, padding=1))
    assert convext.lint(resized, image(8)) == []


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "numbers"),
    [(2, 1, 1, "turns size 16 into 17"), (4, 1, 1, "turns size 16 into 15"), (4, 3, 4, "turns size 16 into 15"),
     (2, 3, 1, "turns size 16 into 15")],
)  # fmt: skip
def test_even_kernel(kernel: int, dilation: int, padding: int, numbers: str) -> None:
    finding = only(Conv1d(2, 2, kernel, padding=padding, dilation=dilation), torch.randn(1, 2, 16))
    assert finding.pitfall == "even kernel"
    assert numbers in finding.numbers
    assert convext.lint(DilatedConv1d(2, 2, kernel, dilation), torch.randn(1, 2, 16)) == []


def test_even_kernel_that_breaks_a_residual_is_named_instead_of_raised() -> None:
    class Residual(nn.Module):
        def __init__(self, padding: int | str) -> None:
            super().__init__()
            self.conv = Conv1d(2, 2, 4, padding=padding)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    assert only(Residual(1), torch.randn(1, 2, 16)).where == "conv"
    assert convext.lint(Residual("same"), torch.randn(1, 2, 16)) == []


def test_causal_leak() -> None:
    def net(middle: nn.Module) -> nn.Module:
        return nn.Sequential(CausalConv1d(2, 2, 2), middle, nn.Tanh(), CausalConv1d(2, 2, 2, dilation=2))

    finding = only(net(Conv1d(2, 2, 5, padding=4, dilation=2)), torch.randn(1, 2, 40))
    assert (finding.pitfall, finding.where) == ("causal leak", "1")
    assert "up to 4 samples of their future" in finding.numbers
    assert convext.lint(net(CausalConv1d(2, 2, 5, dilation=2)), torch.randn(1, 2, 40)) == []
    assert convext.lint(blocks.WaveNetStack(2, 6, 3), torch.randn(1, 2, 40)) == []


def test_causal_leak_with_a_stride() -> None:
    leaky = nn.Sequential(CausalConv1d(2, 2, 3, stride=2), Conv1d(2, 2, 3, padding=1))
    assert "up to 2 samples" in only(leaky, torch.randn(1, 2, 41)).numbers
    assert convext.lint(nn.Sequential(*leaky[:1], CausalConv1d(2, 2, 3)), torch.randn(1, 2, 41)) == []


def test_causality_is_asked_of_models_that_claim_it() -> None:
    model = Conv1d(2, 2, 3, padding=1)
    assert convext.lint(model, torch.randn(1, 2, 20)) == []
    assert only(model, torch.randn(1, 2, 20), causal=True).pitfall == "causal leak"
    assert convext.lint(CausalConv1d(2, 2, 3), torch.randn(1, 2, 20), causal=True) == []


class PooledASPP(nn.Module):
    """ASPP as it is often written: the pooled branch keeps its channels."""

    def __init__(self, repaired: bool) -> None:
        super().__init__()
        self.aspp = blocks.ASPP(8, 4)
        self.repaired = repaired
        self.classifier = PointwiseConv2d(4 * 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.repaired:
            return self.classifier(self.aspp(x))
        pooled = x.mean((2, 3), keepdim=True).expand_as(x)
        return self.classifier(torch.cat([*(branch(x) for branch in self.aspp.branches), pooled], dim=1).relu())


def test_channel_mismatch_at_a_concatenation() -> None:
    finding = only(PooledASPP(repaired=False), image(channels=8))
    assert (finding.pitfall, finding.where) == ("channel mismatch", "classifier")
    assert finding.numbers == "takes 20 channels and gets 4 + 4 + 4 + 4 + 8 = 24"
    assert convext.lint(PooledASPP(repaired=True), image(channels=8)) == []


def test_channel_mismatch_without_a_concatenation() -> None:
    finding = only(nn.Sequential(Conv2d(2, 5, 1), Conv2d(4, 3, 1)), image())
    assert (finding.where, finding.numbers) == ("1", "takes 4 channels and gets 5")


def test_dead_taps() -> None:
    findings = convext.lint(blocks.ASPP(2, 2), image(8))
    assert [(f.pitfall, f.where) for f in findings] == [("dead taps", "branches.2"), ("dead taps", "branches.3")]
    assert findings[1].numbers == "8 of 9 taps read only padding with dilation 18x18 on a map of 8x9"
    assert convext.lint(blocks.ASPP(2, 2, rates=(1, 2, 4)), image(8)) == []


def test_dead_taps_on_one_axis() -> None:
    assert "6 of 9 taps" in only(DilatedConv2d(2, 2, 3, 10), torch.randn(1, 2, 8, 40)).numbers


def test_what_is_no_pitfall_is_raised() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        convext.lint(nn.Sequential(Conv2d(2, 2, 3), nn.Linear(3, 3)), image())


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(*dilated(2, 2), nn.BatchNorm2d(2), nn.Dropout())
    model[1].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    convext.lint(model, image())
    assert [m.training for m in model] == [True, False, True, True]
    assert all(not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (blocks.NetworkInNetwork(2, 4), image(12)),
        (blocks.SegmentationHead(2, (2, 2, 2)), image(40)),
        (blocks.GradualDilation(2, 3), image(24)),
        (blocks.AntiAliasedDilated(2, 2, 2), image(12)),
        (nn.Sequential(blocks.AntiGriddingBlock(2), blocks.AntiGriddingBlock(2)), image(24)),
        (blocks.MobileDilatedSeg(3, channels=8), torch.randn(1, 3, 80, 80)),
        (ConvTranspose1d(2, 2, 4, 2), torch.randn(1, 2, 9)),
    ],
)
def test_silent_on_good_blocks(model: nn.Module, sample: Tensor) -> None:
    assert convext.lint(model, sample) == []


def test_findings_read_as_a_sentence() -> None:
    text = str(only(ConvTranspose2d(2, 2, 3, 2), image(8)))
    assert text.startswith(
        "checkerboard at the model: kernel 3, stride 2 on axis 0: neighbouring outputs sum 2, 1 inputs."
    )
    assert text.endswith("Remedy: a kernel size that 2 divides, such as 4, or interpolation and a convolution.")


class Bottleneck(nn.Module):
    """As in a dilated ResNet-50, a tenth as wide."""

    runs = 0

    def __init__(self, channels: int, width: int, out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        sizes = [(channels, width, 1, 1, 1), (width, width, 3, stride, dilation), (width, out, 1, 1, 1)]
        self.layers = nn.Sequential(*(self.layer(*size) for size in sizes))
        self.down = self.layer(channels, out, 1, stride, 1) if channels != out else nn.Identity()

    def layer(self, a: int, b: int, kernel: int, stride: int, dilation: int) -> nn.Module:
        conv = Conv2d(a, b, kernel, stride, dilation * (kernel - 1) // 2, dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        Bottleneck.runs += len(x)
        return self.down(x) + self.layers(x)


def segmentation_net() -> nn.Module:
    """The 53 convolutions of a ResNet-50 with output stride 8, and a head."""
    body: list[nn.Module] = [Conv2d(3, 8, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 8
    for width, depth, stride, dilation in [(6, 3, 1, 1), (12, 4, 2, 1), (24, 6, 1, 2), (48, 3, 1, 4)]:
        for i in range(depth):
            body.append(Bottleneck(channels, width, 4 * width, stride if i == 0 else 1, dilation))
            channels = 4 * width
    return nn.Sequential(
        *body,
        blocks.ASPP(channels, 8, rates=(1, 2, 3)),
        PointwiseConv2d(40, 3),
        nn.Upsample(scale_factor=8, mode="bilinear"),
    )


def test_a_segmentation_network_is_run_twice() -> None:
    """Once as it is, and once for a gradient: there is nothing that this does not read."""
    net, sample = segmentation_net(), torch.randn(1, 3, 65, 65)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 59
    Bottleneck.runs = 0
    assert convext.lint(net, sample) == []
    assert Bottleneck.runs == 16 * 2


def test_progress_is_on_standard_error_after_two_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    convext.lint(dilated(2, 2), image())
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "SILENT", 0.0)
    convext.lint(dilated(2, 2), image())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["convext.lint looks for gridding: 1 of about 6 calls of layers"]
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    convext.lint(dilated(2, 2), image())
    assert re.fullmatch(r".*: 6 of about 6 calls of layers, 0 s left", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize("arguments", [("resnet", torch.zeros(1, 3, 9, 9)), (nn.Conv2d(3, 4, 3), (1, 3, 9, 9))])
def test_what_is_no_model_or_no_tensor_is_named(arguments: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="and a tensor that it is called with"):
        convext.lint(*arguments)
