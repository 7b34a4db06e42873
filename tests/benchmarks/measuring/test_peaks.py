"""Ideal times from recorded and from measured peaks."""

from dataclasses import replace

import pytest
import torch

from convext.benchmarks.measuring.peaks import peaks_of
from convext.problem import ConvProblem
from convext.problem.roofline import H100, Peaks, bound, ideal_seconds

PEAKS = Peaks("round", 1e9, {"bfloat16": 8e9, "tf32": 4e9, "float32": 1e9, "float64": 5e8}, "made up")
DENSE = ConvProblem.of("fprop", (1, 64, 100), (64, 64, 3), (100,), (1,), (1,), (1,), 1, torch.float32)
DEPTHWISE = ConvProblem.of("fprop", (1, 64, 100), (64, 1, 3), (100,), (1,), (1,), (1,), 64, torch.bfloat16)


@pytest.mark.parametrize(
    ("precision", "rate", "name"), [("ieee", 1e9, "fp32"), ("tf32", 4e9, "tensor"), ("tf32x3", 4e9 / 3, "tensor")]
)
def test_products_run_at_the_peak_of_their_precision(precision: str, rate: float, name: str) -> None:
    problem = replace(DENSE, precision=precision)
    assert ideal_seconds(problem, PEAKS) == pytest.approx(problem.flops / rate)
    assert bound(problem, PEAKS) == name


def test_depthwise_runs_outside_the_matrix_units() -> None:
    assert ideal_seconds(DEPTHWISE, PEAKS) == pytest.approx(DEPTHWISE.flops / 1e9)
    assert bound(DEPTHWISE, PEAKS) == "fp32"


def test_bytes_bound_a_fast_device() -> None:
    assert ideal_seconds(DEPTHWISE, H100) == pytest.approx(DEPTHWISE.ideal_bytes / 3.0e12)
    assert bound(DEPTHWISE, H100) == "memory"


def test_a_dtype_without_a_rate_is_an_error() -> None:
    with pytest.raises(KeyError, match="float16"):
        ideal_seconds(replace(DENSE, dtype=torch.float16), PEAKS)


def test_a_cpu_is_measured() -> None:
    peaks = peaks_of("cpu", (torch.float32,), 1 << 20)
    assert 1e8 < peaks.bandwidth < 1e13
    assert 1e8 < peaks.rates["float32"] < 1e13
    assert "measured in this run: copy of 1 MB" in peaks.source
