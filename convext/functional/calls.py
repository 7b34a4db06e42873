"""A call with torch's arguments: whose it is, its geometry, its operator; and calls that were made before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convext.choice import remembered, settings
from convext.functional.geometry import (
    Geometry,
    cached_conv_geometry,
    cached_conv_transpose_geometry,
    conv_geometry,
    conv_transpose_geometry,
    is_concrete,
    look_up,
)
from convext.functional.padding import is_torchs, near_word
from convext.functional.whose import (
    ATEN,
    TORCH_CONV,
    TORCH_CONV_TRANSPOSE,
    TORCHS,
    is_torchs_by_name,
    is_torchs_own,
    lies_as_ours,
    pays_on_cpu,
    saves_alike,
    torch_conv,
    torchs_answer,
)
from convext.operators import convolve, traced
from convext.operators.autocast import autocast, is_cast
from convext.operators.autograd import again
from convext.operators.forward import Call, run_of
from convext.operators.keys import key_for_torch, key_of, remember
from convext.operators.plain import is_plain, is_plain_state
from convext.problem import Face


def conv(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: int,
) -> Tensor:  # fmt: skip
    arguments = rank, stride, padding, dilation, groups, settings.BACKEND
    key, call = _made_before("fprop", input, weight, bias, arguments)
    if call is TORCHS:
        return TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
    if call is not None:
        return again(call, input, weight, bias)
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        return _without_tensors(
            f"conv{rank}d", TORCH_CONV[rank], input, weight, bias, stride, padding, dilation, groups
        )
    if isinstance(padding, str) and (near := near_word(padding, rank)):
        raise RuntimeError(f"Invalid padding string: {padding!r}, did you mean {near!r}?")
    torchs_own = is_torchs_own(input, weight)
    if torchs_own and is_torchs(padding, stride, rank):
        if not (input.is_cpu and pays_on_cpu("fprop", input, weight, stride, padding, 0, dilation, groups)):
            return TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
        if is_cast(input, weight, bias):
            cast = partial(conv, rank, stride=stride, padding=padding, dilation=dilation, groups=groups)
            return autocast(cast, "cpu", input, weight, bias)
        key, call = _remembered("fprop", input, weight, bias, arguments)
        if call is not None:
            return again(call, input, weight, bias)
        if not is_plain(input, weight, bias):  # compilers, transforms and modes keep the operator that they know
            return TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
        torchs_own = False
    concrete = is_concrete(input)
    if concrete and torch._C._is_tracing():
        return traced.conv(rank, input, weight, bias, stride, padding, dilation, groups)
    bias_shape = None if bias is None else bias.shape
    described = input.shape, weight.shape, bias_shape, stride, padding, dilation, groups, rank
    found = look_up(cached_conv_geometry, described) if concrete else conv_geometry(*described)
    if found is None or (torchs_own and not input.is_floating_point()):
        return torchs_answer(torch_conv(rank, input, weight, bias, stride, padding, dilation, groups))
    if key is not None and is_torchs(padding, stride, rank) and is_torchs_by_name("fprop", input, weight, bias, found):
        result = TORCH_CONV[rank](input, weight, bias, stride, padding, dilation, groups)
        if lies_as_ours(result, input, weight):
            remember(_torchs, key_for_torch(input, weight, bias, "fprop", arguments), TORCHS)
            return result
    return _batched(rank, "fprop", input, weight, bias, found, key)


def conv_transpose(
    rank: int, input: Tensor, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any,
) -> Tensor:  # fmt: skip
    torchs = TORCH_CONV_TRANSPOSE[rank]
    arguments = rank, stride, padding, output_padding, dilation, groups, settings.BACKEND
    key, call = _made_before("dgrad", input, weight, bias, arguments)
    if call is TORCHS:
        return torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None:
        return again(call, input, weight, bias)
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        settings_ = stride, padding, output_padding, groups, dilation
        return _without_tensors(f"conv_transpose{rank}d", torchs, input, weight, bias, *settings_)
    if is_torchs_own(input, weight):
        geometry = stride, padding, output_padding, dilation, groups
        if not (input.is_cpu and pays_on_cpu("dgrad", input, weight, *geometry)):
            return torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
        if is_cast(input, weight, bias):
            sizes = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
            return autocast(partial(conv_transpose, rank, groups=groups, **sizes), "cpu", input, weight, bias)
        key, call = _remembered("dgrad", input, weight, bias, arguments)
        if call is not None:
            return again(call, input, weight, bias)
        if not is_plain(input, weight, bias):
            return torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
    concrete = is_concrete(input)
    if concrete and torch._C._is_tracing():
        return traced.conv_transpose(rank, input, weight, bias, stride, padding, output_padding, groups, dilation)
    bias_shape = None if bias is None else bias.shape
    described = input.shape, weight.shape, bias_shape, stride, padding, output_padding, dilation, groups, rank
    found = look_up(cached_conv_transpose_geometry, described) if concrete else conv_transpose_geometry(*described)
    if found is None:
        return torchs_answer(torchs(input, weight, bias, stride, padding, output_padding, groups, dilation))
    if key is not None and is_torchs_by_name("dgrad", input, weight, bias, found):
        result = torchs(input, weight, bias, stride, padding, output_padding, groups, dilation)
        if lies_as_ours(result, input, weight):
            remember(_torchs, key_for_torch(input, weight, bias, "dgrad", arguments), TORCHS)
            return result
    return _batched(rank, "dgrad", input, weight, bias, found, key)


# Calls that were made before, by all that their answer depends on: the next one asks none of the questions below again.
_calls: dict[Any, Call] = {}
_torchs: dict[Any, str] = {}
remembered.FORGET.extend((_calls.clear, _torchs.clear))


def _made_before(
    face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The key of a call, and the call where it was made before.

    A key has what is plain eager code, and a kernel of ours computes whatever requires gradients. Most calls on a CPU
    are torch's, for which no key is made.
    """
    if settings.BACKEND == "auto" and not (type(input) is Tensor and input.is_cuda):
        return None, None
    return _remembered(face, input, weight, bias, arguments)


