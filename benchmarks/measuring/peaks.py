"""The peaks of a device that has none on record, measured in the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

from convext.benchmarks.reporting import results
from convext.problem.roofline import Peaks, known_peaks

REPEATS = 5


def peaks_of(device: str, dtypes: Iterable[torch.dtype], copy_bytes: int) -> Peaks:
    """Recorded peaks where there are some, else measured ones.

    Args:
        device: "cuda" or "cpu".
        dtypes: whose products are timed.
        copy_bytes: size of the copied buffer. On a CPU that of a benchmarked problem: where those stay in the cache,
            so must the copy that they are compared with.
    """
    if device == "cuda" and (recorded := known_peaks()) is not None:
        return recorded
    bandwidth = _bandwidth(device, copy_bytes)
    rates = {str(dtype).removeprefix("torch."): _rate(device, dtype) for dtype in {*dtypes, torch.float32}}
    if device == "cuda":
        rates["tf32"] = _rate(device, torch.float32, "tf32")
    side = _side(device)
    return Peaks(
        results.device_name(device), bandwidth, rates,
        f"measured in this run: copy of {copy_bytes / 1e6:.0f} MB, products of {side}^3",
    )  # fmt: skip


def _side(device: str) -> int:
    return 8192 if device == "cuda" else 1024


def _best(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(1 + REPEATS):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _bandwidth(device: str, size: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


def _rate(device: str, dtype: torch.dtype, precision: str = "ieee") -> float:
    side = _side(device)
    a = torch.randn(side, side, device=device).to(dtype)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        return 2 * side**3 / _best(lambda: a @ a, device)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
