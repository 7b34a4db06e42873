"""The raw operators name the mistake and its numbers, on real and on fake tensors alike."""

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

GOOD = {
    "fprop": [(2, 4, 9), (6, 2, 3), (6,), [7], [1], [0], [1], 2],
    "dgrad": [(2, 6, 7), (6, 2, 3), (4,), [9], [1], [0], [1], 2],
    "wgrad": [(2, 4, 9), (2, 6, 7), None, [3], [1], [0], [1], 2],
}
A, B, BIAS, SIZE, STRIDE, PAD, DILATION, GROUPS = range(8)
BAD = {  # position: (value, what the text has to say)
    "channels": ("fprop", A, (2, 3, 9), "expected x[2, 3, 9] to have 4 channels, but got 3 channels"),
    "more channels": ("fprop", A, (2, 5, 9), "expected x[2, 5, 9] to have 4 channels, but got 5 channels"),
    "channels of dgrad": ("dgrad", A, (2, 5, 7), "expected y[2, 5, 7] to have 6 channels, but got 5 channels"),
    "groups of fprop": ("fprop", GROUPS, 4, "divisible by 4"),
    "groups of wgrad": ("wgrad", GROUPS, 4, "divisible by groups=4"),
    "no groups": ("fprop", GROUPS, 0, "groups=0"),
    "batches": ("wgrad", B, (3, 6, 7), "one batch size"),
    "fewer batches": ("wgrad", B, (1, 6, 7), "one batch size"),
    "rank": ("fprop", A, (2, 4, 9, 9), "expected two tensors of 3 dimensions"),
    "lower rank": ("fprop", A, (2, 4), "expected two tensors of 3 dimensions"),
    "rank of weight": ("dgrad", B, (6, 2), "expected two tensors of 3 dimensions"),
    "higher rank of weight": ("dgrad", B, (6, 2, 3, 3), "expected two tensors of 3 dimensions"),
    "stride": ("fprop", STRIDE, [0], "non-positive stride is not supported, but got [0]"),
    "padding": ("dgrad", PAD, [-1], "negative padding is not supported, but got [-1]"),
    "dilation": ("wgrad", DILATION, [0], "dilation should be greater than zero, but got [0]"),
    "size": ("fprop", SIZE, [-1], "sizes of at least 0, but got [-1]"),
    "strides": ("fprop", STRIDE, [1, 1], "expected stride to be a list of 1 values, but got [1, 1]"),
    "paddings": ("fprop", PAD, [], "expected padding to be a list of 1 values, but got []"),
    "bias": ("fprop", BIAS, (5,), "bias to be 1-dimensional with 6 elements, but got bias of size [5]"),
    "bias of dgrad": ("dgrad", BIAS, (6,), "with 4 elements, but got bias of size [6]"),
    "bias of two axes": ("fprop", BIAS, (6, 1), "1-dimensional with 6 elements, but got bias of size [6, 1]"),
    "bias of no axis": ("fprop", BIAS, (), "1-dimensional with 6 elements, but got bias of size []"),
    "bias of wgrad": ("wgrad", BIAS, (2,), "with 0 elements, but got bias of size [2]"),
}


def call(face, arguments, make, kernel="aten"):
    tensors = [None if shape is None else make(shape) for shape in arguments[:3]]
    return getattr(torch.ops.convext, face)(*tensors, *arguments[3:], kernel)


@pytest.mark.parametrize("face", GOOD)
def test_the_good_arguments_are_good(face, device):
    assert call(face, GOOD[face], lambda shape: torch.randn(shape, device=device)).dim() == 3


EMPTY = {  # operands and size of which one tensor has no elements
    "x": ("fprop", (2, 4, 0), (6, 2, 2), [1], [1]),
    "w": ("fprop", (2, 4, 9), (6, 2, 0), [10], [0]),
    "y": ("dgrad", (2, 6, 0), (6, 2, 3), [9], [0]),
    "x of wgrad": ("wgrad", (2, 4, 0), (2, 6, 1), [2], [1]),
    "y of wgrad": ("wgrad", (2, 4, 9), (2, 6, 0), [3], [0]),
    "the result": ("fprop", (2, 4, 9), (6, 2, 3), [0], [0]),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_tensor_without_elements_is_no_mistake(case, device):
    """A sum over no terms is zero, and then there is the bias."""
    face, a, b, size, pad = EMPTY[case]
    a, b = torch.randn(a, device=device), torch.randn(b, device=device)
    channels = {"fprop": 6, "dgrad": 4}.get(face)
    bias = None if channels is None else torch.randn(channels, device=device)
    result = getattr(torch.ops.convext, face)(a, b, bias, size, [1], pad, [1], 2, "aten")
    expected = torch.zeros(6, 2, *size) if bias is None else bias[:, None].expand(2, channels, *size)
    torch.testing.assert_close(result, expected.to(device))


@pytest.mark.parametrize("needs_grad", [False, True], ids=["", "grad"])
@pytest.mark.parametrize("case", BAD)
def test_real_tensors(case, needs_grad, device):
    face, position, value, text = BAD[case]
    arguments = [*GOOD[face]]
    arguments[position] = value
    with pytest.raises(RuntimeError, match=re.escape(text)):
        call(face, arguments, lambda shape: torch.randn(shape, device=device, requires_grad=needs_grad))


@pytest.mark.parametrize("case", BAD)
def test_fake_tensors(case, device):
    face, position, value, text = BAD[case]
    arguments = [*GOOD[face]]
    arguments[position] = value
    with FakeTensorMode(), pytest.raises(RuntimeError, match=re.escape(text)):
        call(face, arguments, lambda shape: torch.empty(shape, device=device))


@pytest.mark.parametrize("face", GOOD)
def test_mixed_types_and_devices(face, device):
    a, b, _, *geometry = GOOD[face]
    function = getattr(torch.ops.convext, face)
    second = {"fprop": "w", "dgrad": "w", "wgrad": "y"}[face]
    text = rf"{face}: input type \(torch\.float32\) and {second} type \(torch\.float64\) should be the same"
    with pytest.raises(RuntimeError, match=text):
        function(torch.randn(a, device=device), torch.randn(b, device=device).double(), None, *geometry, "aten")
    with pytest.raises(RuntimeError):
        function(torch.randn(a, device=device), torch.randn(b, device="meta"), None, *geometry, "aten")


@pytest.mark.parametrize("face", GOOD)
def test_complex_tensors(face, device):
    with pytest.raises(RuntimeError, match=r"expected real tensors, but got torch\.complex64"):
        call(face, GOOD[face], lambda shape: torch.randn(shape, device=device, dtype=torch.complex64))


@pytest.mark.parametrize("face", GOOD)
def test_unknown_kernels(face, device):
    with pytest.raises(ValueError, match=r"backend must be one of .* but got 'nonsense'"):
        call(face, GOOD[face], lambda shape: torch.randn(shape, device=device), "nonsense")
