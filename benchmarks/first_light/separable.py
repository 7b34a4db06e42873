"""A depthwise and a pointwise convolution in one launch, against two: seconds of each, and whether both are right.

    python -m convext.benchmarks.first_light.separable

Both take turns on buffers of their own past the L2. Beside the ratio stands the one that was predicted
(`triton_kernels/separable/cost.py`), by which "auto" chooses.
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
from convext.operators.activated import activated
from convext.problem import layout
from convext.problem.epilogue import Epilogue
from convext.problem.separable import SeparableProblem
from convext.triton_kernels.pixels import power_of_two
from convext.triton_kernels.separable import record
from convext.triton_kernels.separable.cost import predicted


class Layer(NamedTuple):
    """A depthwise layer with ReLU, and a pointwise one; of MobileNets but for the last, DeepLab's head."""

    n: int
    c: int
    k: int
    side: int
    taps: int = 3
    stride: int = 1


LAYERS = (
    Layer(64, 32, 16, 112), Layer(64, 96, 24, 112, 3, 2), Layer(64, 144, 24, 56), Layer(64, 192, 32, 28),
    Layer(64, 576, 96, 14), Layer(64, 960, 160, 7), Layer(64, 120, 40, 28, 5), Layer(64, 128, 128, 56),
    Layer(64, 256, 256, 28), Layer(64, 512, 512, 14), Layer(1, 144, 24, 56), Layer(8, 256, 256, 128),
)  # fmt: skip


def compare(layer: Layer, last: bool, machine: tuple[str, int, str], seconds: float) -> tuple[str, float]:
    """A line, and the error of one launch over that of two."""
    n, c, k, side, taps, stride = layer
    device, dtype = machine[0], torch.bfloat16
    w = torch.randn(c, 1, taps, taps, device=device, dtype=dtype) / taps
    v = torch.randn(k, c, 1, 1, device=device, dtype=dtype) / c**0.5
    size = ((side - 1) // stride + 1,) * 2
    geometry = size, (stride,) * 2, (taps // 2,) * 2, (1, 1)
    shapes = (n, c, side, side), w.shape, v.shape
    problem = SeparableProblem.of(
        Epilogue("relu"), Epilogue(), False, *shapes, *geometry, dtype, (last, last), machine
    )  # fmt: skip
    bytes_of_x = 2 * n * c * side**2
    xs = [
        layout.dense(torch.randn(shapes[0], device=device, dtype=dtype), last)
        for _ in range(copies_past_cache(bytes_of_x, cache_bytes(device)))
    ]

    def one(i: int) -> Tensor:
        return record.run(problem, xs[i % len(xs)], w, None, v, None, None)

    def two(i: int) -> Tensor:
        t = activated("fprop", xs[i % len(xs)], w, None, None, *geometry, c, "triton.stencil", "relu")
        return activated("fprop", t, v, None, None, size, (1, 1), (0, 0), (1, 1), 1, "triton.pointwise", "identity")

    calls: dict[str, Callable[[int], Tensor]] = {"one": one, "two": two}
    t = torch.relu(F.conv2d(xs[0].double(), w.double(), None, stride, taps // 2, 1, c))
    exact = F.conv2d(t, v.double())
    errors = [(call(0).double() - exact).abs().max().item() for call in calls.values()]
    times = {name: statistics.median(each) for name, each in interleaved(calls, device, seconds).items()}
    expected = predicted(problem, power_of_two(side, limit=8))
    told = ", ".join(f"{name} {1e6 * time:.1f} us" for name, time in times.items())
    where = f"{list(shapes[0])} {taps}x{taps} stride {stride} to {k} {'NHWC' if last else 'NCHW'}"
    ratios = f"{times['two'] / times['one']:.2f}x, predicted {expected.two / expected.one:.2f}x"
    return f"{where}: {told}: {ratios}; error {errors[0] / errors[1]:.2f} of theirs", errors[0] / errors[1]


def main() -> int:
    """Prints a line for each layer and format; returns 1 where one launch errs more than twice as much as two."""
    cases = ((layer, last) for layer in LAYERS for last in (True, False))
    return print_each(cases, lambda case, machine, seconds: compare(*case, machine, seconds))


if __name__ == "__main__":
    sys.exit(main())
