"""The gradient by a bias, summed in CUDA C++ (csrc/passes/bias.cu): a bound call costs less than torch's reduction."""

from __future__ import annotations

from torch import Tensor

from convext.problem import ConvProblem
from convext.providers.cuda.launches import Launch

MOST_TERMS = 1 << 30


def run(problem: ConvProblem, y: Tensor) -> Tensor:
    """The sum of `y` [images, channels, *space] over all but its channels; `problem` is the wgrad that reads it too."""
    dense = y.is_contiguous() or y.movedim(1, -1).is_contiguous()
    if y.numel() == 0 or not dense or y.numel() // y.shape[1] >= MOST_TERMS:
        return y.sum((0, *range(2, y.dim())))
    result = y.new_empty(y.shape[1])
    Launch("bias", (), (y, result), ())()
    return result
