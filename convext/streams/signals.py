"""What is known of a tensor inside the model before any sample has come: where its time is, and how far it is known.

After L samples of the input, with f(L) of the strides and upsamplers before it:

    whole signal   | . . . . . . . . . . . . . . . . . | . . . |
                     f(L) + lead samples, known by now   tail samples: they also depend on the padding at the end

    pad (p, q)                    lead + p, tail + q
    taps that reach back r        lead - r
    x[..., : -c]                  tail - c

A lead below zero is a look ahead. A tail has to be cut off before the output: no stream knows that it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import fx


@dataclass(frozen=True)
class Signal:
    """A tensor with an axis of time.

    Args:
        axis: of time, from the end: -1 of [N, C, L].
        dims: number of axes.
        lead, tail: as in the picture above, in samples of this signal.
        pace: how f comes about: ("down", stride, samples that the first output waits for), ("up", stride), or
            ("least", ..) where signals meet that are known at different times.
        tail_of: who padded the end.
        owed: zeros before it that are not in the tensor: the convolution that follows takes them for its own padding.
        node: what computes it, in the program of a step.
    """

    axis: int = -1
    dims: int = 3
    lead: int = 0
    tail: int = 0
    pace: tuple[Any, ...] = ()
    tail_of: str = ""
    owed: int = 0
    node: fx.Node | None = field(default=None, compare=False)

    @property
    def front(self) -> int:
        """The axis of time, counted from the front."""
        return self.dims + self.axis

    def is_time(self, dim: int) -> bool:
        return dim % self.dims == self.front

    def on_axis(self, front: int, dims: int) -> Signal:
        """The same samples in a tensor of another layout."""
        return replace(self, axis=front - dims, dims=dims)

    def shifted(self, begin: int, end: int, who: str) -> tuple[Signal, int]:
        """`begin` samples more at the beginning and `end` at the end (fewer, below 0); and how many to hold back.

        A sample that will be cut off is only known to be the last when the next ones have come: those are held back.
        """
        tail = self.tail + end
        hold = max(0, -tail)
        tail_of = (who if end > 0 else self.tail_of) if tail > 0 else ""
        return replace(self, lead=self.lead + begin - hold, tail=max(tail, 0), tail_of=tail_of), hold


@dataclass(frozen=True)
class Several:
    """What `chunk`, `split` and `unbind` return: tensors that are alike."""

    each: Signal
    node: fx.Node


@dataclass(frozen=True)
class Constant:
    """What depends on parameters alone, with its value as the model stands (None where that is not known yet)."""

    value: Any
    node: fx.Node


def rate(pace: tuple[Any, ...]) -> Fraction:
    """Samples of a signal for each of the input, in the long run."""
    result = Fraction(1)
    for step in pace:
        if step[0] == "least":
            result *= rate(step[1])
        else:
            result *= step[1] if step[0] == "up" else Fraction(1, step[1])
    return result


def samples(count: int) -> str:
    return f"{count} sample{'s' if count != 1 else ''}"
