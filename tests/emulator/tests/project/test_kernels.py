"""The project's Triton kernels, as Triton compiles them, on the emulated GPU, against float64.

A sample that turns with the commit; with EMULATOR_ALL=1 everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cases import Case, every, sample
from gpu_emulator.triton_device import emulated
from tolerance import bound

pytest.importorskip("triton", reason="Triton is not installed")

from convext.commands import check
from convext.problem import reference

CASES = every() if os.environ.get("EMULATOR_ALL") else sample()


@pytest.fixture
def on_device(request: pytest.FixtureRequest) -> Iterator[Case]:
    case: Case = request.param
    with emulated(case.problem.arch):
        yield case


@pytest.mark.parametrize("on_device", CASES, ids=str, indirect=True)
def test_case(on_device: Case) -> None:
    case = on_device
    a, b, bias = case.operands()
    result = case.run(a, b, bias)
    check.assert_described(case.problem, result)
    oracle = reference.compute(case.problem, a, b, bias)
    products = "ieee" if case.record == "triton.stencil" else case.problem.precision  # stencils multiply float32
    error, most = (result.double() - oracle).abs().max().item(), bound(case.problem, a, b, bias, oracle, products)
    assert error <= most
