"""Bad input: torch's exception type, torch's numbers in the text, and everything left as it was."""

import re

import pytest
import torch

import convext
from convext import functional as F

CALLS = {  # function, shapes of input and weight, arguments
    "too few channels": ("conv2d", (2, 3, 6, 6), (4, 5, 3, 3), {}),
    "channels for other groups": ("conv2d", (2, 4, 6, 6), (4, 4, 3, 3), {"groups": 2}),
    "groups that divide no weight": ("conv2d", (2, 6, 6, 6), (4, 2, 3, 3), {"groups": 3}),
    "more groups than outputs": ("conv2d", (2, 6, 6, 6), (2, 2, 3, 3), {"groups": 3}),
    "zero groups": ("conv2d", (2, 4, 6, 6), (4, 4, 3, 3), {"groups": 0}),
    "negative groups": ("conv1d", (2, 4, 6), (4, 4, 3), {"groups": -1}),
    "kernel beyond the input": ("conv2d", (1, 1, 3, 7), (1, 1, 5, 2), {}),
    "kernel beyond the padded input": ("conv1d", (1, 1, 3), (1, 1, 4), {"padding": 1, "dilation": 3}),
    "kernel beyond the volume": ("conv3d", (1, 1, 3, 3, 3), (1, 1, 1, 4, 1), {}),
    "stride 0": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": (1, 0)}),
    "negative stride": ("conv1d", (1, 1, 6), (1, 1, 3), {"stride": -2}),
    "negative padding": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"padding": (0, -1)}),
    "dilation 0": ("conv3d", (1, 1, 6, 6, 6), (1, 1, 3, 3, 3), {"dilation": (1, 0, 1)}),
    "wrong rank of input": ("conv2d", (6, 6), (1, 1, 3, 3), {}),
    "input of one more axis": ("conv1d", (1, 1, 6, 6), (1, 1, 3), {}),
    "weight of one axis less": ("conv2d", (1, 1, 6, 6), (1, 1, 3), {}),
    "weight of one axis more": ("conv1d", (1, 1, 6), (1, 1, 3, 3), {}),
    "weight of no axes": ("conv2d", (1, 4, 6, 6), (), {"groups": 2}),
    "no strides": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": ()}),
    "same with a stride of 0": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": 0, "padding": "same"}),
    "same with a negative stride": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": -1, "padding": "same"}),
    "strided same, weight of one axis less": ("conv2d", (1, 1, 6, 6), (1, 1, 3), {"stride": 2, "padding": "same"}),
    "strided same, weight of one axis more": ("conv1d", (1, 1, 6), (1, 1, 3, 3), {"stride": 2, "padding": "same"}),
    "kernel of no taps": ("conv1d", (1, 1, 6), (1, 1, 0), {}),
    "batch of no height, unbatched": ("conv2d", (1, 0, 6), (1, 1, 1, 3), {"padding": 1}),
    "too many strides": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": (1, 1, 1)}),
    "too many paddings": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"padding": (1, 1, 1)}),
    "too many dilations": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"dilation": (1, 1, 1)}),
    "unknown padding": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"padding": "full"}),
    "no output channels": ("conv2d", (1, 1, 6, 6), (0, 1, 3, 3), {}),
    "empty input": ("conv2d", (1, 1, 0, 6), (1, 1, 1, 1), {}),
    "a stride that is no number": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": "2"}),
    "a stride of fractions": ("conv2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": 1.5}),
    "transposed: channels": ("conv_transpose2d", (2, 3, 6, 6), (4, 5, 3, 3), {}),
    "transposed: groups": ("conv_transpose2d", (2, 4, 6, 6), (4, 2, 3, 3), {"groups": 3}),
    "transposed: more channels": ("conv_transpose2d", (2, 5, 6, 6), (4, 5, 3, 3), {}),
    "transposed: zero groups": ("conv_transpose2d", (2, 4, 6, 6), (4, 4, 3, 3), {"groups": 0}),
    "transposed: negative groups": ("conv_transpose1d", (2, 4, 6), (4, 4, 3), {"groups": -1}),
    "transposed: wrong rank of input": ("conv_transpose2d", (6, 6), (1, 1, 3, 3), {}),
    "transposed: input of one more axis": ("conv_transpose1d", (1, 1, 6, 6), (1, 1, 3), {}),
    "transposed: weight of one axis less": ("conv_transpose2d", (1, 1, 6, 6), (1, 1, 3), {}),
    "transposed: weight of one axis more": ("conv_transpose1d", (1, 1, 6), (1, 1, 3, 3), {}),
    "transposed: kernel of no taps": ("conv_transpose1d", (1, 1, 6), (1, 1, 0), {}),
    "transposed: no output channels": ("conv_transpose1d", (1, 1, 6), (1, 0, 3), {}),
    "transposed: no channels at all": ("conv_transpose1d", (1, 0, 6), (0, 1, 3), {}),
    "transposed: no height": ("conv_transpose2d", (1, 1, 0, 6), (1, 1, 3, 3), {}),
    "transposed: no height, unbatched": ("conv_transpose2d", (1, 0, 6), (1, 1, 3, 3), {}),
    "transposed: too many strides": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"stride": (1, 1)}),
    "transposed: too many paddings": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"padding": (1, 1)}),
    "transposed: too many dilations": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"dilation": (1, 1)}),
    "transposed: too many output_paddings": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"output_padding": (0, 0)}),
    "transposed: negative output_padding": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"output_padding": -1}),
    "transposed: groups of fractions": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"groups": 1.5}),
    "transposed: stride 0": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"stride": 0}),
    "transposed: negative padding": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"padding": -1}),
    "transposed: dilation 0": ("conv_transpose2d", (1, 1, 6, 6), (1, 1, 3, 3), {"dilation": 0}),
    "transposed: output_padding": ("conv_transpose2d", (1, 1, 6, 6), (1, 1, 3, 3), {"stride": 2, "output_padding": 2}),
    "transposed: output_padding alone": ("conv_transpose1d", (1, 1, 6), (1, 1, 3), {"output_padding": 1}),
    "transposed: all cropped": ("conv_transpose2d", (1, 1, 2, 2), (1, 1, 2, 2), {"padding": 4}),
    "transposed: a word": ("conv_transpose2d", (1, 1, 6, 6), (1, 1, 3, 3), {"padding": "same"}),
}


