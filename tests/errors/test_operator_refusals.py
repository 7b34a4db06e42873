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
    "channels": ("fprop", A, (2, 3, 9), "to have 4 channels, but got 3 channels"),
    "channels of dgrad": ("dgrad", A, (2, 5, 7), "to have 6 channels, but got 5 channels"),
    "groups of fprop": ("fprop", GROUPS, 4, "divisible by 4"),
    "groups of wgrad": ("wgrad", GROUPS, 4, "divisible by groups=4"),
    "no groups": ("fprop", GROUPS, 0, "groups=0"),
    "batches": ("wgrad", B, (3, 6, 7), "one batch size"),
    "rank": ("fprop", A, (2, 4, 9, 9), "expected two tensors of 3 dimensions"),
    "rank of weight": ("dgrad", B, (6, 2), "expected two tensors of 3 dimensions"),
    "stride": ("fprop", STRIDE, [0], "non-positive stride is not supported, but got [0]"),
    "padding": ("dgrad", PAD, [-1], "negative padding is not supported, but got [-1]"),
    "dilation": ("wgrad", DILATION, [0], "dilation should be greater than zero, but got [0]"),
    "size": ("fprop", SIZE, [-7], "sizes of at least 0, but got [-7]"),
    "strides": ("fprop", STRIDE, [1, 1], "expected stride to be a list of 1 values, but got [1, 1]"),
    "paddings": ("fprop", PAD, [], "expected padding to be a list of 1 values, but got []"),
    "bias": ("fprop", BIAS, (5,), "bias to be 1-dimensional with 6 elements, but got bias of size [5]"),
    "bias of dgrad": ("dgrad", BIAS, (6,), "with 4 elements, but got bias of size [6]"),
    "bias of two axes": ("fprop", BIAS, (6, 1), "1-dimensional with 6 elements, but got bias of size [6, 1]"),
    "bias of no axis": ("fprop", BIAS, (), "1-dimensional with 6 elements, but got bias of size []"),
    "bias of wgrad": ("wgrad", BIAS, (4,), "but got bias of size [4]"),
}


def call(face, arguments, make, kernel="aten"):
    tensors = [None if shape is None else make(shape) for shape in arguments[:3]]
    return getattr(torch.ops.convext, face)(*tensors, *arguments[3:], kernel)


@pytest.mark.parametrize("face", GOOD)
def test_the_good_arguments_are_good(face, device):
    assert call(face, GOOD[face], lambda shape: torch.randn(shape, device=device)).dim() == 3


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
    with pytest.raises(RuntimeError, match=r"torch\.float32.*torch\.float64.* should be the same"):
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
