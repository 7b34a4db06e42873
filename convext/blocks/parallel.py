"""Parallel layers of one input: one after the other, or in one call where a kernel has that."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from convext.blocks.observed import is_observed
from convext.choice import branches as records
from convext.choice import remembered, settings
from convext.functional.geometry import cached_conv_geometry, look_up
from convext.nn import _Convolution
from convext.operators.branches import branches
from convext.operators.plain import is_plain
from convext.problem import layout
from convext.problem.branches import BranchesProblem


def maps_of(layers: Iterable[nn.Module], input: Tensor) -> list[Tensor]:
    """What the layers make of `input`, to be concatenated along channels: a map each, or one of all in their order.

    Plain convolutions of plain tensors on a CPU are one call (`torch.ops.convext.branches`) where a kernel was measured
    to be faster so; elsewhere, and where somebody wants to see a layer, each runs as a module.
    """
    layers = list(layers)
    if is_plain(input) and input.is_cpu and settings.BACKEND == "auto" and all(map(_is_plain_layer, layers)):
        found = _in_one_call(layers, input)
        if found is not None:
            return [found]
    return [layer(input) for layer in layers]


def concatenated(layers: Iterable[nn.Module], input: Tensor) -> Tensor:
    """`maps_of`, one after the other along channels, of images: [N, C, H, W] or [C, H, W]."""
    maps = maps_of(layers, input)
    return torch.cat(maps, dim=-3) if len(maps) > 1 else maps[0]


def _is_plain_layer(layer: Any) -> bool:
    kind: Any = type(layer)
    return (
        isinstance(layer, _Convolution)
        and kind.forward is _Convolution.forward
        and kind._conv_forward is _Convolution._conv_forward
        and layer.padding_mode == "zeros"
        and not is_observed(layer)
    )


def _in_one_call(layers: list[Any], input: Tensor) -> Tensor | None:
    """All maps, or None where the layers do not fit together, or nobody measured that to be faster."""
    w, bias = [layer.weight for layer in layers], [layer.bias for layer in layers]
    if not all(t is None or (t.dtype is input.dtype and t.is_cpu) for t in (*w, *bias)) or not is_plain(*w, *bias):
        return None
    geometry = _geometry(layers, input)
    if geometry is None:
        return None
    last = any(map(layout.is_channels_last, (input, *w)))
    if not _is_worth_it(input.shape, tuple(t.shape for t in w), *geometry, input.dtype, last):
        return None
    return branches(input, w, bias, *geometry)


def _geometry(layers: list[Any], input: Tensor) -> tuple[Any, ...] | None:
    """What `branches` takes from the size to the groups; None where the layers' results do not fit together, or they
    do not take the input, which torch tells better."""
    found: list[Any] = []
    for layer in layers:
        shapes = input.shape, layer.weight.shape, None if layer.bias is None else layer.bias.shape
        arguments = *shapes, layer.stride, layer.padding, layer.dilation, layer.groups, layer._rank
        found.append(look_up(cached_conv_geometry, arguments))
    if None in found or input.dim() != layers[0]._rank + 2:
        return None
    if len({(size, stride, groups) for size, stride, _, _, groups in found}) != 1:
        return None
    size, stride, *_, groups = found[0]
    pad, dilation = (tuple(value for one in found for value in one[i]) for i in (2, 3))
    return size, stride, pad, dilation, groups


@lru_cache(maxsize=8192)
def _is_worth_it(*described: Any) -> bool:
    return records.choose(BranchesProblem.of(*described)) is not None


remembered.FORGET.append(_is_worth_it.cache_clear)
