"""A depthwise convolution, what follows it, and a pointwise convolution of that: which one.

    t = first(depthwise(x, w) + bias)        y = second(pointwise(t, v) + second bias) (+ residual)

The two halves are one `ConvProblem` each, so that all that is known of a convolution is known of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from convext.problem.conv_problem import ConvProblem, Ints
from convext.problem.epilogue import Epilogue


@dataclass(frozen=True)
class SeparableProblem:
    """What decides which kernel computes both, and how fast it could be.

    Attributes:
        depthwise: the fprop that t comes from; its memory format is t's.
        pointwise: the fprop of t that y comes from: one tap, stride 1, no padding, one group. Its memory format is y's.
        first, second: what follows each.
        adds: whether a residual is added to y.
    """

    depthwise: ConvProblem
    pointwise: ConvProblem
    first: Epilogue
    second: Epilogue
    adds: bool

    @classmethod
    def of(
        cls, first: Epilogue, second: Epilogue, adds: bool, x: Ints, w: Ints, v: Ints,
        size: Ints, stride: Ints, pad: Ints, dilation: Ints, dtype: torch.dtype,
        channels_last: tuple[bool, bool], machine: tuple[str, int, str] = ("cpu", 0, "ieee"),
    ) -> SeparableProblem:  # fmt: skip
        """From the shapes of x, w and v, the depthwise half's geometry, the memory formats of t and y, and `device`,
        `arch` and `precision`.

        Raises:
            RuntimeError: they describe no such convolutions.
        """
        geometry = size, stride, pad, dilation, x[1]
        depthwise = ConvProblem.of("fprop", x, w, *geometry, dtype, channels_last[0], *machine)
        must_be_pointwise(v)
        geometry = pointwise_geometry(tuple(size))
        pointwise = ConvProblem.of("fprop", depthwise.open_shape, v, *geometry, dtype, channels_last[1], *machine)
        return cls(depthwise, pointwise, first, second, adds)


def must_be_pointwise(v: Ints) -> None:
    """Raises RuntimeError for the shape of a weight that has more than one tap."""
    if any(taps != 1 for taps in v[2:]):
        raise RuntimeError(f"separable: expected a pointwise weight of one tap, but got v of size {list(v)}")


def pointwise_geometry(size: tuple[int, ...]) -> tuple[Ints, Ints, Ints, Ints, int]:
    """Size, stride, pad, dilation and groups of the pointwise half."""
    ones, zeros = (1,) * len(size), (0,) * len(size)
    return size, ones, zeros, ones, 1
