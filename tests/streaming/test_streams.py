"""Chunk by chunk equals the whole signal, which torch's own layers compute in float64."""

from __future__ import annotations

import pytest
import torch
from causal_networks import (
    Apply,
    Cut,
    TorchWaveNet,
    batch_norm,
    gated,
    over_channels,
    padded,
    residual,
    stepped,
    trimmed,
    upsampled,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import convext
from convext import blocks, layers

C, LENGTH = 4, 60
SIZES = (1, 1, 0, 3, 1, 7, 2, 16, 1, 1)


def agree(model: nn.Module, sizes=SIZES, x: Tensor | None = None, whole: nn.Module | None = None) -> None:
    """Steps of `model` are what torch computes of the whole signal."""
    x = torch.randn(2, C, LENGTH, dtype=torch.float64) if x is None else x
    model = model.double().eval()
    with torch.no_grad():
        y = stepped(convext.streaming(model), x, sizes)
        expected = (model if whole is None else whole.double().eval())(x)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)


class PadsItself(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (2, 0)))


PATTERNS = {
    "constant pad": lambda: padded(C, 3, d=2),
    "zero pad": lambda: nn.Sequential(nn.ZeroPad1d((6, 0)), nn.Conv1d(C, C, 3, dilation=3)),
    "pad of another value": lambda: nn.Sequential(nn.ConstantPad1d((2, 0), 1.5), nn.Conv1d(C, C, 3)),
    "dilated pad of another value": lambda: nn.Sequential(
        nn.ConstantPad1d((4, 0), 1.5), nn.Conv1d(C, C, 3, dilation=2)
    ),
    "depthwise pad of another value": lambda: nn.Sequential(
        nn.ConstantPad1d((6, 0), 1.5), nn.Conv1d(C, C, 2, dilation=6, groups=C)
    ),
    "more padding than taps": lambda: nn.Sequential(nn.ConstantPad1d((7, 0), 1.5), nn.Conv1d(C, C, 3)),
    "pad in its own forward": lambda: nn.Sequential(PadsItself(C, C, 3), PadsItself(C, C, 3)),
    "pad behind, cut off": lambda: nn.Sequential(nn.ConstantPad1d((2, 3), 0.5), nn.Conv1d(C, C, 3), Cut(3)),
    "pad alone": lambda: nn.ConstantPad1d((3, 0), 2.0),
    "shifted by one": lambda: nn.Sequential(nn.ConstantPad1d((1, 0), 0.0), Cut(1)),
    "padding mode constant of pad": lambda: Apply(lambda x, f: f(nn.functional.pad(x, [2, 0])), nn.Conv1d(C, C, 3)),
    "trimmed": lambda: trimmed(C, 3, d=2),
    "trimmed at last": lambda: nn.Sequential(nn.Conv1d(C, C, 3, padding=2), nn.Conv1d(C, C, 3, padding=2), Cut(4)),
    "beginning cut off": lambda: Apply(lambda x, f: f(nn.functional.pad(x, (4, 0)))[..., 2:], nn.Conv1d(C, C, 3)),
    "one tap": lambda: nn.Conv1d(C, 3, 1),
    "one tap, stride": lambda: nn.Conv1d(C, 3, 1, stride=3),
    "even taps, far": lambda: padded(C, 4, d=9),
    "depthwise": lambda: padded(C, 3, groups=C),
    "grouped": lambda: padded(C, 3, d=2, groups=2),
    "no bias": lambda: nn.Sequential(nn.ZeroPad1d((1, 0)), nn.Conv1d(C, 5, 2, bias=False)),
    "strided": lambda: padded(C, 3, s=2),
    "strided twice": lambda: nn.Sequential(padded(C, 3, s=2), padded(C, 4, s=3, d=2)),
    "strided, whole frames": lambda: padded(C, 4, s=2, wait=1),
    "strided, waiting": lambda: padded(C, 5, s=3, wait=1),
    "strided, padded too much": lambda: padded(C, 3, s=2, wait=-3),
    "strided, trimmed": lambda: nn.Sequential(nn.Conv1d(C, C, 3, stride=2, padding=2), Cut(1)),
    "transposed": lambda: upsampled(C, 4, 2),
    "transposed, as long": lambda: upsampled(C, 3, 3),
    "transposed, gaps": lambda: upsampled(C, 2, 4),
    "transposed, dilated": lambda: upsampled(C, 3, 2, d=3),
    "transposed, grouped": lambda: upsampled(C, 5, 2, groups=2),
    "transposed, stride 1": lambda: upsampled(C, 3, 1),
    "transposed, behind a pad": lambda: Apply(
        lambda x, f: f(nn.functional.pad(x, (1, 0)))[..., 2:], nn.ConvTranspose1d(C, C, 2, 2)
    ),
    "upsampled, behind a pad": lambda: Apply(
        lambda x, f: f(nn.functional.pad(x, (1, 0)))[..., 2:], nn.Upsample(scale_factor=2)
    ),
    "down and up": lambda: nn.Sequential(padded(C, 4, s=2, wait=1), nn.ELU(), upsampled(C, 4, 2), padded(C, 3)),
    "across frames": lambda: residual(padded(C, 4, s=2, wait=1), upsampled(C, 4, 2)),
    "a net of two levels": lambda: residual(
        padded(C, 4, s=2, wait=1), residual(padded(C, 4, s=2, wait=1), upsampled(C, 4, 2)), upsampled(C, 4, 2)
    ),
    "max pool": lambda: nn.Sequential(padded(C, 2), nn.MaxPool1d(2), nn.MaxPool1d(3)),
    "average pool": lambda: nn.Sequential(nn.AvgPool1d(2), padded(C, 3)),
    "pool of each window": lambda: nn.Sequential(nn.ConstantPad1d((4, 0), -1.0), nn.MaxPool1d(3, 1, dilation=2)),
    "upsample": lambda: nn.Sequential(padded(C, 2), nn.Upsample(scale_factor=3), padded(C, 3)),
    "residual": lambda: residual(padded(C, 3), nn.ReLU(), padded(C, 3, d=2)),
    "padded behind and before": lambda: Apply(
        lambda x, f: (f(x) + nn.functional.pad(x, (2, 0)))[..., :-2], nn.Conv1d(C, C, 3, padding=2)
    ),
    "dense": lambda: Apply(lambda x, f: torch.cat([x, f(x)], 1), padded(C, 3)),
    "stacked": lambda: Apply(lambda x, f: torch.stack([x, f(x)], 2).sum(2), padded(C, 3)),
    "gated": lambda: gated(C, 3, d=2),
    "split": lambda: Apply(lambda x, f: (y := f(x).split(2, dim=1))[0] * y[1], padded(C, 3)),
    "channels by slices": lambda: Apply(lambda x, f: x[:, :1] * f(x)[:, 2:, :-1], nn.Conv1d(C, C, 2, padding=1)),
    "weighed by channels": lambda: Apply(lambda x, f: x * f(x).softmax(dim=1).mean(1, keepdim=True), padded(C, 3)),
    "norm of its own": lambda: Apply(
        lambda x, f: (f(x) - x.mean(1, True)) / (x.var(1, keepdim=True, unbiased=False) + 1).sqrt(), padded(C, 3)
    ),
    "pointwise": lambda: nn.Sequential(nn.Conv1d(C, C, 1), nn.PReLU(C), nn.Hardtanh(), nn.Dropout(0.5), nn.Identity()),
    "in place": lambda: nn.Sequential(padded(C, 3), nn.ReLU(inplace=True), padded(C, 3), nn.ELU(inplace=True)),
    "in place, unnamed": lambda: Apply(lambda x, f: (y := f(x), y.mul_(2), y)[-1], padded(C, 3)),
    "in place, behind a skip": lambda: Apply(
        lambda x, f, g: (y := f(x), z := y + g(y), y.relu_(), z)[-1],
        padded(C, 3), nn.Sequential(padded(C, 4, s=2, wait=1), upsampled(C, 4, 2)),
    ),
    "in place, of some channels": lambda: Apply(lambda x, f: (y := f(x), y[:, :2].relu_(), y)[-1], padded(C, 3)),
    "in place, of a copy": lambda: Apply(
        lambda x, f: (y := f(x))[..., :-2].contiguous().relu_() + y[..., :-2], nn.Conv1d(C, C, 3, padding=2)
    ),
    "in place, behind a pad": lambda: Apply(
        lambda x, f, g: (y := f(x), z := nn.functional.pad(y, (2, 0)), y.relu_(), g(z))[-1],
        padded(C, 3), nn.Conv1d(C, C, 3),
    ),
    "batch norm": lambda: nn.Sequential(padded(C, 3), batch_norm(C), padded(C, 2)),
    "layer norm": lambda: nn.Sequential(over_channels(C), padded(C, 3), over_channels(C)),
    "linear": lambda: Apply(lambda x, f: f(x.permute(0, 2, 1)).movedim(1, -1), nn.Linear(C, 3)),
    "an index of another axis": lambda: Apply(lambda x, f: f(x.unsqueeze(1)[:, 0, :]), padded(C, 3)),
    "an axis of None": lambda: Apply(lambda x, f: f(x[:, None].sum(1)), padded(C, 3)),
    "axes": lambda: Apply(lambda x, f: f(x.unsqueeze(1).squeeze(1).swapaxes(1, 2).transpose(-1, -2)), padded(C, 3)),
    "weight norm": lambda: nn.Sequential(nn.ZeroPad1d((2, 0)), weight_norm(nn.Conv1d(C, C, 3))),
    "old weight norm": lambda: nn.Sequential(nn.ZeroPad1d((2, 0)), nn.utils.weight_norm(nn.Conv1d(C, C, 3))),
    "one layer twice": lambda: Apply(lambda x, f: f(f(x)), padded(C, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("sizes", [SIZES, (1,) * LENGTH, (0,), (25, 25)], ids=["mixed", "ones", "whole", "halves"])
def test_a_pattern(name: str, sizes) -> None:
    agree(PATTERNS[name](), sizes)


LAYERS = st.one_of(
    st.builds(lambda k, d: padded(C, k, d=d), st.integers(1, 5), st.integers(1, 6)),
    st.builds(lambda k, d: trimmed(C, k, d=d), st.integers(1, 4), st.integers(1, 4)),
    st.builds(lambda k, g: padded(C, k, groups=g), st.integers(1, 4), st.sampled_from([1, 2, 4])),
    st.builds(lambda k, d: residual(gated(C, k, d=d)), st.integers(1, 4), st.integers(1, 4)),
    st.builds(lambda p, v: nn.ConstantPad1d((p, 0), v), st.integers(0, 4), st.floats(-1, 1)),
    st.sampled_from([2, 3]).flatmap(
        lambda s: st.builds(lambda k, w: padded(C, k + s, s=s, wait=w), st.integers(0, 3), st.integers(-2, s - 1))
    ),
    st.builds(lambda k, s: upsampled(C, k, s), st.integers(1, 5), st.integers(1, 3)),
    st.builds(lambda: nn.ReLU(inplace=True)),
    st.builds(lambda: over_channels(C)),
    st.builds(lambda: batch_norm(C)),
    st.builds(lambda s: nn.Upsample(scale_factor=s), st.integers(1, 2)),
)


@settings(max_examples=60)
@given(st.lists(LAYERS, min_size=1, max_size=5), st.lists(st.integers(0, 9), max_size=12))
def test_any_stack_in_any_chunks(stack: list[nn.Module], sizes: list[int]) -> None:
    x = torch.randn(2, C, sum(sizes) + 50, dtype=torch.float64)
    agree(nn.Sequential(*stack), sizes, x)


@pytest.mark.parametrize("sizes", [SIZES, (1,) * LENGTH])
def test_wavenet(sizes) -> None:
    ours, theirs = blocks.WaveNetStack(C, 7, 4), TorchWaveNet(C, 7, 4)
    theirs.load_state_dict(ours.state_dict())
    agree(ours, sizes, whole=theirs)
    agree(theirs, sizes)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (1, 4, 2), (2, 1, 1), (3, 2, 4)])
def test_convexts_causal_layers(stride: int, dilation: int, groups: int) -> None:
    """Both spellings, the layer alone and converted: torch's, with as many zeros in front."""
    theirs = padded(C, 3, d=dilation, s=stride, groups=groups)
    pads = ((2 * dilation, 0),)
    for ours in (
        layers.CausalConv1d(C, C, 3, stride, dilation, groups),
        convext.Conv1d(C, C, 3, stride, padding="causal", dilation=dilation, groups=groups),
        convext.Conv1d(C, C, 3, stride, padding=pads, dilation=dilation, groups=groups),
    ):
        ours.load_state_dict(theirs[1].state_dict())
        agree(ours, whole=theirs)
        agree(nn.Sequential(ours), whole=theirs)
    agree(convext.convert(theirs, inplace=False), whole=theirs)


def test_convexts_other_layers() -> None:
    separable = layers.DepthwiseSeparableConv1d(C, 6, 3, padding="causal", dilation=2)
    theirs = nn.Sequential(nn.ZeroPad1d((4, 0)), nn.Conv1d(C, C, 3, dilation=2, groups=C), nn.Conv1d(C, 6, 1))
    theirs[1].load_state_dict(separable.depthwise.state_dict())
    theirs[2].load_state_dict(separable.pointwise.state_dict())
    agree(separable, whole=theirs)
    flipped = layers.TrueConv1d(C, C, 3, padding="causal")
    theirs = padded(C, 3)
    theirs[1].weight.data, theirs[1].bias.data = flipped.weight.data.flip(-1), flipped.bias.data
    agree(flipped, whole=theirs)
    up = convext.ConvTranspose1d(C, C, 4, 2)
    theirs = upsampled(C, 4, 2)
    theirs[0].load_state_dict(up.state_dict())
    agree(nn.Sequential(up, Cut(2)), whole=theirs)


def test_numbers_through_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(9, C), Apply(lambda x: x.transpose(1, 2)), padded(C, 3)).double()
    agree(model, x=torch.randint(9, (2, LENGTH)))


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = padded(C, 3).double(), padded(C, 2, d=2).double()

        def forward(
            self, x: Tensor, condition: Tensor, scale=(2.0, 3.0), *, mask: Tensor | None = None, **rest
        ) -> dict:
            y = self.first(x) + self.second(condition) * scale[1]
            return {"y": y if mask is None else y * mask, "both": (x, condition)}

    model, x, condition = Two(), *torch.randn(2, 1, C, 20, dtype=torch.float64)
    stream, expected = convext.streaming(model), model(x, condition)
    made = [stream.step(a, b) for a, b in zip(x.split(3, -1), condition.split(3, -1), strict=True)]
    torch.testing.assert_close(torch.cat([out["y"] for out in made], -1), expected["y"], rtol=1e-11, atol=1e-11)
    assert torch.equal(torch.cat([out["both"][1] for out in made], -1), condition)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [SIZES, (1,) * LENGTH], ids=["mixed", "ones"])
def test_one_layer_keeps_the_tolerance_rule(dtype: torch.dtype, sizes, device: str) -> None:
    """Twice torch's own error against float64, plus two units in the last place."""
    for model in (padded(16, 3, d=4), padded(16, 4, s=2), upsampled(16, 4, 2)):
        model = model.to(device, dtype)
        x = torch.randn(2, 16, LENGTH, dtype=dtype, device=device)
        with torch.no_grad():
            ours, theirs = stepped(convext.streaming(model), x, sizes), model(x)
            exact = model.double()(x.double())
        unit = torch.finfo(dtype).eps * exact.abs().max()
        assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + 2 * unit
        assert ours.dtype == dtype
