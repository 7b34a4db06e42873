"""Our copies between memory formats, and our sums of a bias's gradient, against torch's: bytes a second of each.

    python -m convext.benchmarks.first_light.copies

A copy is read and written once, a sum read once. What is timed is past the L2: every call has buffers of its own.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from convext.benchmarks.measuring.timing import cache_bytes, copies_past_cache, interleaved
from convext.choice import registry
from convext.problem import ConvProblem, layout
from convext.triton_kernels.passes import bias
from convext.triton_kernels.passes.transpose import dense

SHAPES = ((32, 96, 56, 56), (64, 960, 7, 7), (16, 64, 112, 112), (8, 512, 14, 14), (256, 4, 3, 3), (2, 32, 32, 64, 64))
SECONDS = 1.0  # of each row


def summed(y: Tensor) -> ConvProblem:
    """A weight gradient that reads `y` too: of it the sum asks for the device alone."""
    ones, arch = (1,) * (y.dim() - 2), registry.arch(y.device) if y.is_cuda else 0
    geometry = ones, ones, (0,) * len(ones), ones, 1
    return ConvProblem.of("wgrad", y.shape, y.shape, *geometry, y.dtype, False, y.device.type, arch)


def contenders(last: bool) -> dict[str, tuple[int, dict[str, Callable[[Tensor], Tensor]]]]:
    """What is done to a tensor in one format: how often its bytes move, and by whom."""
    return {
        "copied": (2, {"ours": lambda t: dense(t, not last), "torch": lambda t: layout.dense(t, not last)}),
        "summed": (1, {"ours": lambda t: bias.run(summed(t), t), "torch": lambda t: t.sum((0, *range(2, t.dim())))}),
    }


def compare(shape: tuple[int, ...], last: bool, device: str, seconds: float) -> Iterator[tuple[str, float]]:
    """A line for each operation on a tensor in one format, and how many times as fast as torch's ours is."""
    first = torch.randn(shape, device=device, dtype=torch.bfloat16)
    count = copies_past_cache(first.nbytes, cache_bytes(device))
    buffers = [layout.dense(torch.randn_like(first), last) for _ in range(count)]
    for name, (moves, calls) in contenders(last).items():
        timed = {who: lambda i, call=call: call(buffers[i % count]) for who, call in calls.items()}
        for once in timed.values():
            once(0)
        times = {who: statistics.median(each) for who, each in interleaved(timed, device, seconds).items()}
        rates = ", ".join(f"{who} {moves * first.nbytes / one / 1e9:.1f} GB/s" for who, one in times.items())
        ratio = times["torch"] / times["ours"]
        yield f"{name} {list(shape)} {'NHWC' if last else 'NCHW'}: {rates}, {ratio:.2f}x", ratio


def main() -> int:
    """Prints a line for each shape, format and operation; returns 1 where ours is slower than torch's."""
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing is timed")
        return 0
    slower = False
    for shape in SHAPES:
        for last in (False, True):
            for line, ratio in compare(shape, last, "cuda", SECONDS):
                print(line, flush=True)
                slower |= ratio < 0.97
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
