"""plain.taps: dilated convolutions as a product for each tap, over the box of outputs where the tap reads inside.

    y[:, box] += w[:, :, t] @ x[:, box shifted by t]

torch copies all taps of an input into columns first. Where taps lie far apart, most of what it copies is padding, and
the boxes are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from convext.problem import OPERANDS, ConvProblem
from convext.problem.layout import dense

Slices = tuple[slice, ...]

# Channels of x with which MKL sums a weight gradient's pixels one after the other: 128 x 128 of them with up to five
# times the error of torch, in up to seventeen times its time. From 12 channels the errors are alike.
FEW = 11


def why_not(problem: ConvProblem) -> str | None:
    """One group, stride 1, a dilation of more than 1, float32; for wgrad more than a few channels of x."""
    if problem.family != "dilated":
        return f"is for dilated convolutions of one group, but got dilation={problem.dilation}, groups={problem.groups}"
    if problem.dtype != torch.float32:
        return f"sums in the result's own numbers: float32, not {problem.dtype}"
    if max(problem.stride) > 1:
        return f"is for a stride of 1, but got {problem.stride}"
    if problem.empty:
        return "a tensor of the problem has no elements"
    if problem.face == "wgrad" and problem.c <= FEW:
        return f"sums pixels for more than {FEW} channels of x, but got {problem.c} channels"
    return None


def copies(problem: ConvProblem) -> list[str]:
    """A box of each operand."""
    elements = max(problem.n * problem.c * math.prod(problem.input), problem.n * problem.k * math.prod(problem.output))
    return [f"copies a box for each tap: up to {elements * problem.dtype.itemsize:,} bytes"]


def run(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the open tensor of `problem` from its operands `a` and `b`, plus `bias`."""
    result = a.new_zeros(problem.open_shape)
    if bias is not None:
        result += bias.view(-1, *[1] * problem.rank)
    tensors = dict(zip(OPERANDS[problem.face], (a, b), strict=True))
    for tap, x_box, y_box in _boxes(problem):
        at: Any = (slice(None), slice(None), *tap)
        if problem.face == "wgrad":
            x, y = (_columns(tensors[role], box) for role, box in (("x", x_box), ("y", y_box)))
            result[at] = torch.bmm(y, x.transpose(1, 2)).sum(0)
        elif problem.face == "fprop":
            box = result[_at(y_box)]
            box += (tensors["w"][at] @ _columns(tensors["x"], x_box)).view(box.shape)
        else:
            box = result[_at(x_box)]
            box += (tensors["w"][at].T @ _columns(tensors["y"], y_box)).view(box.shape)
    return dense(result, problem.channels_last)


def _at(box: Slices) -> Any:
    """The index of a box in all images and channels."""
    return (..., *box)


def _columns(t: Tensor, box: Slices) -> Tensor:
    """[N, C, pixels of the box]."""
    return t[_at(box)].flatten(2)


def _boxes(problem: ConvProblem) -> Iterator[tuple[tuple[int, ...], Slices, Slices]]:
    """Each tap that reads inside, with the boxes of x and of y that it joins."""
    for tap in product(*map(range, problem.kernel)):
        x_box, y_box = [], []
        for t, d, p, i, o in zip(
            tap, problem.dilation, problem.pad, problem.input, problem.output, strict=True
        ):  # fmt: skip
            shift = t * d - p  # from an output to the input that it reads
            begin, end = max(0, -shift), min(o, i - shift)
            y_box.append(slice(begin, end))
            x_box.append(slice(begin + shift, end + shift))
        if all(box.start < box.stop for box in y_box):
            yield tap, tuple(x_box), tuple(y_box)
