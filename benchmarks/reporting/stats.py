"""What a set of timings says: the median and its spread, and means of ratios (`convext.measuring.ratios`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


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


def geomean(values: Iterable[float], weights: Iterable[float] | None = None) -> float:
    """Geometric mean, weighted where `weights` are given; NaN of nothing."""
    logs = [math.log(v) for v in values]
    if not logs:
        return math.nan
    return math.exp(float(np.average(logs, weights=None if weights is None else list(weights))))
