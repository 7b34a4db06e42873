"""What follows a convolution, at its store and after it: seconds of each, and whether both are right.

    python -m convext.benchmarks.first_light.epilogues

Three calls take turns, each on buffers of its own past the L2: the bare convolution, the convolution with SiLU and a
residual in one call, and torch's SiLU and sum after the bare one. The first has to store what the second stores.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.benchmarks.measuring.timing import cache_bytes, copies_past_cache, interleaved
from convext.operators.activated import activated
from convext.operators.autograd import convolve
from convext.problem import Ints, layout
from convext.providers.cuda import native

SECONDS = 1.0  # of each row


class Layer(NamedTuple):
    """At stride 1, padded to the size of its input: a residual has the result's shape."""

    kernel: str
    n: int
    channels: int
    side: int
    taps: int
    groups: int

    @property
    def geometry(self) -> tuple[Ints, Ints, Ints, Ints, int, str]:
        """From the size of the result to the kernel's name, as operators take it."""
        return (self.side,) * 2, (1, 1), (self.taps // 2,) * 2, (1, 1), self.groups, self.kernel


LAYERS = (
    Layer("triton.stencil", 32, 96, 56, 3, 96),
    Layer("triton.stencil", 32, 192, 28, 5, 192),
    Layer("triton.banded", 32, 96, 56, 7, 96),
    Layer("triton.pointwise", 32, 192, 28, 1, 1),
    Layer("triton.grouped", 32, 128, 28, 3, 16),
    Layer("triton.igemm", 32, 128, 28, 3, 1),
    Layer("cuda.stencil", 32, 96, 56, 3, 96),
    Layer("cuda.stencil", 32, 192, 28, 5, 192),
    Layer("cuda.igemm", 32, 192, 28, 1, 1),
    Layer("cuda.igemm", 32, 128, 28, 3, 1),
)


def compare(layer: Layer, last: bool, device: str, seconds: float) -> tuple[str, float, float]:
    """A line, how many times as fast one call is as one after the other, and its error over that of the other."""
    x = torch.randn(layer.n, layer.channels, layer.side, layer.side, device=device, dtype=torch.bfloat16)
    w = torch.randn(layer.channels, layer.channels // layer.groups, layer.taps, layer.taps, device=device)
    w = (w / w[0].numel() ** 0.5).to(x.dtype)
    count = copies_past_cache(2 * x.nbytes, cache_bytes(device))
    buffers = [[layout.dense(torch.randn_like(x), last) for _ in range(2)] for _ in range(count)]

    def bare(i: int) -> Tensor:
        return convolve("fprop", buffers[i % count][0], w, None, *layer.geometry)

    def fused(i: int) -> Tensor:
        return activated("fprop", buffers[i % count][0], w, None, buffers[i % count][1], *layer.geometry, "silu")

    def after(i: int) -> Tensor:
        return F.silu(bare(i), inplace=True).add_(buffers[i % count][1])

    calls: dict[str, Callable[[int], Tensor]] = {"bare": bare, "fused": fused, "one after the other": after}
    errors = _errors(layer, buffers[0], w, {name: calls[name](0) for name in ("fused", "one after the other")})
    times = {name: statistics.median(each) for name, each in interleaved(calls, device, seconds).items()}
    told = ", ".join(f"{name} {1e6 * one:.1f} us" for name, one in times.items())
    ratio = times["one after the other"] / times["fused"]
    where = f"{layer.kernel} {list(x.shape)} {layer.taps}x{layer.taps} {'NHWC' if last else 'NCHW'}"
    return f"{where}: {told}: {ratio:.2f}x; error {errors:.2f} of theirs", ratio, errors


def _errors(layer: Layer, operands: list[Tensor], w: Tensor, found: dict[str, Tensor]) -> float:
    """The greatest error of one call over that of one after the other, against torch's in float64."""
    x, residual = (t.double() for t in operands)
    oracle = F.silu(F.conv2d(x, w.double(), None, 1, layer.taps // 2, 1, layer.groups)) + residual
    fused, after = ((y.double() - oracle).abs().max().item() for y in found.values())
    return fused / after


def main() -> int:
    """Prints a line for each layer and format; returns 1 where one call is slower, or errs more than twice as much."""
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing is timed")
        return 0
    failed = False
    for layer in LAYERS:
        if layer.kernel.startswith("cuda.") and (reason := native.unavailable()):
            print(f"{layer.kernel}: {reason}")
            continue
        for last in (False, True):
            line, ratio, errors = compare(layer, last, "cuda", SECONDS)
            print(line, flush=True)
            failed |= ratio < 0.97 or errors > 2
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
