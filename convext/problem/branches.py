"""Parallel convolutions of one input, whose results are concatenated along channels: which ones.

    y = cat over i of  conv(x, w[i], dilation[i]) + bias[i]

Each is one `ConvProblem`, so that all that is known of a convolution is known of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from convext.problem.conv_problem import ConvProblem, Ints


@dataclass(frozen=True)
class BranchesProblem:
    """What decides which kernel computes them all, and how fast it could be.

    Attributes:
        parts: the fprop of each branch. All have the same x, size of y, stride, groups and memory format.
    """

    parts: tuple[ConvProblem, ...]

    @classmethod
    def of(
        cls, x: Ints, w: Sequence[Ints], size: Ints, stride: Ints, pad: Ints, dilation: Ints, groups: int,
        dtype: torch.dtype, channels_last: bool, machine: tuple[str, int, str] = ("cpu", 0, "ieee"),
    ) -> BranchesProblem:  # fmt: skip
        """From the shapes of x and the weights, the branches' paddings and dilations one after the other, and
        `device`, `arch` and `precision`.

        Raises:
            RuntimeError: they describe no such convolutions.
        """
        of_each = each(len(w), size, pad, dilation)
        parts = (
            ConvProblem.of("fprop", x, shape, size, stride, begin, step, groups, dtype, channels_last, *machine)
            for shape, (begin, step) in zip(w, of_each, strict=True)
        )
        return cls(tuple(parts))

    @property
    def channels(self) -> int:
        """Of y."""
        return sum(part.k for part in self.parts)


def each(branches: int, size: Ints, pad: Ints, dilation: Ints) -> Iterator[tuple[Ints, Ints]]:
    """The padding and the dilation of each branch, which follow one another in `pad` and `dilation`.

    Raises:
        RuntimeError: they are not one value for each axis of each branch, or there is no branch.
    """
    rank = len(size)
    if branches < 1:
        raise RuntimeError("branches: expected a weight or more, but got none")
    for name, values in (("padding", pad), ("dilation", dilation)):
        if len(values) != branches * rank:
            raise RuntimeError(
                f"branches: expected {name} of {rank} values for each of {branches} branches, "
                f"but got {len(values)}: {list(values)}"
            )
    return ((pad[i : i + rank], dilation[i : i + rank]) for i in range(0, branches * rank, rank))
