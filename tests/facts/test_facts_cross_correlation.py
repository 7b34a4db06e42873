"""Cross-correlation, convolution, transposed convolution and what they keep."""

import pytest
import torch
from torch import nn

import convext
from convext import functional as F

pytestmark = pytest.mark.usefixtures("backend")

IMAGE = [[1, 2, 3, 0, 1], [0, 1, 2, 3, 1], [1, 0, 1, 2, 2], [2, 1, 0, 1, 3], [1, 2, 3, 0, 1]]
LAPLACIAN = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
ONE_TO_NINE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("kernel", "flip", "expected"),
    [
        (LAPLACIAN, False, [0, 0, -7, 4, 0, -1, 0, 6, 1]),
        (LAPLACIAN, True, [0, 0, -7, 4, 0, -1, 0, 6, 1]),  # symmetric: this pair alone proves nothing
        (ONE_TO_NINE, False, [47, 66, 76, 40, 47, 72, 67, 56, 64]),
        (ONE_TO_NINE, True, [63, 74, 74, 40, 63, 78, 43, 44, 66]),
    ],
    ids=["laplacian", "laplacian flipped", "1..9", "1..9 flipped"],
)
def test_convolution_is_cross_correlation_with_a_flipped_kernel(kernel, flip, expected, tensor, assert_values):
    weight = tensor([[kernel]])
    y = F.conv2d(tensor([[IMAGE]]), weight.flip(2, 3) if flip else weight)
    assert_values(y.flatten(), expected)


@pytest.mark.parametrize("i", [5, 6, 11])
@pytest.mark.parametrize(
    ("k", "s", "p", "d"), [(3, 1, 0, 1), (4, 1, 2, 1), (3, 2, 0, 1), (3, 2, 1, 1), (3, 2, 2, 2), (2, 3, 1, 4)]
)
def test_output_size_formula(i, k, s, p, d, device):
    conv = convext.Conv2d(1, 1, (k, 1), stride=(s, 1), padding=(p, 0), dilation=(d, 1), device=device)
    o = (i + 2 * p - d * (k - 1) - 1) // s + 1
    assert conv(torch.randn(1, i, 4, device=device)).shape == (1, o, 4)
    swapped = convext.Conv2d(1, 1, (1, k), stride=(1, s), padding=(0, p), dilation=(1, d), device=device)
    assert swapped(torch.randn(1, 4, i, device=device)).shape == (1, 4, o)


def test_filters_make_feature_maps(device):
    assert convext.Conv2d(3, 7, 3, device=device)(torch.randn(3, 6, 6, device=device)).shape == (7, 4, 4)
    stem = convext.Conv2d(3, 64, 7, stride=2, padding=3, device=device)
    assert stem(torch.randn(3, 224, 224, device=device)).shape == (64, 112, 112)


@pytest.mark.parametrize(
    ("i", "k", "arguments", "o"),
    [
        (4, 3, {}, 2),  # no padding
        (5, 4, {"padding": 2}, 6),  # arbitrary padding
        (5, 3, {"padding": 1}, 5),  # half padding, "same"
        (5, 3, {"padding": "same"}, 5),
        (5, 3, {"padding": 2}, 7),  # full padding: I + k - 1
        (5, 3, {"stride": 2}, 2),  # strides
        (5, 3, {"stride": 2, "padding": 1}, 3),  # padded strides
        (6, 3, {"stride": 2, "padding": 1}, 3),  # odd: the last window would leave the input
        (7, 3, {"dilation": 2}, 3),  # dilation
    ],
)
def test_shapes_of_the_animations(i, k, arguments, o, device):
    conv = convext.Conv2d(1, 1, k, device=device, **arguments)
    assert conv(torch.randn(1, 1, i, i, device=device)).shape == (1, 1, o, o)


@pytest.mark.parametrize(
    ("i", "k", "arguments", "o"),
    [(2, 3, {}, 4), (6, 4, {"padding": 2}, 5), (2, 3, {"stride": 2}, 5), (3, 3, {"stride": 2, "padding": 1}, 5),
     (3, 3, {"stride": 2, "padding": 1, "output_padding": 1}, 6)],
)  # fmt: skip
def test_shapes_of_the_transposed_animations(i, k, arguments, o, device):
    conv = convext.ConvTranspose2d(1, 1, k, device=device, **arguments)
    assert conv(torch.randn(1, 1, i, i, device=device)).shape == (1, 1, o, o)


def test_a_filter_has_one_kernel_a_channel():
    assert convext.Conv2d(3, 4, 5).weight.shape == (4, 3, 5, 5)


def test_depthwise_separable_parameters():
    def count(*layers: nn.Module) -> int:
        return sum(layer.weight.numel() for layer in layers)

    standard = count(convext.Conv2d(32, 64, 3, bias=False))
    separable = count(convext.Conv2d(32, 32, 3, groups=32, bias=False), convext.Conv2d(32, 64, 1, bias=False))
    assert (standard, separable) == (18432, 2336)
    assert standard / separable == pytest.approx(7.89, abs=0.005)


@pytest.mark.parametrize(("groups", "shape"), [(1, (8, 8, 3, 3)), (2, (8, 4, 3, 3)), (8, (8, 1, 3, 3))])
def test_groups_divide_the_weight(groups, shape, device):
    conv = convext.Conv2d(8, 8, 3, groups=groups, device=device)
    assert conv.weight.shape == shape
    assert conv(torch.randn(1, 8, 5, 5, device=device)).shape == (1, 8, 3, 3)


@pytest.mark.parametrize(("channels", "name"), [((9, 8), "in_channels"), ((8, 9), "out_channels")])
def test_groups_must_divide_both_channels(channels, name):
    with pytest.raises(ValueError, match=f"{name} must be divisible by groups"):
        convext.Conv2d(*channels, 3, groups=4)


