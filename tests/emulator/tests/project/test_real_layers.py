"""The layers of real networks, cut to a few pixels and channels, by the kernels that "auto" runs, against float64.

At their real size some blocks of each run for `traffic.py`, which knows no values; here it is the values that count. A
sample that turns with the commit; with EMULATOR_ALL=1 everything.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import commits
import pytest
from cases import Case
from gpu_emulator.triton_device import emulated
from tolerance import bound

pytest.importorskip("triton", reason="Triton is not installed")

from convext.benchmarks.cases.layers import Layer, anchor_layers, model_layers
from convext.benchmarks.inspect.prediction import ARCH, kernel_of, problem_of
from convext.commands import check
from convext.problem import FACES, reference

SAMPLE = 16  # cases: a minute on two cores, compiled and run


def few(layer: Layer) -> Layer:
    """The layer on one image of the fewest pixels that its window moves over, with fewer groups and channels.

    What decides how a kernel reads and multiplies stays: taps, stride, dilation, padding, channels a group up to a
    tile's, what divides them, and the order of the axes.
    """
    groups = layer.groups if layer.groups <= 40 else 32 + layer.groups % 8
    first, second = layer.weight[:2]  # filters, and channels of a group; the other way round in a transposed layer
    first, second = (most_a_tile(size) for size in (first // layer.groups, second))
    inputs = groups * (first if layer.transposed else second)
    cut = replace(
        layer, groups=groups, weight=(groups * first, second, *layer.weight[2:]),
        input=(layer.input[0], inputs, *layer.input[2:]),
    )  # fmt: skip
    return cut.fit(flops=1, bytes=1, images=1)


def most_a_tile(channels: int) -> int:
    return channels if channels <= 96 else 64 + channels % 32


def cases() -> list[Case]:
    """Every face of every layer that a Triton kernel takes."""
    found = []
    for layer in (*model_layers(), *anchor_layers()):
        for face in FACES:
            problem = problem_of(few(layer), face)
            kernel = kernel_of(problem)
            if kernel is not None:
                found.append(Case(kernel.name, problem, f"{layer.id} {layer.name}"))
    return found


def sample() -> list[Case]:
    turn = commits.number()
    return sorted(cases(), key=lambda case: hashlib.sha256(f"{turn} {case}".encode()).digest())[:SAMPLE]


@pytest.mark.parametrize("case", cases() if os.environ.get("EMULATOR_ALL") else sample(), ids=str)
def test_real_layer(case: Case) -> None:
    with emulated(ARCH):
        a, b, bias = case.operands()
        result = case.run(a, b, bias)
    check.assert_described(case.problem, result)
    oracle = reference.compute(case.problem, a, b, bias)
    products = "ieee" if case.record == "triton.stencil" else case.problem.precision
    error, most = (result.double() - oracle).abs().max().item(), bound(case.problem, a, b, bias, oracle, products)
    assert error <= most
