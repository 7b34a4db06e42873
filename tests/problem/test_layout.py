"""Memory formats: torch's rule for four and five axes, and the same rule for three with an axis of one put in."""

from collections.abc import Iterator
from itertools import permutations, product

import pytest
import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from convext.problem import layout

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
SIZES = {1: (0, 1, 2, 3), 2: (0, 1, 2), 3: (1, 2)}


def tensors(rank: int) -> Iterator[Tensor]:
    """Tensors of small sizes with their axes in every order in memory; slices of larger ones; expanded ones."""
    axes = range(rank + 2)
    for shape, order in product(product(SIZES[rank], repeat=rank + 2), permutations(axes)):
        back = [order.index(axis) for axis in axes]
        t = torch.empty([shape[axis] for axis in order]).permute(back)
        yield t
        yield t[::2]
        yield torch.empty([shape[axis] + 1 for axis in order]).permute(back)[tuple(map(slice, shape))]
        for axis in axes:
            if shape[axis] == 1:
                yield t.expand(*shape[:axis], 3, *shape[axis + 1 :])


@pytest.mark.parametrize("rank", SIZES)
def test_channels_last_is_what_torch_takes_for_it(rank: int) -> None:
    for t in tensors(rank):
        torchs = suggest_memory_format(t.unsqueeze(2) if rank == 1 else t)
        expected = torchs in FORMATS.values() and not t.is_contiguous()
        assert layout.is_channels_last(t) == expected, (t.shape, t.stride())


@pytest.mark.parametrize("rank", SIZES)
def test_empty_and_dense_have_torchs_strides(rank: int) -> None:
    for shape in product((1, 2, 3), repeat=rank + 2):
        n, c, *space = shape
        t = torch.arange(torch.Size(shape).numel()).reshape(shape)
        contiguous = torch.empty(shape)
        last = torch.empty(n, *space, c).movedim(-1, 1)
        if rank > 1:
            last = contiguous.to(memory_format=FORMATS[rank])
        for channels_last, like in ((False, contiguous), (True, last)):
            made = layout.empty(shape, channels_last, t)
            assert (made.shape, made.dtype) == (like.shape, torch.int64)
            found = layout.dense(t, channels_last)
            assert torch.equal(found, t)
            assert layout.dense(found, channels_last) is found
            for axis, size in enumerate(shape):
                if size > 1:  # the stride of an axis of one is not looked at
                    assert made.stride(axis) == found.stride(axis) == like.stride(axis), (shape, axis)