@pytest.mark.parametrize(
    ("weight", "stride", "expected"),
    [
        ([[1, 0], [0, 1]], 2, [[1, 0, 2, 0], [0, 1, 0, 2], [3, 0, 4, 0], [0, 3, 0, 4]]),
        ([[1, 0], [0, 1]], 1, [[1, 2, 0], [3, 5, 2], [0, 3, 4]]),  # overlaps add up
    ],
)
def test_transposed_worked_example(weight, stride, expected, layer, tensor, assert_values):
    conv = layer(convext.ConvTranspose2d, [[weight]], stride=stride)
    assert_values(conv(tensor([[[1, 2], [3, 4]]])), [expected])


def test_transposed_layers_do_not_share_weights():
    first, second = convext.ConvTranspose2d(1, 1, 3, stride=2), convext.ConvTranspose2d(1, 1, 3, stride=2)
    assert id(first.weight) != id(second.weight)
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_is_the_gradient_and_not_the_inverse(stride, tensor):
    x, w = tensor(torch.randn(2, 3, 10, 10)).requires_grad_(), tensor(torch.randn(4, 3, 4, 4))
    y = nn.functional.conv2d(x, w, stride=stride)
    upstream = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, upstream)
    transposed = F.conv_transpose2d(upstream, w, stride=stride)
    assert transposed.shape == grad.shape
    torch.testing.assert_close(transposed, grad)
    assert not torch.allclose(F.conv_transpose2d(y, w, stride=stride), x)


@pytest.mark.parametrize(
    ("k", "s", "overlaps"),
    [(3, 2, {1, 2}), (4, 2, {2}), (5, 3, {1, 2}), (6, 3, {2}), (2, 2, {1}), (3, 3, {1}), (1, 2, {0, 1})],
)
def test_overlaps_of_a_transposed_convolution_are_even_where_the_stride_divides_the_kernel(k, s, overlaps, tensor):
    y = F.conv_transpose1d(tensor(torch.ones(1, 1, 9)), tensor(torch.ones(1, 1, k)), stride=s)
    interior = y[0, 0, k : y.shape[-1] - k]
    assert set(interior.tolist()) == overlaps
    assert (len(overlaps) == 1) == (k % s == 0)


def test_circular_padding_wraps_around(layer, tensor, assert_values):
    conv = layer(convext.Conv1d, [[[1, 0, -1]]], padding=1, padding_mode="circular")
    assert_values(conv(tensor([[1, 2, 3, 4]])), [[2, -2, -2, 2]])


def test_circular_padding_wraps_around_once_at_most(device):
    x = torch.randn(1, 1, 4, device=device)
    assert convext.Conv1d(1, 1, 3, padding=4, padding_mode="circular", device=device)(x).shape == (1, 1, 10)
    with pytest.raises(RuntimeError, match="wrapping around more than once"):
        convext.Conv1d(1, 1, 3, padding=5, padding_mode="circular", device=device)(x)


def test_spatially_separable_convolution(tensor):
    rows, columns = tensor([1, 2, 1]), tensor([1, 0, -1])
    x = tensor(torch.randn(1, 1, 7, 8))
    whole = nn.functional.conv2d(x, torch.outer(rows, columns)[None, None])
    separate = F.conv2d(F.conv2d(x, columns.view(1, 1, 1, 3)), rows.view(1, 1, 3, 1))
    torch.testing.assert_close(separate, whole)


def test_functional_takes_what_the_class_registers(device):
    conv = convext.Conv2d(3, 4, 3, padding=1, device=device)
    assert list(conv.state_dict()) == ["weight", "bias"]
    assert [name for name, _ in conv.named_parameters()] == ["weight", "bias"]
    x = torch.randn(2, 3, 5, 6, device=device)
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(F.conv2d(x, conv.weight, conv.bias, padding=1), expected)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize(("k", "patches"), [(3, (2, 27, 36)), (5, (2, 75, 16))])
def test_patches_times_weight_is_convolution(k, patches, device):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, device=device)
    conv = convext.Conv2d(3, 4, k, bias=False, dtype=torch.float64, device=device)
    unfolded = nn.Unfold(k)(x)
    assert unfolded.shape == patches
    torch.testing.assert_close((conv.weight.flatten(1) @ unfolded).view(2, 4, 9 - k, 9 - k), conv(x))


def test_feature_maps_through_a_hook(device):
    stem = nn.Sequential(convext.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64), nn.ReLU()).to(device)
    maps = []
    handle = stem[0].register_forward_hook(lambda module, args, output: maps.append(output))
    x = torch.randn(1, 3, 224, 224, device=device)
    activation = stem(x)
    assert maps[0].shape == (1, 64, 112, 112)
    assert maps[0][:, :8].min() < 0 <= activation.min()
    handle.remove()
    stem(x)
    assert len(maps) == 1


def test_translation_equivariance(device):
    x = torch.randn(1, 2, 9, 10, dtype=torch.float64, device=device)
    for mode in ("zeros", "circular"):
        conv, torchs = (
            module.Conv2d(2, 3, 3, padding=1, padding_mode=mode, dtype=torch.float64, device=device)
            for module in (convext, nn)
        )
        torchs.load_state_dict(conv.state_dict())
        moved, rolled = conv(x.roll((2, 3), (2, 3))), torchs(x).roll((2, 3), (2, 3))
        interior = (..., slice(3, -1), slice(4, -1)) if mode == "zeros" else ...
        torch.testing.assert_close(moved[interior], rolled[interior], rtol=0, atol=1e-14)
