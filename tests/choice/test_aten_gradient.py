"""The two ways by which ATen computes an input gradient agree: CUDA's depthwise one is run here on the CPU."""

import pytest
import torch

from convext.commands.check import agreement, operands
from convext.problem import ConvProblem
from convext.problem.layout import dense
from convext.providers import aten


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_input_gradient_of_a_depthwise_convolution(stride: int, channels_last: bool) -> None:
    size, s = ((9, 8), (5, 4)), (stride, stride)
    output = size[0] if stride == 1 else size[1]
    problem = ConvProblem("dgrad", 2, 6, 12, 6, (9, 8), (3, 3), output, s, (1, 1), (1, 1), torch.float32, channels_last)
    y, w = operands(problem)
    result = dense(aten._input_gradient(problem, y, w), channels_last)
    assert agreement(problem, y, w, None, result).ok
