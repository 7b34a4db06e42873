"""Parallel branches that store into their concatenation, against the layers one by one and torch.cat: seconds of each.

    python -m convext.benchmarks.first_light.branches

All take turns on buffers of their own past the L2, in bfloat16 and channels last; the layers by the same kernels, and
by torch's. Beside the ratio to the first stands what is predicted from bytes that are moved: x once and y once, or y
three times.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.benchmarks.first_light.rows import print_each
from convext.benchmarks.measuring.timing import cache_bytes, copies_past_cache, interleaved
from convext.operators.branches import composed
from convext.problem import layout
from convext.problem.branches import BranchesProblem
from convext.triton_kernels.branches import record


class Block(NamedTuple):
    """Branches of 3 x 3 taps that differ in dilation."""

    n: int
    c: int
    k: int  # of each branch
    side: int
    groups: int
    dilations: tuple[int, ...]


BLOCKS = (
    Block(16, 256, 256, 64, 256, (1, 6, 12, 18)), Block(64, 128, 128, 56, 128, (1, 2, 4)),
    Block(8, 64, 64, 128, 64, (1, 2, 4)), Block(1, 256, 256, 64, 256, (1, 6, 12, 18)),
    Block(16, 256, 64, 64, 1, (1, 6, 12, 18)), Block(16, 64, 64, 128, 1, (1, 2, 4)),
)  # fmt: skip


def predicted(block: Block) -> float:
    """How many times as fast, by bytes alone, with x in the L2 for all branches but the first."""
    x, y = block.c, block.k * len(block.dilations)
    return (x + 3 * y) / (x + y)


def compare(block: Block, machine: tuple[str, int, str], seconds: float) -> tuple[str, float]:
    """A line, and the error of one call over that of the layers by the same kernels."""
    n, c, k, side, groups, dilations = block
    device, dtype, count = machine[0], torch.bfloat16, len(dilations)
    shape = n, c, side, side
    w = [torch.randn(k, c // groups, 3, 3, device=device, dtype=dtype) / (9 * c // groups) ** 0.5 for _ in dilations]
    axes = [d for d in dilations for _ in range(2)]
    geometry = (side, side), (1, 1), axes, axes, groups
    problem = BranchesProblem.of(shape, [t.shape for t in w], *geometry, dtype, True, machine)
    xs = [
        layout.dense(torch.randn(shape, device=device, dtype=dtype), True)
        for _ in range(copies_past_cache(2 * n * c * side**2, cache_bytes(device)))
    ]
    none = [None] * count
    family = "triton.stencil" if groups == c else "triton.igemm"
    calls: dict[str, Callable[[int], Tensor]] = {
        "one call": lambda i: record.run(problem, xs[i % len(xs)], w, none),
        "the same kernels": lambda i: composed(xs[i % len(xs)], w, none, *geometry, family),
        "torch": lambda i: composed(xs[i % len(xs)], w, none, *geometry, "aten"),
    }
    exact = torch.cat(
        [F.conv2d(xs[0].double(), t.double(), None, 1, d, d, groups) for t, d in zip(w, dilations, strict=True)], 1
    )
    errors = [(calls[name](0).double() - exact).abs().max().item() for name in ("one call", "the same kernels")]
    times = {name: statistics.median(each) for name, each in interleaved(calls, device, seconds).items()}
    told = ", ".join(f"{name} {1e6 * time:.1f} us" for name, time in times.items())
    ratio = times["the same kernels"] / times["one call"]
    where = f"{list(shape)} to {count} x {k}, {groups} groups, dilations {list(dilations)}"
    return f"{where}: {told}: {ratio:.2f}x, predicted {predicted(block):.2f}x", errors[0] / errors[1]


def main() -> int:
    """Prints a line for each block; returns 1 where one call errs more than twice as much as the layers."""
    return print_each(BLOCKS, compare)


if __name__ == "__main__":
    sys.exit(main())
