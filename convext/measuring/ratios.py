"""How many times faster one set of timings is than another, with the interval of that figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["faster", "slower", "same"]
NOISE = 0.01  # ratios nearer to 1 than this are "same", however narrow their interval: buffers never lie alike


@dataclass(frozen=True)
class Ratio:
    """How many times faster a contender is than its baseline, with the 95% interval of that figure."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """ "same" where the interval touches 1 +- NOISE."""
        if self.low > 1 + NOISE:
            return "faster"
        return "slower" if self.high < 1 - NOISE else "same"

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


def speedup(baseline: Sequence[float], contender: Sequence[float], resamples: int = 1000, seed: int = 0) -> Ratio:
    """Median of `baseline` over median of `contender`, with its bootstrap interval.

    The samples are pairs, taken in the same round, so rounds are resampled and what slowed a whole round cancels.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(baseline) != len(contender):
        raise ValueError(f"expected samples in pairs, but got {len(baseline)} and {len(contender)}")
    b, c = np.asarray(baseline), np.asarray(contender)
    rounds = np.random.default_rng(seed).integers(len(b), size=(resamples, len(b)))
    ratios = np.median(b[rounds], axis=1) / np.median(c[rounds], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Ratio(float(np.median(b) / np.median(c)), float(low), float(high))
