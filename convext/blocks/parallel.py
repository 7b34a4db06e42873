"""Parallel layers of one input: one after the other, or in one call where a kernel has that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from operator import eq
from typing import Any

import torch
from torch import Tensor, nn

from convext.blocks.observed import is_observed
from convext.choice import branches as records
from convext.choice import remembered, settings
from convext.functional.geometry import conv_geometry, look_up
from convext.nn import _Convolution
from convext.operators.autograd import reverse_mode
from convext.operators.branches import branches
from convext.operators.plain import is_plain, is_plain_state
from convext.problem import Ints, layout
from convext.problem.branches import BranchesProblem
from convext.providers.cpu import branches as native


def maps_of(layers: Iterable[nn.Module], input: Tensor) -> list[Tensor]:
    """What the layers make of `input`, to be concatenated along channels: a map each, or one of all in their order.

    Plain convolutions of plain tensors on a CPU are one call (`torch.ops.convext.branches`) where a kernel was measured
    to be faster so; elsewhere, and where somebody wants to see a layer, each runs as a module.
    """
    layers = list(layers)
    together = _in_one_call(layers, input) if layers and _may_win(layers[0], input) else None
    return [layer(input) for layer in layers] if together is None else [together]


def concatenated(layers: Iterable[nn.Module], input: Tensor) -> Tensor:
    """`maps_of`, one after the other along channels, of images: [N, C, H, W] or [C, H, W]."""
    maps = maps_of(layers, input)
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=-3)


def _may_win(layer: Any, input: Tensor) -> bool:
    """A question that costs no time, and tells most blocks no: code is cold where other layers have just run."""
    if not isinstance(layer, _Convolution) or type(input) is not Tensor:
        return False
    if layer.groups == 1 and layer.in_channels * math.prod(layer.kernel_size) > native.MOST_PRODUCTS:
        return False
    return layer.groups > 1 or layer.out_channels >= native.LEAST_CHANNELS or input.is_contiguous()


def _in_one_call(layers: list[Any], input: Tensor) -> Tensor | None:
    """All maps, or None where that is not worth it, or somebody wants to see a layer."""
    if settings.BACKEND != "auto" or not is_plain_state() or not input.is_cpu:
        return None
    described = input.shape, input.stride(), input.dtype, tuple(map(_described, layers))
    geometry = look_up(_worth_one_call, described)
    if geometry is None or not all(map(_is_plain_layer, layers)):
        return None
    w, bias = [layer.weight for layer in layers], [layer.bias for layer in layers]
    if not _are_as_described(layers, input, w, bias):
        return None
    if reverse_mode(input, *w, *bias) and not _is_worth_training(input, w):
        return None
    return branches(input, w, bias, *geometry)


def _is_plain_layer(layer: Any) -> bool:
    kind: Any = type(layer)
    return (
        isinstance(layer, _Convolution)
        and kind.forward is _Convolution.forward
        and kind._conv_forward is _Convolution._conv_forward
        and layer.padding_mode == "zeros"
        and not is_observed(layer)
    )


def _are_as_described(layers: list[Any], input: Tensor, w: list[Tensor], bias: list[Tensor | None]) -> bool:
    """Whether tensors are plain, alike, and of the shapes that their layers were made for."""
    alike = all(t is None or (t.dtype is input.dtype and t.is_cpu) for t in (*w, *bias))
    made_for = ((layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size) for layer in layers)
    return alike and is_plain(input, *w, *bias) and all(map(eq, (t.shape for t in w), made_for))


def _is_worth_training(input: Tensor, w: list[Tensor]) -> bool:
    """Whether one call saves more than its way back, which is in Python, costs."""
    pixels = input.numel() // input.shape[1]
    return not layout.is_channels_last(input) and pixels * sum(t.numel() for t in w) >= _TRAINED


_TRAINED = 2**24  # products


def _described(layer: Any) -> tuple[Any, ...] | None:
    """What a layer's convolution is by its own word, without a look at its parameters."""
    if not isinstance(layer, _Convolution):
        return None
    channels = layer.in_channels, layer.out_channels
    return channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups


@lru_cache(maxsize=8192)
def _worth_one_call(x: Ints, strides: Ints, dtype: torch.dtype, layers: tuple[Any, ...]) -> Any:
    """What `branches` takes from the size to the groups; None where the layers do not take x, which torch tells better,
    or do not fit together, or were not measured to be faster in one call."""
    if None in layers:
        return None
    w = [(k, c // groups, *kernel) for (c, k), kernel, *_, groups in layers]
    arguments: Any = ((x, shape, None, *own, len(x) - 2) for shape, (_, _, *own) in zip(w, layers, strict=True))
    found: list[Any] = [conv_geometry(*each) for each in arguments]
    if None in found or len({(size, stride, groups) for size, stride, _, _, groups in found}) != 1:
        return None
    size, stride, *_, groups = found[0]
    pad, dilation = (tuple(value for one in found for value in one[i]) for i in (2, 3))
    geometry = size, stride, pad, dilation, groups
    last = layout.is_channels_last(torch.empty_strided(x, strides, device="meta"))
    return None if records.choose(BranchesProblem.of(x, w, *geometry, dtype, last)) is None else geometry


remembered.FORGET.append(_worth_one_call.cache_clear)
