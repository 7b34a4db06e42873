"""Launches of the passes that are compiled offline: vectors on both sides, on one, and on none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from convext.problem import ConvProblem, layout
from convext.triton_kernels.launch import Launch, Specimen, collecting
from convext.triton_kernels.passes import bias
from convext.triton_kernels.passes.reduce import add_in_order
from convext.triton_kernels.passes.transpose import dense

IMAGES = {"56x56": (32, 96, 56, 56), "7x7": (64, 960, 7, 7), "weights": (256, 4, 3, 3)}
DTYPES = (torch.float32, torch.bfloat16)


def specimens(arch: int) -> Iterator[Specimen]:
    """Of each pass, in 4 and in 2 bytes."""
    for dtype in DTYPES:
        like, kind = torch.empty((), dtype=dtype, device="meta"), str(dtype).removeprefix("torch.")
        for name, shape in IMAGES.items():
            for last in (False, True):
                t, order = layout.empty(shape, last, like), "NHWC" if last else "NCHW"
                copied = _first_launch(partial(dense, t, not last))
                yield Specimen(f"passes.transpose {kind} {order} {name}", None, copied, t.numel() / copied.programs)
                if name != "weights":
                    summed = _first_launch(partial(bias.run, _wgrad(t, arch), t))
                    terms = t.numel() / summed.programs  # instructions a term: a program has few sums
                    yield Specimen(f"passes.bias {kind} {order} {name}", None, summed, terms, math.ceil(summed.trips))
        parts, result = like.new_empty((32, 96 * 49), dtype=torch.float32), like.new_empty(96, 1, 7, 7)
        added = _first_launch(partial(add_in_order, parts, result))
        yield Specimen(f"passes.reduce {kind} of 32 parts", None, added, result.numel() / added.programs, trips=2)


def _wgrad(y: Tensor, arch: int) -> ConvProblem:
    """A weight gradient that reads `y`, of which the sum asks for the device alone."""
    ones, none = (1,) * (y.dim() - 2), (0,) * (y.dim() - 2)
    return ConvProblem.of("wgrad", y.shape, y.shape, ones, ones, none, ones, 1, y.dtype, False, "cuda", arch)


def _first_launch(run: Callable[[], object]) -> Launch:
    """What a pass launches first: a sum of parts may follow."""
    with collecting() as launches:
        run()
    return launches[0]
