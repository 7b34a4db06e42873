"""Windows that move over time: convolutions, pools; and what makes time longer: transposed convolutions, upsampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch.nn import functional

from convext.streams.place import Place
from convext.streams.rules.cuts import pads_with_the_signal
from convext.streams.rules.table import rule
from convext.streams.signals import Constant, Signal, samples
from convext.streams.stages import Transposed, Windows
from convext.streams.tracing import layer


def _number(value: Any) -> int:
    return int(value[0]) if isinstance(value, tuple | list) else int(value)


def _begin_and_end(padding: Any, reach: int, stride: int, at: Place) -> tuple[int, int]:
    """Zeros before the signal and behind it."""
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    if padding == "same":
        if stride > 1:
            at.refuse('is padded by "same" under a stride, which depends on the length of the signal')
        return reach // 2, reach - reach // 2
    first = padding[0] if isinstance(padding, tuple | list) else padding
    return (first[0], first[1]) if isinstance(first, tuple | list) else (first, first)


@rule("conv1d")
def conv1d(
    at: Place, input: Signal, weight: Constant, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Signal:  # fmt: skip
    function = at.node.target
    if not isinstance(weight, Constant):
        at.refuse("has a weight that is computed from the signal")

    def convolve(x: Any, s: int, d: int, w: Any, b: Any) -> Any:
        return function(x, w, b, s, 0, d, groups)  # type: ignore[operator]

    geometry = weight.value.shape[-1], _number(stride), _number(dilation)
    pads = _begin_and_end(padding, geometry[2] * (geometry[0] - 1), geometry[1], at)
    return _windows(at, input, convolve, geometry, pads, (weight.node, getattr(bias, "node", bias)), groups)


@rule("padded")
def padded(
    at: Place, input: Signal, padding: Any, around: Any, mode: str, kernel: Any, stride: Any, dilation: Any
) -> NoReturn:  # fmt: skip
    """What convext's layers call for a padding mode that is not zeros."""
    reach = _number(dilation) * (_number(kernel) - 1)
    pads_with_the_signal(at, mode, max(_begin_and_end(padding, reach, _number(stride), at)))


@rule("max_pool1d")
def max_pool1d(
    at: Place, input: Signal, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Signal:  # fmt: skip
    taps = _number(kernel_size)
    if _number(padding) or ceil_mode or return_indices:
        at.refuse("pads, rounds up or returns indices: a stream takes pools without")
    geometry = taps, _number(stride or kernel_size), _number(dilation)
    return _windows(at, input, lambda x, s, d: functional.max_pool1d(x, taps, s, 0, d), geometry, (0, 0))


@rule("avg_pool1d")
def avg_pool1d(
    at: Place, input: Signal, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Signal:  # fmt: skip
    taps = _number(kernel_size)
    if _number(padding) or ceil_mode:
        at.refuse("pads or rounds up: a stream takes pools without")
    return _windows(
        at, input, lambda x, s, d: functional.avg_pool1d(x, taps, s), (taps, _number(stride or kernel_size), 1), (0, 0)
    )


def _windows(
    at: Place, x: Signal, function: Callable[..., Any], geometry: tuple[int, int, int], pads: tuple[int, int],
    operands: tuple[Any, ...] = (), groups: int | None = None,
) -> Signal:  # fmt: skip
    """Output o reads up to sample o * stride + reach - begin. Under a stride it may wait for the rest of its stride.

    k 4, stride 2, 2 zeros before:   0 0 a b | c d | e f      output 1 reads up to d, the last of its two samples
    """
    taps, stride, dilation = geometry
    begin, end = pads[0] + x.owed, pads[1]
    x = replace(x, owed=0)
    reach = dilation * (taps - 1)
    if x.axis != -1 or x.dims != 3:
        at.refuse(f"has its taps along the last of [N, C, L], but time is axis {x.axis} of {x.dims}")
    ahead = reach - begin - x.lead
    if ahead > stride - 1:
        at.looks_ahead(
            ahead - (stride - 1),
            f"its {taps} taps, {dilation} apart, span {samples(reach)} beside the newest, and {begin + x.lead} come as "
            f"padding before the signal: causal are {reach - (stride - 1)}, with the end cut off",
        )
    if (x.tail + end) % stride:
        at.refuse(f"has {samples(x.tail + end)} of padding behind the signal, no multiple of its stride {stride}")
    if begin > reach:  # windows of nothing but padding
        x = at.shift(x, begin - reach, 0)
    wait = max(0, reach - begin)
    node = at.remember(Windows(at.name(), function, taps, stride, dilation, wait, groups), x.node, *operands)
    tail_of = layer(at.node) if end else x.tail_of
    if stride == 1:
        return replace(x, lead=-ahead, tail=x.tail + end, tail_of=tail_of, node=node)
    pace = (*x.pace, ("down", stride, ahead))
    return replace(x, lead=0, tail=(x.tail + end) // stride, tail_of=tail_of, pace=pace, node=node)


@rule("conv_transpose1d")
def conv_transpose1d(
    at: Place, input: Signal, weight: Constant, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Signal:  # fmt: skip
    """Of n inputs come n * stride outputs that no later one changes, and taps - stride more that all would."""
    if input.axis != -1 or input.dims != 3:
        at.refuse(f"has its taps along the last of [N, C, L], but time is axis {input.axis} of {input.dims}")
    if not isinstance(weight, Constant):
        at.refuse("has a weight that is computed from the signal")
    up, d, cut = _number(stride), _number(dilation), _number(padding)
    reach = d * (weight.value.shape[-1] - 1)
    lacking = max(0, up - 1 - reach)  # positions between the taps of two inputs that no tap reaches
    target: Any = at.node.target

    def transposed(x: Any, w: Any, b: Any) -> Any:
        return target(x, w, b, up, 0, lacking, groups, d)

    if input.lead * up < cut:
        at.looks_ahead(
            cut - input.lead * up,
            f"its padding cuts {samples(cut)} off the beginning of what it returns: cut the end off instead, "
            f"as in y[..., :-{max(reach + 1 - up, 1)}]",
        )
    stage = Transposed(at.name(), transposed, reach, up, groups)
    node = at.remember(stage, input.node, weight.node, getattr(bias, "node", bias))
    pace = (*input.pace, ("up", up)) if up > 1 else input.pace
    tail = input.tail * up + max(0, reach + 1 - up)
    y = replace(input, lead=input.lead * up, tail=tail, tail_of=layer(at.node) if tail else "", pace=pace, node=node)
    return at.shift(y, -cut, _number(output_padding) - lacking - cut)


@rule("interpolate")
def interpolate(
    at: Place, input: Signal, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **rest: Any
) -> Signal:  # fmt: skip
    factor = scale_factor[0] if isinstance(scale_factor, tuple | list) else scale_factor
    if size is not None or mode not in ("nearest", "nearest-exact") or factor != int(factor) or input.axis != -1:
        at.refuse('resizes: a stream takes mode "nearest" with a whole scale_factor')
    up = int(factor)
    node = at.call(torch.repeat_interleave, input.node, up, -1)
    return replace(input, lead=input.lead * up, tail=input.tail * up, pace=(*input.pace, ("up", up)), node=node)
