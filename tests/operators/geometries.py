"""Small convolutions, odd on purpose, that every operator test runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from convext.problem import OPERANDS, ConvProblem, Face, Ints, output_size


@dataclass(frozen=True)
class Geometry:
    """One convolution, whichever of its tensors is left open."""

    name: str
    x: Ints
    w: Ints
    stride: Ints
    begin: Ints
    end: Ints
    dilation: Ints
    groups: int

    @property
    def shapes(self) -> dict[str, Ints]:
        space = output_size(self.x[2:], self.w[2:], self.stride, self.begin, self.end, self.dilation)
        return {"x": self.x, "w": self.w, "y": (self.x[0], self.w[0], *space)}

    def draw(self, face: Face, device: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None]:
        """Contiguous standard normal operands and bias of `face`."""
        a, b = (torch.randn(self.shapes[role], device=device, dtype=dtype) for role in OPERANDS[face])
        channels = {"fprop": self.shapes["y"][1], "dgrad": self.shapes["x"][1]}.get(face)
        return a, b, None if channels is None else torch.randn(channels, device=device, dtype=dtype)

    def tail(self, face: Face) -> tuple[Any, ...]:
        """The operator's arguments after bias and before the kernel's name."""
        size = self.shapes[{"fprop": "y", "dgrad": "x", "wgrad": "w"}[face]][2:]
        return list(size), list(self.stride), list(self.begin), list(self.dilation), self.groups

    def torchs(self, face: Face) -> Callable[..., Tensor]:
        """`operator(face)` of (a, b, bias) by torch.nn.functional alone: what the operators are held to.

        A dgrad is the full transposed convolution, of which the zeros around x are cut off; a wgrad is torch's own
        derivative of the convolution, which every transform takes as it takes the convolution.
        """
        rank = len(self.stride)
        conv, transposed = (getattr(F, f"conv{kind}{rank}d") for kind in ("", "_transpose"))
        shapes, tail = self.shapes, {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        pads = [side for pair in zip(reversed(self.begin), reversed(self.end), strict=True) for side in pair]

        def fprop(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
            return conv(F.pad(x, pads), w, bias, **tail)

        def dgrad(y: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
            full = transposed(y, w, **tail)
            read = full.shape[2:]
            within = zip(shapes["x"][2:], self.begin, self.end, read, strict=True)
            unread = [side for i, b, e, o in reversed(list(within)) for side in (0, b + i + e - o)]
            x = F.pad(full, unread)
            for axis, (first, size) in enumerate(zip(self.begin, shapes["x"][2:], strict=True), start=2):
                x = x.narrow(axis, first, size)
            return x if bias is None else x + bias.view(-1, *[1] * rank)

        def wgrad(x: Tensor, y: Tensor, bias: None = None) -> Tensor:
            return vjp(partial(fprop, x), x.new_zeros(shapes["w"]))[1](y)[0]

        return {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}[face]

    def problem(self, face: Face, dtype: torch.dtype = torch.float64) -> ConvProblem:
        a, b = (self.shapes[role] for role in OPERANDS[face])
        return ConvProblem.of(face, a, b, *self.tail(face), dtype)


GEOMETRIES = [
    Geometry("1d", (2, 4, 9), (6, 2, 3), (2,), (1,), (1,), (2,), 2),
    Geometry("causal", (1, 2, 7), (2, 2, 3), (1,), (4,), (0,), (2,), 1),
    Geometry("2d", (2, 3, 5, 6), (2, 3, 3, 2), (1, 2), (2, 0), (0, 1), (1, 1), 1),
    Geometry("depthwise", (2, 3, 6, 5), (6, 1, 3, 3), (2, 1), (1, 1), (1, 1), (1, 1), 3),
    Geometry("pointwise", (2, 3, 3, 4), (4, 3, 1, 1), (1, 1), (0, 0), (0, 0), (1, 1), 1),
    Geometry("3d", (1, 2, 4, 3, 4), (2, 1, 2, 2, 2), (1, 2, 1), (1, 0, 1), (0, 1, 1), (1, 1, 2), 2),
]


def operator(face: Face) -> Any:
    return getattr(torch.ops.convext, face).default


def channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


def strided(t: Tensor) -> Tensor:
    """A slice of a larger tensor, as `torch.cat` hands gradients to its inputs, with NaN around it."""
    larger = t.new_full([n + 2 for n in t.shape], torch.nan)
    inside = larger[tuple(slice(1, -1) for _ in t.shape)]
    return inside.copy_(t)
