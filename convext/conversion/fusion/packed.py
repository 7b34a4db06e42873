"""What a way to a fused convolution's result keeps: the weight as it wants it, and the sizes of results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convext.problem import output_size

_MOST_SHAPES = 1024  # of inputs whose results are known


class Packed:
    """A convolution without what its weight is laid out as, for as long as the weight is the same.

    What is written into `weight.data`, past autograd's count of versions, is not seen.
    """

    def __init__(self, conv: Any) -> None:
        self.weight = conv.weight.detach()  # kept, so that no other weight can lie where this one does
        self._version = _version(conv.weight)
        padding = [0] * len(conv.stride) if conv.padding == "valid" else list(conv.padding)
        self.geometry = padding, list(conv.stride), list(conv.dilation), conv.groups
        self._results: dict[torch.Size, torch.Size | None] = {}

    def is_of(self, weight: Tensor) -> bool:
        """Whether `weight` is what was laid out."""
        return (
            self.weight.data_ptr() == weight.data_ptr()
            and self.weight.dtype is weight.dtype
            and self._version == _version(weight)
        )

    def result_of(self, shape: torch.Size) -> torch.Size | None:
        """The shape of the result of an input; None for what is empty, and for what torch refuses."""
        if shape not in self._results:
            if len(self._results) >= _MOST_SHAPES:
                self._results.clear()
            self._results[shape] = _result(shape, self.weight.shape, *self.geometry)
        return self._results[shape]


def _result(
    x: torch.Size, w: torch.Size, padding: list[int], stride: list[int], dilation: list[int], groups: int
) -> torch.Size | None:
    if len(x) != len(w) or x[1] != w[1] * groups or min(x) < 1:
        return None
    space = output_size(x[2:], w[2:], stride, padding, padding, dilation)
    return torch.Size((x[0], w[0], *space)) if min(space) > 0 else None


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
