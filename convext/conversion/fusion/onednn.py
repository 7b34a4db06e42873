"""Torch's fused operator for CPUs: oneDNN's convolution with an activation, and a sum, before its store.

The weight is laid out once in the blocks that oneDNN wants; torch's own convolution does that in every call. The result
is channels last, whatever the input's format.

Its relu, clamp and hardsigmoid turn NaN into a number, where torch's keep it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.conversion.fusion.epilogues import Epilogue

# By our name: oneDNN's, and the algorithm of those that have several.
_NAMES = {
    "identity": ("none", ""),
    "relu": ("relu", ""),
    "leaky_relu": ("leaky_relu", ""),
    "clamp": ("hardtanh", ""),
    "silu": ("swish", ""),
    "hardswish": ("hardswish", ""),
    "hardsigmoid": ("hardsigmoid", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "sigmoid": ("sigmoid", ""),
    "tanh": ("tanh", ""),
}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_AFTER_A_SUM = ("identity", "relu")


def takes(conv: Any, epilogue: Epilogue, adds: bool) -> bool:
    """Whether the operator computes `conv` with what follows it, on a CPU and in a dtype that oneDNN has."""
    return (
        not conv.transposed
        and conv.weight.dim() in _CHANNELS_LAST
        and conv.padding_mode == "zeros"
        and all(isinstance(side, int) for side in conv.padding)
        and not nn.utils.parametrize.is_parametrized(conv)
        and (not adds or epilogue.name in _AFTER_A_SUM)
    )


def has(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here, switched on, and computes in `dtype` on this processor."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def lay_out(conv: Any) -> None:
    """Gives `conv` a weight that is channels last, as results are here: else each call of its own would copy it."""
    weight = conv.weight.detach().contiguous(memory_format=_CHANNELS_LAST[conv.weight.dim()])
    conv.weight = nn.Parameter(weight, requires_grad=False)


class Packed:
    """A convolution's weight in oneDNN's blocks, for as long as the weight is the same.

    What is written into `weight.data`, past autograd's count of versions, is not seen.
    """

    def __init__(self, conv: Any, x: Tensor) -> None:
        self.of = conv.weight.detach()  # kept, so that no other weight can lie where this one does
        self.version = _version(conv.weight)
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.of, *self.geometry, list(x.shape))

    def is_of(self, weight: Tensor) -> bool:
        return (
            self.of.data_ptr() == weight.data_ptr()
            and self.of.dtype is weight.dtype
            and self.version == _version(weight)
        )

    def run(self, x: Tensor, bias: Tensor | None, residual: Tensor | None, epilogue: Epilogue) -> Tensor:
        """epilogue(conv(x) + bias + residual)."""
        x = x.contiguous(memory_format=_CHANNELS_LAST[x.dim()])  # for oneDNN would do it slower
        attr, algorithm = _NAMES[epilogue.name]
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, bias, *self.geometry, attr, list(epilogue.scalars), algorithm
            )  # type: ignore[no-any-return]
        after = None if attr == "none" else attr
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual, self.weight, bias, *self.geometry, "add", 1.0, after, [], None
        )  # type: ignore[no-any-return]


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