def bits(*tensors):
    return [t.detach().clone().flatten().view(torch.uint8).tolist() if t.numel() else [] for t in tensors]


def numbers(caught):
    return set(re.findall(r"\b\d+\b", str(caught.value)))


def process_state():
    settings = convext.choice.settings.BACKEND, convext.choice.settings.PRECISION
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return settings, modes, torch.get_default_dtype(), torch.get_rng_state().tolist()


def refused_alike(ours, theirs, tensors):
    """Both raise the same type, ours with all of torch's numbers; tensors and process are as before.

    Returns both errors.
    """
    before, state = bits(*tensors), process_state()
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs()
    with pytest.raises(expected.type) as caught:
        ours()
    assert caught.type is expected.type
    assert numbers(expected) <= numbers(caught), f"{expected.value}\n{caught.value}"
    assert bits(*tensors) == before
    assert process_state() == state
    return caught.value, expected.value


def refused_by_torch(ours, theirs, tensors):
    """As `refused_alike`, and in torch's words. (A TypeError's list the arguments, by name or position.)"""
    caught, expected = refused_alike(ours, theirs, tensors)
    assert str(caught) == str(expected) or isinstance(expected, TypeError)


@pytest.mark.parametrize("needs_grad", [False, True], ids=["", "grad"])
@pytest.mark.parametrize("case", CALLS)
def test_functions(case, needs_grad, backend, device):
    name, x_shape, w_shape, arguments = CALLS[case]
    x, w = (torch.randn(shape, device=device, requires_grad=needs_grad) for shape in (x_shape, w_shape))
    refused_by_torch(
        lambda: getattr(F, name)(x, w, **arguments),
        lambda: getattr(torch.nn.functional, name)(x, w, **arguments),
        [x, w],
    )
    assert x.grad is None


