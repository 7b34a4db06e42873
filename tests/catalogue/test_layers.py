"""The named layers: parameters, shapes, and what each is equal to."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import convext
from convext import layers
from convext.nn import Conv1d, Conv2d


def weights(module: torch.nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight"))


def sample(rank: int, channels: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, *(9, 8, 7)[:rank], dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_depthwise_is_one_filter_a_channel(rank: int) -> None:
    layer = getattr(layers, f"DepthwiseConv{rank}d")(4, 3, padding=1, multiplier=2).double()
    x = sample(rank)
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    one = [
        conv(x[:, c : c + 1], layer.weight[2 * c : 2 * c + 2], layer.bias[2 * c : 2 * c + 2], padding=1)
        for c in range(4)
    ]
    assert layer.weight.shape == (8, 1, *[3] * rank)
    torch.testing.assert_close(layer(x), torch.cat(one, 1))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pointwise_is_a_linear_layer_at_every_position(rank: int) -> None:
    layer = getattr(layers, f"PointwiseConv{rank}d")(4, 3).double()
    x = sample(rank)
    expected = F.linear(x.movedim(1, -1), layer.weight.flatten(1), layer.bias).movedim(-1, 1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grouped_is_convolutions_side_by_side(rank: int) -> None:
    layer = getattr(layers, f"GroupedConv{rank}d")(4, 6, 3, groups=2, bias=False).double()
    x = sample(rank)
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    halves = [conv(a, w) for a, w in zip(x.chunk(2, 1), layer.weight.chunk(2), strict=True)]
    torch.testing.assert_close(layer(x), torch.cat(halves, 1))


def test_weight_shapes_of_groups() -> None:
    assert [tuple(layers.GroupedConv2d(8, 8, 3, groups=g).weight.shape) for g in (1, 2, 8)] == [
        (8, 8, 3, 3), (8, 4, 3, 3), (8, 1, 3, 3),
    ]  # fmt: skip
    for channels in ((9, 8), (8, 9)):
        with pytest.raises(ValueError, match=r"channels must be divisible by groups"):
            layers.GroupedConv2d(*channels, 3, groups=2)


def test_grouped_dilated_parameters() -> None:
    grouped = layers.GroupedConv2d(64, 64, 3, groups=8, dilation=2, padding="same")
    assert sum(p.numel() for p in grouped.parameters()) == 4672
    assert sum(p.numel() for p in layers.DilatedConv2d(64, 64, 3, dilation=2).parameters()) == 36928
    assert grouped(torch.randn(1, 64, 9, 8)).shape == (1, 64, 9, 8)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_dilated_keeps_the_size(rank: int, kernel: int, dilation: int) -> None:
    layer = getattr(layers, f"DilatedConv{rank}d")(4, 5, kernel, dilation).double()
    x = sample(rank)
    assert layer(x).shape == (2, 5, *x.shape[2:])
    assert layer.dilation == (dilation,) * rank


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_circular_commutes_with_rolling(rank: int) -> None:
    """But for rounding: two calls of torch's convolution need not add in the same order."""
    layer = getattr(layers, f"CircularConv{rank}d")(4, 5, 3).double()
    x, axes = sample(rank), tuple(range(2, rank + 2))
    shifts = (3,) * rank
    torch.testing.assert_close(layer(x.roll(shifts, axes)), layer(x).roll(shifts, axes), rtol=1e-13, atol=1e-13)


def test_zero_padding_commutes_with_rolling_inside_only() -> None:
    layer, x = Conv2d(4, 5, 3, padding=1).double(), torch.randn(1, 4, 12, 12, dtype=torch.float64)
    difference = (layer(x.roll(2, -1)) - layer(x).roll(2, -1)).abs()
    assert difference[..., 3:-1].max() < 1e-14
    assert difference.max() > 1e-3


def test_circular_padding_numbers() -> None:
    layer = layers.CircularConv1d(1, 1, 3, padding=1, bias=False)
    layer.weight.data = torch.tensor([[[1.0, 0, -1]]])
    assert layer(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[2, -2, -2, 2]]
    layers.CircularConv1d(1, 1, 9, padding=4)(torch.randn(1, 1, 4))  # once around is allowed
    with pytest.raises(RuntimeError, match="wrapping around more than once"):
        layers.CircularConv1d(1, 1, 11, padding=5)(torch.randn(1, 1, 4))


def test_true_convolution_flips_the_kernel() -> None:
    x = torch.tensor([[1.0, 2, 3, 0, 1], [0, 1, 2, 3, 1], [1, 0, 1, 2, 2], [2, 1, 0, 1, 3], [1, 2, 3, 0, 1]])
    kernel = torch.arange(1.0, 10).view(1, 1, 3, 3)
    laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    correlate, convolve = Conv2d(1, 1, 3, bias=False), layers.TrueConv2d(1, 1, 3, bias=False)
    for layer, weight, expected in [
        (correlate, laplacian, [0, 0, -7, 4, 0, -1, 0, 6, 1]),
        (convolve, laplacian, [0, 0, -7, 4, 0, -1, 0, 6, 1]),
        (correlate, kernel, [47, 66, 76, 40, 47, 72, 67, 56, 64]),
        (convolve, kernel, [63, 74, 74, 40, 63, 78, 43, 44, 66]),
    ]:
        layer.weight.data = weight
        assert layer(x[None]).flatten().tolist() == expected


