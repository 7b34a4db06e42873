"""Copies between memory formats, against torch's: odd sizes, whole tiles, every dtype, what neither format is."""

import pytest
import torch

from convext.triton_kernels.passes.transpose import dense, first_innermost

SHAPES = {
    "odd": (3, 5, 7, 9), "tiles": (2, 64, 8, 16), "2 x 2 tiles": (2, 70, 10, 11), "1-D": (2, 3, 300),
    "3-D": (2, 3, 4, 5, 6), "weights": (100, 4, 3, 3),
}  # fmt: skip
DEPTHWISE = {"depthwise weights": (70, 1, 5, 5), "of one tap": (70, 1, 1)}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def innermost(t, axis):
    return t.movedim(axis, -1).contiguous().movedim(-1, axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_into_channels_last_and_back(shape, dtype, poisoned, bordered, device):
    t = bordered(torch.randn(SHAPES[shape], device=device).to(dtype))
    last = dense(t, channels_last=True)
    assert last.movedim(1, -1).is_contiguous()
    assert torch.equal(last, t)
    back = dense(bordered(innermost(t, 1)), channels_last=False)
    assert back.is_contiguous()
    assert torch.equal(back, t)


@pytest.mark.parametrize("shape", SHAPES | DEPTHWISE)
def test_filters_innermost(shape, poisoned, device):
    t = torch.randn((SHAPES | DEPTHWISE)[shape], device=device)
    for given in (t, innermost(t, 1), t.flip(0)[:, :, ::2]):
        found = first_innermost(given)
        assert found.movedim(0, -1).is_contiguous()
        assert torch.equal(found, given)


def test_what_lies_so_is_not_copied():
    t = torch.randn(2, 3, 4, 5)
    assert dense(t, channels_last=False) is t
    assert dense(last := innermost(t, 1), channels_last=True) is last


@pytest.mark.parametrize("channels_last", [False, True])
def test_of_neither_format(channels_last, device):
    t = torch.randn(4, 6, 8, 10, device=device)
    for given in (t[:, ::2], t.transpose(0, 3), t[:1].expand(3, 6, 8, 10), t[:0]):
        found = dense(given, channels_last)
        assert (found.movedim(1, -1) if channels_last else found).is_contiguous()
        assert torch.equal(found, given)
