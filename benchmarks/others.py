"""Kernels of other packages, where these are installed, for what they are made for: short causal depthwise layers.

    causal_conv1d   causal_conv1d_fn(x [N, C, L], w [C, 2..4])             in either layout
    fla             ShortConvolution(C, k)(x [N, L, C]) of                 channels last only
                    flash-linear-attention, its Triton kernel

They pass the same gate as everybody. Rows compare with torch, so neither is a baseline.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from convext.benchmarks.case import Case, Tensors

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Other = tuple[str, str, Callable[[Tensors], Tensor]]  # provider, layout, call


def others(case: Case) -> list[Other]:
    """What installed packages offer for a case; they are imported at the first call."""
    if case.device != "cuda" or case.dtype not in DTYPES or not _causal(case):
        return []
    channels, width = case.layer.input[1], case.layer.weight[-1]
    found: list[Other] = []
    if _installed("causal_conv1d") and 2 <= width <= 4:
        found.append(("causal_conv1d", "nc", _causal_conv1d))
        if channels % 8 == 0:  # what it asks of strides where channels are last
            found.append(("causal_conv1d", "cl", _causal_conv1d))
    if _installed("fla"):
        found.append(("fla.ShortConvolution", "cl", lambda t: _short_convolution(t, channels, width)))
    return found


def _causal(case: Case) -> bool:
    """Whether this is the forward of a depthwise layer in 1-D whose output ends where its input ends."""
    layer = case.layer
    if case.work != "fprop" or len(layer.stride) != 1 or layer.transposed:
        return False
    whole = layer.groups == layer.input[1] == layer.weight[0] and layer.stride == layer.dilation == (1,)
    return whole and layer.begin == (layer.weight[-1] - 1,) and layer.end == (0,)


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _causal_conv1d(t: Tensors) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # type: ignore[import-not-found]

    return causal_conv1d_fn(t["x"], t["w"][:, 0])


@cache
def _module(channels: int, width: int, dtype: torch.dtype) -> Any:
    from fla.modules import ShortConvolution  # type: ignore[import-not-found]

    return ShortConvolution(channels, width, activation=None, device="meta", dtype=dtype)


def _short_convolution(t: Tensors, channels: int, width: int) -> Tensor:
    layer = _module(channels, width, t["w"].dtype)
    layer.weight = torch.nn.Parameter(t["w"], requires_grad=False)
    result, _ = layer(t["x"].transpose(1, 2))
    return result.transpose(1, 2)
