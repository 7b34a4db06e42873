"""Torch's fused operator for CPUs: oneDNN's convolution with an activation, and a sum, before its store.

The weight is laid out once in the blocks that oneDNN wants; torch's own convolution does that in every call. The result
is channels last, whatever the input's format. A sum comes before the activation, which is ReLU then or none.

Its relu, clamp and hardsigmoid turn NaN into a number, where torch's keep it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.conversion.fusion import packed
from convext.problem.epilogue import Epilogue
from convext.providers import onednn

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


def is_on() -> bool:
    """Whether oneDNN is switched on: torch.backends.mkldnn.enabled, which takes longer to ask."""
    return torch._C._get_mkldnn_enabled()  # type: ignore[no-any-return]


def finishes(conv: Any, adds: bool) -> bool:
    """Whether what follows is computed before the store. To the results of several groups torch adds after it."""
    return conv.weight.dtype in onednn.dtypes() and is_on() and (not adds or conv.groups == 1)


def lay_out(conv: Any) -> None:
    """Gives `conv` a weight that is channels last, as results are here: else each call of its own would copy it."""
    weight = conv.weight.detach().contiguous(memory_format=_CHANNELS_LAST[conv.weight.dim()])
    conv.weight = nn.Parameter(weight, requires_grad=False)


class Packed(packed.Packed):
    """A convolution's weight in oneDNN's blocks, and what follows the sum."""

    def __init__(self, conv: Any, epilogue: Epilogue) -> None:
        super().__init__(conv)
        self._blocks: Tensor | None = None  # which depend on the first input's shape
        attr, algorithm = _NAMES[epilogue.name]
        self._alone = *self.geometry, attr, list(epilogue.scalars), algorithm
        self._added: tuple[Any, ...] = *self.geometry, "add", 1.0, None if attr == "none" else attr, [], None

    def takes(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether `run` computes it. Not what is empty, nor what torch refuses."""
        if x.dtype not in onednn.dtypes() or not is_on():
            return False
        shape = self.result_of(x.shape)
        if shape is None or residual is None:
            return shape is not None
        adds = self.geometry[-1] == 1 or x.dtype is torch.float32  # to groups' results torch adds, in float32 alone
        return adds and residual.shape == shape and residual.dtype is x.dtype

    def run(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """epilogue(conv(x) + bias + residual)."""
        if self._blocks is None:
            lay_out = torch.ops.mkldnn._reorder_convolution_weight
            self._blocks = lay_out(self.weight, *self.geometry, list(x.shape))
        x = x.contiguous(memory_format=_CHANNELS_LAST[x.dim()])  # for oneDNN would do it slower
        operator = torch.ops.mkldnn._convolution_pointwise
        if residual is None:
            return operator.default(x, self._blocks, bias, *self._alone)  # type: ignore[no-any-return]
        return operator.binary(x, residual, self._blocks, bias, *self._added)  # type: ignore[no-any-return]