def _remembered(
    face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """`_made_before` of a call that is no plain one of torch's."""
    if not is_plain_state():
        return None, None
    try:
        by_ours = settings.BACKEND in ATEN and not saves_alike(input, weight, bias)
        if settings.BACKEND in ATEN and not by_ours:
            call = _torchs.get(key_for_torch(input, weight, bias, face, arguments))
            if call is not None:
                return None, call
        key = key_of(input, weight, bias, face, arguments)
        if by_ours and key is not None:
            key = "by ours, which keeps less", key
        return key, _calls.get(key)
    except (TypeError, AttributeError):  # a list among the arguments, or what is no tensor
        return None, None


def _batched(
    rank: int, face: Face, input: Tensor, weight: Tensor, bias: Tensor | None, found: Geometry, key: Any
) -> Tensor:
    """The face, with a batch axis of one put around an unbatched input. A call with a key is remembered."""
    if input.dim() == rank + 1:
        return convolve(face, input.unsqueeze(0), weight, bias, *found, settings.BACKEND).squeeze(0)
    geometry = (*found, settings.BACKEND)
    result = convolve(face, input, weight, bias, *geometry)
    run = None if key is None else run_of(face, input, weight, bias, geometry)
    if run is not None:
        remember(_calls, key, Call(face, geometry, run))
    return result


def _without_tensors(name: str, torchs: Callable[..., Any], *arguments: Any) -> Any:
    """torch.fx's proxies, and whatever else stands for tensors, see our function; a mistake gets torch's TypeError."""
    operands = arguments[:3]
    if torch.overrides.has_torch_function(operands):
        from convext import functional

        return torch.overrides.handle_torch_function(getattr(functional, name), operands, *arguments)
    return torchs(*arguments)
