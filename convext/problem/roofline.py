"""How fast a problem could be: each tensor crosses the memory bus once, or the multipliers never wait.

    ideal seconds = max(bytes / bandwidth, FLOPs / peak)

Products run at the peak of their dtype on the matrix units. Depthwise has no channels to sum over, so its peak is
that of float32 multiply-adds outside them; a depthwise kernel that does reach the matrix units, through banded
tiles, may pass 100% of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from convext.problem import ConvProblem


@dataclass(frozen=True)
class Peaks:
    """What one device can do at best.

    Attributes:
        name: the device, as torch names it.
        bandwidth: bytes a second of a large copy, read plus written.
        rates: FLOP/s of products, by "bfloat16", "float16", "tf32" and "float32" (outside the matrix units).
        source: where the figures come from.
    """

    name: str
    bandwidth: float
    rates: Mapping[str, float]
    source: str


H100 = Peaks(
    name="NVIDIA H100 80GB HBM3",
    bandwidth=3.0e12,
    rates={"bfloat16": 798e12, "float16": 798e12, "tf32": 399e12, "float32": 67e12, "float64": 67e12},
    source="H100 SXM: copy and bfloat16 8192^3 product as measured by others; float16 as bfloat16, TF32 half of it; "
    "float32 and float64 from the data sheet",
)
PEAKS: dict[str, Peaks] = {H100.name: H100}


def known_peaks() -> Peaks | None:
    """The recorded peaks of the current GPU, or None where there is no GPU or none are recorded."""
    return PEAKS.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def rate(problem: ConvProblem, peaks: Peaks) -> float:
    """FLOP/s at which `peaks` forms this problem's products."""
    if problem.dtype is torch.float32 and problem.precision != "ieee" and problem.family != "depthwise":
        return peaks.rates["tf32"] / (3 if problem.precision == "tf32x3" else 1)
    half_depthwise = problem.family == "depthwise" and problem.dtype is not torch.float64
    name = "float32" if half_depthwise else str(problem.dtype).removeprefix("torch.")
    return peaks.rates[name]


def ideal_seconds(problem: ConvProblem, peaks: Peaks) -> float:
    """Lower bound of `problem`'s run time on a device, in seconds.

    Raises:
        KeyError: `peaks` has no rate for the problem's dtype.
    """
    return max(problem.ideal_bytes / peaks.bandwidth, problem.flops / rate(problem, peaks))


def bound(problem: ConvProblem, peaks: Peaks) -> str:
    """What limits `problem` on a device: "memory", "fp32" (multiply-adds) or "tensor" (matrix units)."""
    if problem.ideal_bytes / peaks.bandwidth >= problem.flops / rate(problem, peaks):
        return "memory"
    return "fp32" if rate(problem, peaks) == peaks.rates["float32"] else "tensor"
