"""The layers as pytest-benchmark sees them, for those who prefer its tables, histograms and comparisons:

    python -m pytest benchmarks/pytest_layers.py -k "depthwise and fprop" [--benchmark-autosave] [--benchmark-compare]

The name keeps it out of the test suite. Every contender passes the same gate first. What is timed is a whole call as
the host sees it, on a GPU with the wait for its result: where launches take longer than kernels, that is the launch.
`python -m convext bench` times the kernels themselves, interleaved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch

from convext.benchmarks.cases.case import Case
from convext.benchmarks.cases.layers import model_layers
from convext.benchmarks.measuring.gate import Gate, cudnn_benchmark
from convext.benchmarks.measuring.measure import Buffers, DisagreementError, admitted
from convext.benchmarks.measuring.providers import Contender, contenders
from convext.benchmarks.measuring.runner import Plan
from convext.problem import FACES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYERS_A_FAMILY = 2


def _cases() -> list[Case]:
    """The three faces of a few layers of each family, the ones that networks have most often."""
    layers = sorted(model_layers(), key=lambda layer: -layer.count)
    families = sorted({layer.family for layer in layers})
    few = [[layer for layer in layers if layer.family == family][:LAYERS_A_FAMILY] for family in families]
    return Plan.of(DEVICE).cases([layer for layers in few for layer in layers], FACES)


def _parameters() -> Iterator[Any]:
    for case in _cases():
        for contender in contenders(case):
            layer = case.layer
            yield pytest.param(case, contender, id=f"{layer.family}-{layer.id}-{case.work}-{contender.name}")


@lru_cache(maxsize=1)
def _prepared(case: Case) -> tuple[Gate, Buffers]:
    """Operands and oracle of a case, which its contenders share."""
    buffers = Buffers(case, case.draw())
    return Gate(case, buffers.firsts), buffers


@pytest.fixture(autouse=True)
def _as_in_bench() -> Iterator[None]:
    """cuDNN may try out its algorithms, and threads do not wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with cudnn_benchmark(True), torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("case", "contender"), _parameters())
def test_speed(case: Case, contender: Contender, benchmark: Any) -> None:
    gate, buffers = _prepared(case)
    try:
        call = admitted(gate, contender, buffers)
    except DisagreementError as error:
        pytest.fail(f"not timed: {error}")
    turn = itertools.count()

    def once() -> None:
        call(next(turn))
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{case.name} {case.layer.name} {case.layer.cut}".strip()
    benchmark(once)
