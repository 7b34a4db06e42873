"""FLOPs of the operators, as torch counts its own convolutions."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import convext
from convext.problem import ConvProblem


def flops(backend, call):
    with convext.backend(backend), FlopCounterMode(display=False) as counter:
        call().sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("cls", "x", "arguments"),
    [
        (convext.Conv1d, (2, 4, 9), {"groups": 2, "stride": 2, "padding": 1}),
        (convext.Conv2d, (2, 4, 7, 9), {"dilation": 2, "padding": 2}),
        (convext.Conv3d, (1, 4, 5, 5, 6), {"groups": 4}),
        (convext.ConvTranspose1d, (2, 4, 9), {"stride": 2, "groups": 2}),
        (convext.ConvTranspose2d, (2, 4, 5, 6), {"stride": 2, "padding": 1}),
        (convext.ConvTranspose3d, (1, 4, 3, 4, 5), {"dilation": 2}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_flops_equal_torchs(cls, x, arguments, device):
    """Each of the three faces counts what torch's forward does. (torch's own backward counts the groups of a weight
    gradient as if they were dense.)"""
    layer, theirs = (getattr(m, cls.__name__)(4, 8, 3, device=device, **arguments) for m in (convext, torch.nn))
    input = torch.randn(x, device=device, requires_grad=True)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        theirs(input)
    assert flops("aten", lambda: layer(input)) == 3 * forward.get_total_flops() > 0


@pytest.mark.parametrize("first", ["convext", "torch.utils.flop_counter"])
def test_the_first_counter_of_a_process_counts(first):
    code = f"""
import torch, {first}, convext
from torch.utils.flop_counter import FlopCounterMode
with convext.backend("aten"), FlopCounterMode(display=False) as counter:
    convext.Conv1d(2, 3, 3)(torch.randn(1, 2, 6))
print(counter.get_total_flops())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == str(2 * 2 * 3 * 3 * 4), run.stderr


def test_flops_of_a_problem_are_those_of_the_operator():
    problem = ConvProblem.of("fprop", (2, 4, 7), (6, 2, 3), (5,), (1,), (0,), (1,), 2, torch.float32)
    with FlopCounterMode(display=False) as counter:
        torch.ops.convext.fprop(torch.randn(2, 4, 7), torch.randn(6, 2, 3), None, [5], [1], [0], [1], 2, "aten")
    assert counter.get_total_flops() == problem.flops == 2 * 2 * 6 * 5 * 2 * 3


@pytest.mark.parametrize(("activation", "backward"), [(None, 2), ("silu", 3)])
def test_flops_of_causal_convolutions(activation, backward):
    """A backward pass has the terms of both gradients, and forms the activation's argument again."""
    x, w = torch.randn(2, 5, 9, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    once = 2 * 2 * 5 * 9 * 4
    with FlopCounterMode(display=False) as counter:
        y = convext.causal_conv1d.causal_conv1d_fn(x, w, activation=activation)
        assert counter.get_total_flops() == once
        y.sum().backward()
    assert counter.get_total_flops() == (1 + backward) * once
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        convext.causal_conv1d.causal_conv1d_update(x[:, :, 0], torch.zeros(2, 5, 4), w, activation=activation)
    assert counter.get_total_flops() == 2 * 2 * 5 * 4
