"""The gradient by a bias, against torch's sum in float64: both orders, odd sizes, every stride, parts."""

import pytest
import torch

from convext.problem import ConvProblem
from convext.triton_kernels.launch import collecting
from convext.triton_kernels.passes import bias

SHAPES = {"1-D": (3, 5, 77), "2-D": (2, 70, 9, 7), "3-D": (2, 3, 4, 5, 6), "one": (1, 1, 1, 1), "long": (3, 2, 90, 100)}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def wgrad(y):
    """A problem that reads y: what is summed depends on its device alone."""
    x, ones = (y.shape[0], y.shape[1], *y.shape[2:]), (1,) * (y.dim() - 2)
    geometry = ones, ones, (0,) * len(ones), ones, 1
    return ConvProblem.of("wgrad", x, tuple(y.shape), *geometry, y.dtype, False, y.device.type, 0)


def assert_sums(y):
    expected = y.double().sum((0, *range(2, y.dim())))
    scale = y.double().abs().sum((0, *range(2, y.dim())))  # of the terms, for sums that cancel
    found = bias.run(wgrad(y), y)
    assert found.dtype == y.dtype
    assert found.shape == (y.shape[1],)
    eps = torch.finfo(y.dtype).eps
    sums = 1e-15 if y.dtype == torch.float64 else 1e-7  # float32 sums in trees, each term a few roundings deep
    assert ((found.double() - expected).abs() <= eps * expected.abs() + 30 * sums * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums(shape, last, dtype, bordered, poisoned, device):
    y = torch.randn(SHAPES[shape], device=device).to(dtype)
    if last:
        y = y.movedim(1, -1).contiguous().movedim(-1, 1)
    assert_sums(bordered(y))


STRIDED = {
    "sliced": lambda y: y[:, ::2, :, 1:],
    "expanded": lambda y: y[:1, :1, :1, :1].expand(y.shape),
    "a constant": lambda y: y.sum().expand(y.shape),
    "images apart": lambda y: y[::2],
    "transposed": lambda y: y.transpose(2, 3),
}


@pytest.mark.parametrize("how", STRIDED)
def test_of_every_stride(how, device):
    assert_sums(STRIDED[how](torch.randn(4, 6, 8, 10, device=device)))


def test_of_nothing():
    y = torch.empty(0, 3, 4, 4)
    assert torch.equal(bias.run(wgrad(y), y), torch.zeros(3))


def test_few_channels_are_split():
    """They alone would be two blocks: the parts are added in a second launch."""
    y = torch.empty(64, 2, 112, 112, device="meta", dtype=torch.bfloat16)
    with collecting() as launches:
        bias.run(wgrad(y), y)
    assert [launch.kernel.__name__ for launch in launches] == ["_channel_sums", "_add_rows"]
    assert launches[0].programs > 2