@pytest.mark.parametrize("case", CALLS)
def test_functions_with_a_frozen_weight(case, backend, device):
    """The path that "auto" takes on a CPU where torch would keep the input alive."""
    name, x_shape, w_shape, arguments = CALLS[case]
    x, w = torch.randn(x_shape, device=device, requires_grad=True), torch.randn(w_shape, device=device)
    refused_by_torch(
        lambda: getattr(F, name)(x, w, **arguments),
        lambda: getattr(torch.nn.functional, name)(x, w, **arguments),
        [x, w],
    )


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()], ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_a_bias_that_does_not_fit(name, shape, backend, device):
    x, w, bias = (torch.randn(s, device=device) for s in ((1, 4, 6, 6), (4, 4, 3, 3), shape))
    refused_by_torch(
        lambda: getattr(F, name)(x, w, bias), lambda: getattr(torch.nn.functional, name)(x, w, bias), [bias]
    )


MIXED = [(name, which) for name in ("conv1d", "conv_transpose1d") for which in ("input", "weight", "bias")]
MIXED.remove(("conv_transpose1d", "bias"))  # torch casts this one without a word


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.complex64])
@pytest.mark.parametrize(("name", "which"), MIXED)
def test_mixed_types(name, dtype, which, backend, device):
    tensors = [torch.randn(s, device=device) for s in ((1, 4, 6), (4, 4, 3), (4,))]
    position = ("input", "weight", "bias").index(which)
    tensors[position] = tensors[position].to(dtype)
    refused_alike(lambda: getattr(F, name)(*tensors), lambda: getattr(torch.nn.functional, name)(*tensors), tensors)


@pytest.mark.parametrize("which", [0, 1], ids=["input", "weight"])
def test_tensors_on_two_devices(which, backend, device):
    tensors = [torch.randn(s, device=device) for s in ((1, 4, 6), (4, 4, 3))]
    tensors[which] = tensors[which].to("meta")
    try:
        expected = torch.nn.functional.conv1d(*tensors)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            F.conv1d(*tensors)
    else:
        with convext.backend("auto"):
            assert F.conv1d(*tensors).device == expected.device


def test_an_absent_device(backend):
    layer = convext.Conv2d(1, 1, 3)
    absent = f"cuda:{torch.cuda.device_count()}"
    before = layer.weight
    with pytest.raises((RuntimeError, AssertionError)) as theirs:
        torch.nn.Conv2d(1, 1, 3).to(absent)
    with pytest.raises(theirs.type):
        layer.to(absent)
    with pytest.raises(theirs.type):
        convext.Conv2d(1, 1, 3, device=absent)
    assert layer.weight is before


@pytest.mark.parametrize("x", [None, 3.0, [[1.0]], "x"], ids=str)
def test_input_that_is_no_tensor(x, backend):
    w = torch.randn(1, 1, 1)
    refused_alike(lambda: F.conv1d(x, w), lambda: torch.nn.functional.conv1d(x, w), [w])


@pytest.mark.parametrize("w", [None, 3.0, "x"], ids=str)
@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
def test_weight_that_is_no_tensor(name, w, backend):
    x = torch.randn(1, 1, 1)
    refused_alike(lambda: getattr(F, name)(x, w), lambda: getattr(torch.nn.functional, name)(x, w), [x])


@pytest.mark.parametrize(
    "pads", [((1, 1, 1), (0, 0)), ((1, 2), (3, 4), (5, 6)), ((-1, 0), (0, 0)), ((1,), (1,))], ids=str
)
def test_pairs_that_pad_no_image(pads, backend, device):
    with pytest.raises((RuntimeError, ValueError, TypeError), match="padding"):
        F.conv2d(torch.randn(1, 1, 6, 6, device=device), torch.randn(1, 1, 3, 3, device=device), padding=pads)


def test_a_kernel_beyond_the_asymmetrically_padded_input(backend, device):
    x, w = torch.randn(1, 1, 3, device=device), torch.randn(1, 1, 7, device=device)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size") as caught:
        F.conv1d(x, w, padding=((2, 1),))
    assert {"6", "7"} <= numbers(caught)