@pytest.mark.parametrize("rank", [1, 3])
def test_true_convolution_in_other_ranks(rank: int) -> None:
    layer = getattr(layers, f"TrueConv{rank}d")(4, 5, 3, padding=1).double()
    plain = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    flipped = layer.weight.flip(list(range(2, rank + 2)))
    x = sample(rank)
    torch.testing.assert_close(layer(x), plain(x, flipped, layer.bias, padding=1))


@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(2, 1, 1), (2, 4, 1), (3, 2, 1), (3, 3, 2), (4, 1, 3)])
def test_causal_reads_no_future(kernel: int, dilation: int, stride: int) -> None:
    layer = layers.CausalConv1d(3, 4, kernel, stride, dilation).double()
    x = torch.randn(2, 3, 17, dtype=torch.float64)
    assert layer(x).shape == (2, 4, -(-17 // stride))
    changed = x.clone()
    changed[..., 10:] += 1
    before = -(-10 // stride)
    assert torch.equal(layer(changed)[..., :before], layer(x)[..., :before])
    assert not torch.equal(layer(changed), layer(x))


def test_causal_is_a_left_padded_convolution() -> None:
    layer = layers.CausalConv1d(3, 4, 3, dilation=2).double()
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.conv1d(F.pad(x, (4, 0)), layer.weight, layer.bias, dilation=2))


def test_depthwise_separable_parameters() -> None:
    separable, dense = layers.DepthwiseSeparableConv2d(32, 64, 3, padding=1), Conv2d(32, 64, 3, padding=1)
    assert (weights(separable.depthwise), weights(separable.pointwise)) == (288, 2048)
    assert (weights(dense), weights(separable)) == (18432, 2336)
    assert weights(dense) / weights(separable) == pytest.approx(7.89, abs=0.005)
    x = torch.randn(2, 32, 9, 8)
    assert separable(x).shape == dense(x).shape


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_depthwise_separable_is_both_in_a_row(rank: int) -> None:
    layer = getattr(layers, f"DepthwiseSeparableConv{rank}d")(4, 6, 3, 2, "same", padding_mode="replicate").double()
    x = sample(rank)
    assert layer(x).shape == (2, 6, *(-(-n // 2) for n in x.shape[2:]))
    torch.testing.assert_close(layer(x), layer.pointwise(layer.depthwise(x)))
    assert layer.depthwise.padding_mode == "replicate"


def test_spatially_separable_is_the_outer_product() -> None:
    rows, columns = torch.tensor([1.0, 0, -1]), torch.tensor([1.0, 2, 1])
    layer = layers.SpatiallySeparableConv2d(1, 1, 3, padding=1, bias=False)
    layer[0].weight.data, layer[1].weight.data = rows.view(1, 1, 1, 3), columns.view(1, 1, 3, 1)
    x = torch.randn(2, 1, 9, 8)
    torch.testing.assert_close(
        layer(x), F.conv2d(x, torch.outer(columns, rows)[None, None], padding=1), atol=1e-6, rtol=0
    )


def test_spatially_separable_geometry() -> None:
    layer = layers.SpatiallySeparableConv2d(4, 6, (3, 5), stride=(1, 2), padding=(1, 2), mid_channels=3)
    assert [tuple(conv.weight.shape) for conv in layer] == [(3, 4, 1, 5), (6, 3, 3, 1)]
    assert [conv.bias is None for conv in layer] == [True, False]
    x = torch.randn(2, 4, 9, 8)
    assert layer(x).shape == Conv2d(4, 6, (3, 5), (1, 2), (1, 2))(x).shape
    voxels = layers.SpatiallySeparableConv3d(2, 3, 3, padding="same", dilation=2)
    assert [conv.kernel_size for conv in voxels] == [(1, 1, 3), (1, 3, 1), (3, 1, 1)]
    assert voxels(torch.randn(1, 2, 7, 6, 5)).shape == (1, 3, 7, 6, 5)


def test_one_dimensional_dilated_keeps_the_length() -> None:
    for dilation in (1, 2, 4, 8):
        assert Conv1d(3, 3, 3, padding=dilation, dilation=dilation)(torch.randn(1, 3, 16)).shape == (1, 3, 16)


def test_dilation_zero_is_refused() -> None:
    with pytest.raises(RuntimeError, match="dilation should be greater than zero"):
        layers.DilatedConv2d(2, 2, 3, dilation=0, padding=0)(torch.randn(1, 2, 9, 8))


def test_convert_has_nothing_to_say_about_the_catalogue() -> None:
    model = torch.nn.Sequential(layers.DepthwiseConv2d(2, 3), layers.TrueConv2d(2, 2, 3), torch.nn.Conv2d(2, 2, 1))
    report = convext.report(convext.convert(model))
    assert (report.converted, report.left_alone) == (["2"], {})


def test_the_catalogue_is_imported_at_first_use() -> None:
    script = (
        "import sys, convext; "
        "late = [m for m in sys.modules if m.startswith(('convext.layers', 'convext.blocks', 'convext.analysis'))]; "
        "assert not late, late; "
        "assert convext.blocks.ASPP and convext.layers.TrueConv1d and convext.analysis.lint is convext.lint; "
        "assert 'matplotlib' not in sys.modules; "
        "assert not hasattr(convext, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
