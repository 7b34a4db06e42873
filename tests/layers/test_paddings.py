"""Every padding of the convolutions, against a padded copy of the input."""

import itertools

import pytest
import torch

import convext
from convext import functional as F
from convext.functional.padding import is_torchs, resolve_padding

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]

NAMES = {1: "Conv1d", 2: "Conv2d", 3: "Conv3d"}
SIZES = [9, 8, 7]


def padded(x, pairs, mode="constant"):
    """`x` with (before, after) of each spatial axis around it, by torch."""
    return torch.nn.functional.pad(x, [side for pair in reversed(pairs) for side in pair], mode=mode)


def check(layer, x, copy):
    """`layer` on `x` is torch's convolution, without padding, of `copy(x)`; so are gradients, and one sample alone."""
    convolution = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[x.dim() - 2]
    results = []
    for function in (
        layer,
        lambda x: convolution(copy(x), layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups),
    ):
        input = x.detach().requires_grad_()
        y = function(input)
        results.append((y, *torch.autograd.grad(y.pow(2).sum(), [input, *layer.parameters()])))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(layer(x[0]), results[1][0][0])


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("k", "d"), [(3, 1), (2, 1), (2, 3), (4, 1), (3, 2)])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_modes_agree_with_torch(mode, rank, k, d, padding, device):
    torch.manual_seed(1)
    ours = getattr(convext, NAMES[rank])(2, 3, k, padding=padding, dilation=d, padding_mode=mode, dtype=torch.float64)
    torch.manual_seed(1)
    theirs = getattr(torch.nn, NAMES[rank])(
        2, 3, k, padding=padding, dilation=d, padding_mode=mode, dtype=torch.float64
    )
    x = torch.randn(2, 2, *SIZES[:rank], dtype=torch.float64, device=device)
    torch.testing.assert_close(ours.to(device)(x), theirs.to(device)(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_asymmetric_padding(mode, rank, stride, device):
    pairs = ((2, 1), (0, 3), (1, 0))[:rank]
    layer = getattr(convext, NAMES[rank])(
        2, 4, 3, stride=stride, padding=pairs, groups=2, padding_mode=mode, dtype=torch.float64, device=device
    )
    x = torch.randn(2, 2, *SIZES[:rank], dtype=torch.float64, device=device)
    check(layer, x, lambda x: padded(x, pairs, "constant" if mode == "zeros" else mode))


def test_one_number_for_both_sides_of_an_axis(device):
    mixed = convext.Conv2d(1, 1, 3, padding=((1, 2), 1), device=device)
    assert mixed(torch.randn(1, 1, 5, 5, device=device)).shape == (1, 1, 6, 5)


@pytest.mark.parametrize(("k", "d", "stride"), itertools.product([1, 2, 3, 4], [1, 3], [2, 3]))
@pytest.mark.parametrize("size", [7, 8, 9])
def test_strided_same(k, d, stride, size, device):
    layer = convext.Conv1d(2, 3, k, stride, "same", d, dtype=torch.float64, device=device)
    x = torch.randn(2, 2, size, dtype=torch.float64, device=device)
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + d * (k - 1) + 1 - size, 0)
    assert layer(x).shape[-1] == outputs
    check(layer, x, lambda x: padded(x, [(total // 2, total - total // 2)]))


@pytest.mark.parametrize("rank", [2, 3])
def test_strided_same_in_more_axes(rank, device):
    layer = getattr(convext, NAMES[rank])(2, 2, 3, stride=2, padding="same", device=device)
    assert layer(torch.randn(1, 2, *SIZES[:rank], device=device)).shape[2:] == (5, 4, 4)[:rank]


@pytest.mark.parametrize(("k", "d", "stride"), [(1, 1, 1), (2, 1, 1), (4, 1, 1), (3, 4, 1), (3, 2, 2)])
def test_causal(k, d, stride, device):
    layer = convext.Conv1d(4, 6, k, stride, "causal", d, 2, dtype=torch.float64, device=device)
    x = torch.randn(2, 4, 11, dtype=torch.float64, device=device)
    check(layer, x, lambda x: padded(x, [(d * (k - 1), 0)]))


@pytest.mark.parametrize(("k", "d"), [(2, 1), (4, 1), (3, 4)])
def test_causal_outputs_do_not_see_the_future(k, d, device):
    layer = convext.Conv1d(1, 1, k, padding="causal", dilation=d, dtype=torch.float64, device=device)
    x = torch.randn(1, 1, 12, dtype=torch.float64, device=device)
    jacobian = torch.autograd.functional.jacobian(layer, x).view(12, 12)  # [output, input]
    assert torch.equal(jacobian, jacobian.tril())
    assert (jacobian.diagonal() == layer.weight[0, 0, -1]).all()


@pytest.mark.parametrize(
    ("padding", "stride", "rank", "expected"),
    [
        (1, 2, 2, True),
        ([1, 0], 2, 2, True),
        ("valid", 2, 1, True),
        ("same", 1, 2, True),
        ("same", (1, 1), 2, True),
        ("same", (1, 2), 2, False),
        ("same", 0, 1, False),
        ("causal", 1, 1, False),
        ("causal", 1, 2, True),  # which refuses it
        ("full", 2, 1, True),
        ("a word before causal", 1, 1, True),
        (((1, 2), 0), 1, 2, False),
        ([[1, 2]], 1, 1, False),
    ],
)
def test_which_paddings_are_torchs_business(padding, stride, rank, expected):
    assert is_torchs(padding, stride, rank) == expected


@pytest.mark.parametrize("word", ["", "full", "wrap", "zeros", "Same"])
def test_no_other_words(word):
    with pytest.raises(
        ValueError, match=f"Invalid padding string '{word}', should be one of .*'same', 'valid', 'causal'"
    ):
        resolve_padding(word, (9,), (3,), (1,), (1,))


@pytest.mark.parametrize("pairs", [((1,),), ((1, 1, 1),)], ids=str)
def test_an_axis_has_two_sides(pairs):
    with pytest.raises(ValueError, match="begin, end"):
        resolve_padding(pairs, (9,), (3,), (1,), (1,))


def test_causal_is_one_dimensional():
    with pytest.raises(ValueError, match=r"Invalid padding string 'causal', should be one of .*'same', 'valid'"):
        resolve_padding("causal", (9, 9), (3, 3), (1, 1), (1, 1))
    for cls in (convext.Conv2d, convext.Conv3d):
        with pytest.raises(ValueError, match="causal"):
            cls(1, 1, 3, padding="causal")
    with pytest.raises((RuntimeError, ValueError), match="padding"):
        F.conv2d(torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3), padding="causal")
