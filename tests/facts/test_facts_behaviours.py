"""What torch.nn's convolutions do at the edges, word for word where it is an error."""

import re

import pytest
import torch

import convext
from convext import functional as F

pytestmark = pytest.mark.usefixtures("backend")

CONVS = {1: convext.Conv1d, 2: convext.Conv2d, 3: convext.Conv3d}
TRANSPOSED = {1: convext.ConvTranspose1d, 2: convext.ConvTranspose2d, 3: convext.ConvTranspose3d}


def image(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (1, 1, 3, 3), device=device)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_zero_batch(rank, device):
    x = image(device, 0, 4, *[6] * rank)
    assert CONVS[rank](4, 2, 3, device=device)(x).shape == (0, 2, *[4] * rank)
    assert TRANSPOSED[rank](4, 2, 3, device=device)(x).shape == (0, 2, *[8] * rank)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"weight": (0, 1, 3, 3)}, "expected weight to be at least 1 at dimension 0"),
        (
            {"weight": (1, 1, 5, 5)},
            "Calculated padded input size per channel: (3 x 3). Kernel size: (5 x 5). "
            "Kernel size can't be greater than actual input size",
        ),
        ({"stride": 0}, "non-positive stride is not supported"),
        ({"padding": -1}, "negative padding is not supported"),
        ({"padding": (1, 1, 1, 1)}, "expected padding to be a single integer value or a list of 2 values"),
        ({"dilation": 0}, "dilation should be greater than zero, but got [0, 0]"),
    ],
    ids=["no output channels", "kernel too large", "stride 0", "negative padding", "four paddings", "dilation 0"],
)
def test_texts_of_refusals(arguments, text, device):
    others = {name: value for name, value in arguments.items() if name != "weight"}
    weight = torch.randn(arguments.get("weight", (1, 1, 2, 2)), device=device)
    with pytest.raises(RuntimeError, match=re.escape(text)):
        F.conv2d(image(device), weight, **others)


def test_types_must_agree(device):
    conv = convext.Conv2d(1, 1, 2, device=device)
    pattern = r"(?i)input type .*(double|float64).* type .*float.* should be the same"
    with pytest.raises(RuntimeError, match=pattern):
        conv(image(device).double())


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(4, 5), (7, 9)])
def test_strided_same_gives_a_size_of_input_over_stride(stride, k, size, device):
    conv = convext.Conv2d(1, 1, k, stride=stride, padding="same", device=device)
    assert conv(image(device, 1, 1, *size)).shape[2:] == tuple(-(-i // stride) for i in size)


def test_strided_same_is_a_deliberate_difference():
    with pytest.raises(ValueError, match="padding='same' is not supported for strided convolutions"):
        torch.nn.Conv2d(1, 1, 3, stride=2, padding="same")
    convext.Conv2d(1, 1, 3, stride=2, padding="same")


def test_strided_same_puts_the_odd_zero_at_the_end(tensor, assert_values):
    # Four inputs, three taps, stride 2: two outputs need five inputs, so one zero, at the end.
    y = F.conv1d(tensor([[1, 2, 3, 4]]), tensor([[[1, 10, 100]]]), stride=2, padding="same")
    assert_values(y, [[321, 43]])


def test_output_padding_below_stride_or_dilation(device):
    weight = torch.randn(1, 1, 2, 2, device=device)
    with pytest.raises(RuntimeError, match="output padding must be smaller than either stride or dilation"):
        F.conv_transpose2d(image(device), weight, stride=2, output_padding=2)
    assert F.conv_transpose2d(image(device), weight, stride=2, output_padding=1).shape == (1, 1, 7, 7)
    assert F.conv_transpose2d(image(device), weight, dilation=3, output_padding=2).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_pads_with_zeros_only(rank):
    with pytest.raises(ValueError, match='Only "zeros" padding mode is supported'):
        TRANSPOSED[rank](1, 1, 3, padding_mode="reflect")


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_takes_the_word_same_and_fails_at_the_call(rank, device):
    conv = TRANSPOSED[rank](1, 1, 3, padding="same", device=device)
    with pytest.raises(TypeError):
        conv(image(device, 1, 1, *[4] * rank))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_reflection_stays_inside_the_input(rank, device):
    x = image(device, 1, 1, *[3] * rank)
    inside = CONVS[rank](1, 1, 2, padding=2, padding_mode="reflect", device=device)
    assert inside(x).shape == (1, 1, *[6] * rank)
    with pytest.raises(RuntimeError, match="Padding size should be less than the corresponding input dimension"):
        CONVS[rank](1, 1, 2, padding=3, padding_mode="reflect", device=device)(x)


def test_even_kernels_pad_the_odd_zero_at_the_end(tensor, assert_values):
    y = F.conv1d(tensor([[1, 2, 3, 4]]), tensor([[[1, 10]]]), padding="same")
    assert_values(y, [[21, 32, 43, 4]])


def test_a_frozen_weight_does_not_keep_the_input(device):
    """torch's operator saves both operands whatever is frozen; convext saves what its gradients read."""
    conv = convext.Conv2d(2, 3, 3, device=device).requires_grad_(False)
    x = torch.randn(1, 2, 5, 5, device=device, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        y = conv(x)
    assert saved == [conv.weight.data_ptr()]
    y.sum().backward()
    assert x.grad is not None
