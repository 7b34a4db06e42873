"""What remembers something from chunk to chunk. A stage has a name, and its state is a dict of tensors.

Windows     convolutions and pools: the last samples of the input, and how many the next output waits for
Transposed  transposed convolutions: the last inputs that still reach into what is to come
Shift       padding and cutting: zeros before the first sample, samples held back
Align       operands of one operation that are known at different times
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from convext.streams.past import Past


class Stage(Protocol):
    """One place of the model where something is remembered."""

    name: str

    @property
    def keys(self) -> tuple[str, ...]:
        """What its state consists of, once a signal has begun."""

    def reset(self) -> None:
        """Forgets everything: the next chunk is a signal's first."""

    def state(self) -> dict[str, Tensor]:
        """Copies of what is remembered, after a first chunk."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state()` gave, of which it keeps copies."""


class Windows:
    """A function of windows that move over the signal: taps `dilation` apart, a step of `stride`.

    Args:
        function: of (signal, stride, dilation, *operands) -> outputs, without padding.
        taps, stride, dilation: of the window.
        wait: samples that the first output waits for: 0 where all of the past is padding.
        groups: of a convolution, whose operands are weight [K, C / groups, taps] and bias; None of a pool.
    """

    def __init__(
        self, name: str, function: Callable[..., Tensor], taps: int, stride: int, dilation: int, wait: int,
        groups: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.function = function
        self.taps, self.stride, self.dilation, self.groups = taps, stride, dilation, groups
        self.reach, self.first_wait = dilation * (taps - 1), wait
        self.reset()

    def reset(self) -> None:
        self.past: Past | None = None
        self.wait = self.first_wait

    def step(self, x: Tensor, *operands: Any) -> Tensor:
        """[N, C, n] -> [N, K, as many outputs as have all of their taps now]."""
        past, count, wait = self.past, x.size(-1), self.wait
        if past is None:
            past = self._begin(x, *operands)
        if count > wait:
            y = (self._one if count == 1 and self.groups == 1 else self._many)(past, x, *operands)
            self.wait = (wait - count) % self.stride
        else:
            y = self._none(x, *operands)
            self.wait = wait - count
        if self.reach and count:
            past.append(x)
        return y

    def _begin(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Past:
        if weight is not None and self.groups is not None and x.shape[1] != weight.shape[1] * self.groups:
            raise RuntimeError(
                f"Given groups={self.groups}, weight of size {list(weight.shape)}, expected input{list(x.shape)} to "
                f"have {weight.shape[1] * self.groups} channels, but got {x.shape[1]} channels instead: {self.name!r}"
            )
        self.past = Past.of_zeros(x, self.reach)
        return self.past

    def _one(self, past: Past, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One sample of a dense convolution is one product: [N, C * taps] with [C * taps, K]."""
        if self.reach:
            x = torch.cat((*past.every(self.dilation), x), -1)
        return linear(x.flatten(1), weight.flatten(1), bias).unsqueeze(-1)

    def _many(self, past: Past, x: Tensor, *operands: Any) -> Tensor:
        """Short chunks read what their taps need; longer ones, and windows that wait, all of the past.

        past, dilation 4:  a b c d | e f g h     x: i j     a b | e f | i j   with dilation 2 gives the same two outputs
        """
        count, dilation = x.shape[-1], self.dilation
        if self.reach and self.stride == 1 and not self.wait:
            if self.groups == 1 and dilation > 1:
                return _product(self._taps(past, x), *operands)
            if count <= dilation:
                return self.function(torch.cat(self._taps(past, x), -1), 1, count, *operands)
        signal = torch.cat((past.samples(), x), -1) if self.reach else x
        return self.function(signal[..., self.wait :], self.stride, dilation, *operands)

    def _taps(self, past: Past, x: Tensor) -> list[Tensor]:
        """What each tap reads, [N, C, n]; the last one reads x."""
        count, begins = x.shape[-1], range(0, self.reach, self.dilation)
        if count <= self.dilation:
            return [*(past.since(begin, count) for begin in begins), x]
        signal = torch.cat((past.samples(), x), -1)
        return [*(signal[..., begin : begin + count] for begin in begins), x]

    def _none(self, x: Tensor, *operands: Any) -> Tensor:
        """No output: [N, K, 0], of the dtype that an output would have."""
        shape = (*x.shape[:-1], self.reach + 1)
        return self.function(x.new_zeros(shape), 1, self.dilation, *operands)[..., :0]

    @property
    def keys(self) -> tuple[str, ...]:
        waits = self.first_wait or self.stride > 1
        return (*(["past"] if self.reach else []), *(["wait"] if waits else []))

    def state(self) -> dict[str, Tensor]:
        past = {"past": self.past.samples()} if self.past is not None else {}
        both = past | {"wait": torch.tensor(self.wait)}
        return {key: both[key] for key in self.keys}

    def load(self, state: dict[str, Tensor]) -> None:
        self.past = _past(self.name, state["past"], self.reach) if self.reach else None
        self.wait = int(state.get("wait", 0))


def _product(taps: list[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """A dense dilated convolution as one product, [K, C * taps] with [C * taps, n]: torch's takes longer on a CPU."""
    signal = torch.stack(taps, 2).flatten(1, 2)
    weights = weight.flatten(1).expand(len(signal), -1, -1)
    return torch.bmm(weights, signal) if bias is None else torch.baddbmm(bias.unsqueeze(-1), weights, signal)


class Transposed:
    """A transposed convolution: `stride` outputs for each input, once no later input reaches into them.

    Remembered are the last inputs, not sums of what they contribute: so an output is one sum in one rounding, as in the
    whole signal.

    Args:
        function: of (signal, weight, bias) -> outputs, nothing cut off.
        reach: samples of the output from an input's first tap to its last.
    """

    def __init__(self, name: str, function: Callable[..., Tensor], reach: int, stride: int, groups: int) -> None:
        self.name = name
        self.function, self.stride, self.groups = function, stride, groups
        self.behind = reach // stride  # inputs before the newest that still count
        self.reset()

    def reset(self) -> None:
        self.past: Past | None = None

    def step(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[N, K, n] -> [N, C, n * stride]."""
        if self.past is None:
            if x.shape[1] != weight.shape[0]:
                raise RuntimeError(
                    f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have "
                    f"{weight.shape[0]} channels, but got {x.shape[1]} channels instead: {self.name!r}"
                )
            self.past = Past.of_zeros(x, self.behind)
        count = x.shape[-1]
        if not count:
            return self.function(x.new_zeros(*x.shape[:-1], 1), weight, bias)[..., :0]
        signal = torch.cat((self.past.samples(), x), -1) if self.behind else x
        begin, end = self.behind * self.stride, (self.behind + count) * self.stride
        y = self.function(signal, weight, bias)[..., begin:end]
        if self.behind:
            self.past.append(x)
        return y

    @property
    def keys(self) -> tuple[str, ...]:
        return ("past",) if self.behind else ()

    def state(self) -> dict[str, Tensor]:
        return {"past": self.past.samples()} if self.past is not None and self.behind else {}

    def load(self, state: dict[str, Tensor]) -> None:
        self.past = _past(self.name, state["past"], self.behind) if self.behind else None


class Shift:
    """`begin` samples of `value` before the first (below 0: as many cut off), and the last `hold` held back.

    They are held back where the model cuts the end off, which a stream doesn't know until more has come. The first
    chunk has what is cut off or held back: a signal with a lead has all of it from the first step on.
    """

    keys = ("held",)

    def __init__(self, name: str, begin: int, hold: int, axis: int, value: float) -> None:
        self.name = name
        self.begin, self.hold, self.axis, self.value = begin, hold, axis, value
        self.reset()

    def reset(self) -> None:
        self.held: Tensor | None = None

    def step(self, x: Tensor) -> Tensor:
        axis, begin = self.axis, self.begin
        if self.held is not None:
            x = torch.cat((self.held, x), axis)
        elif begin < 0:
            x = x.narrow(axis, -begin, x.shape[axis] + begin)
        else:
            shape = list(x.shape)
            shape[axis] = begin
            x = torch.cat((x.new_full(shape, self.value), x), axis)
        y, self.held = _cut(x, x.shape[axis] - self.hold, axis)
        return y

    def state(self) -> dict[str, Tensor]:
        assert self.held is not None
        return {"held": self.held.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.held = state["held"].clone()


class Align:
    """Operands of one operation: of each as much as there is of all; what is ahead is held back."""

    def __init__(self, name: str, axes: list[int]) -> None:
        self.name, self.axes = name, axes
        self.reset()

    def reset(self) -> None:
        self.held: list[Tensor] = []

    def step(self, *operands: Tensor) -> tuple[Tensor, ...]:
        if self.held:
            operands = tuple(torch.cat(both, axis) for *both, axis in zip(self.held, operands, self.axes, strict=True))
        count = min(x.shape[axis] for x, axis in zip(operands, self.axes, strict=True))
        cuts = [_cut(x, count, axis) for x, axis in zip(operands, self.axes, strict=True)]
        self.held = [held for _, held in cuts]
        return tuple(known for known, _ in cuts)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"held.{i}" for i in range(len(self.axes)))

    def state(self) -> dict[str, Tensor]:
        return {key: held.clone() for key, held in zip(self.keys, self.held, strict=True)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.held = [state[key].clone() for key in self.keys]


def _past(name: str, samples: Tensor, reach: int) -> Past:
    if samples.shape[-1] != reach:
        raise RuntimeError(f"expected {name}.past to have {reach} samples, but got {list(samples.shape)}")
    return Past(samples)


def _cut(x: Tensor, count: int, axis: int) -> tuple[Tensor, Tensor]:
    """The first `count` samples, and a copy of the others that carries no gradient."""
    rest = x.narrow(axis, count, x.shape[axis] - count).detach()
    with torch.inference_mode(False):
        return x.narrow(axis, 0, count), rest.clone()
