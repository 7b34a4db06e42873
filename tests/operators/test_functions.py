"""The functions' own defaults and rules, as torch.nn.functional has them."""

import itertools

import pytest
import torch

import convext

SHAPES = {
    # name: (input, weight)
    "conv1d": ((2, 4, 7), (6, 4, 3)),
    "conv2d": ((2, 4, 7, 6), (6, 4, 3, 2)),
    "conv3d": ((2, 4, 5, 6, 4), (6, 4, 3, 2, 1)),
    "conv_transpose1d": ((2, 4, 7), (4, 6, 3)),
    "conv_transpose2d": ((2, 4, 5, 6), (4, 6, 3, 2)),
    "conv_transpose3d": ((2, 4, 3, 4, 2), (4, 6, 3, 2, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_defaults(name, backend, device):
    x, w = (torch.randn(shape, device=device) for shape in SHAPES[name])
    expected = getattr(torch.nn.functional, name)(x, w)
    torch.testing.assert_close(getattr(convext.functional, name)(x, w), expected)
    torch.testing.assert_close(getattr(convext.functional, name)(input=x, weight=w), expected)


@pytest.mark.parametrize("rank", [1, 2])
def test_output_padding_is_below_stride_or_dilation(rank, device):
    """Every combination of small ones: torch's result, or torch's error."""
    name = f"conv_transpose{rank}d"
    x, w = (torch.randn(shape, device=device) for shape in SHAPES[name])
    for stride, dilation, extra in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 2, 3)):
        arguments = {"stride": stride, "dilation": dilation, "output_padding": extra}

        def call(module, arguments=arguments):
            try:
                return getattr(module, name)(x, w, **arguments)
            except RuntimeError as error:
                return str(error)

        with convext.backend("aten"):
            actual = call(convext.functional)
        expected = call(torch.nn.functional)
        if isinstance(expected, str):
            assert actual == expected, arguments
        else:
            torch.testing.assert_close(actual, expected)
