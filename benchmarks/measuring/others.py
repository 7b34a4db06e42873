"""Kernels of other packages, where these are installed, through the calls that they document.

    causal_conv1d   causal_conv1d_fn(x [N, C, L], w [C, 2..4])    short causal depthwise layers, in either layout
    fla             ShortConvolution(C, k)(x [N, L, C])           these, channels last: flash-linear-attention in Triton
    cudnn           ops.causal_conv1d(x [N, C, L], w [C, k])      these, channels first, on Blackwell: cudnn-frontend
    flag_gems       conv2d(x, w, ...)                             2-D, channels first; tunes itself at each new size

They pass the same gate as everybody. Rows compare with torch, so none of them is a baseline.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from convext.benchmarks.cases.case import Case, Tensors
from convext.benchmarks.cases.layers import Layer

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Other = tuple[str, str, Callable[[Tensors], Tensor]]  # provider, layout, call


def others(case: Case, compiled: bool = False) -> list[Other]:
    """What installed packages offer for a case; they are imported at the first call.

    Args:
        case: what is timed.
        compiled: those too that take seconds to find their fastest tile.
    """
    if case.device != "cuda" or case.work != "fprop" or case.layer.transposed or case.dtype not in DTYPES:
        return []
    found = _short(case) if _causal(case) else []
    layer = case.layer
    if compiled and len(layer.stride) == 2 and layer.begin == layer.end and _installed("flag_gems"):
        found.append(("flag_gems", "nc", lambda t: _flag_gems(t, layer)))
    return found


def _short(case: Case) -> list[Other]:
    """What takes a short causal depthwise layer."""
    channels, width = case.layer.input[1], case.layer.weight[-1]
    found: list[Other] = []
    if _installed("causal_conv1d") and 2 <= width <= 4:
        found.append(("causal_conv1d", "nc", _causal_conv1d))
        if channels % 8 == 0:  # what it asks of strides where channels are last
            found.append(("causal_conv1d", "cl", _causal_conv1d))
    if _installed("fla"):
        found.append(("fla.ShortConvolution", "cl", lambda t: _short_convolution(t, channels, width)))
    if _installed("cudnn") and torch.cuda.get_device_capability() >= (10, 0) and _installed("cudnn.ops"):
        found.append(("cudnn.ops", "nc", _cudnn))
    return found


def _causal(case: Case) -> bool:
    """Whether this is a depthwise layer in 1-D whose output ends where its input ends."""
    layer = case.layer
    depthwise = layer.groups == layer.input[1] == layer.weight[0] and layer.stride == layer.dilation == (1,)
    return depthwise and layer.begin == (layer.weight[-1] - 1,) and layer.end == (0,)


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _causal_conv1d(t: Tensors) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # type: ignore[import-not-found]

    return causal_conv1d_fn(t["x"], t["w"][:, 0])


def _cudnn(t: Tensors) -> Tensor:
    import cudnn  # type: ignore[import-not-found]

    return cudnn.ops.causal_conv1d(t["x"], t["w"][:, 0])


def _flag_gems(t: Tensors, layer: Layer) -> Tensor:
    import flag_gems  # type: ignore[import-not-found]

    return flag_gems.conv2d(t["x"], t["w"], None, layer.stride, layer.begin, layer.dilation, layer.groups)


@cache
def _module(channels: int, width: int, dtype: torch.dtype) -> Any:
    from fla.modules import ShortConvolution  # type: ignore[import-not-found]

    return ShortConvolution(channels, width, activation=None, device="meta", dtype=dtype)


def _short_convolution(t: Tensors, channels: int, width: int) -> Tensor:
    layer = _module(channels, width, t["w"].dtype)
    layer.weight = torch.nn.Parameter(t["w"], requires_grad=False)
    result, _ = layer(t["x"].transpose(1, 2))
    return result.transpose(1, 2)
