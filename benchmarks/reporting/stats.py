"""What a set of timings says: the median, its spread, and whether two sets differ at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["faster", "slower", "same"]
NOISE = 0.01  # ratios nearer to 1 than this are "same", however narrow their interval: buffers never lie alike


@dataclass(frozen=True)
class Spread:
    """Median, 20th and 80th percentile of one contender's samples, in their unit."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        p20, median, p80 = np.percentile(samples, (20, 50, 80))
        return cls(float(median), float(p20), float(p80))


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


def geomean(values: Iterable[float], weights: Iterable[float] | None = None) -> float:
    """Geometric mean, weighted where `weights` are given; NaN of nothing."""
    logs = [math.log(v) for v in values]
    if not logs:
        return math.nan
    return math.exp(float(np.average(logs, weights=None if weights is None else list(weights))))
