"""Torch's fused operator for CPUs: oneDNN's convolution with an activation, and a sum, before its store.

The weight is laid out once in the blocks that oneDNN wants; torch's own convolution does that in every call. The result
is channels last, whatever the input's format.

Its relu, clamp and hardsigmoid turn NaN into a number, where torch's keep it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from convext.problem.epilogue import Epilogue

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
_MOST_SHAPES = 1024  # of inputs whose results are known


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


@cache
def dtypes() -> frozenset[torch.dtype]:
    """In which oneDNN computes on this processor; none where torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    half = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32, *half})


def is_on() -> bool:
    """Whether oneDNN is switched on: torch.backends.mkldnn.enabled, which takes longer to ask."""
    return torch._C._get_mkldnn_enabled()  # type: ignore[no-any-return]


def lay_out(conv: Any) -> None:
    """Gives `conv` a weight that is channels last, as results are here: else each call of its own would copy it."""
    weight = conv.weight.detach().contiguous(memory_format=_CHANNELS_LAST[conv.weight.dim()])
    conv.weight = nn.Parameter(weight, requires_grad=False)


class Packed:
    """A convolution's weight in oneDNN's blocks, for as long as the weight is the same, and what follows the sum.

    What is written into `weight.data`, past autograd's count of versions, is not seen.
    """

    def __init__(self, conv: Any, epilogue: Epilogue) -> None:
        self._of = conv.weight.detach()  # kept, so that no other weight can lie where this one does
        self._version = _version(conv.weight)
        self._geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self._weight: Tensor | None = None  # in blocks that depend on the first input's shape
        attr, algorithm = _NAMES[epilogue.name]
        self._alone = *self._geometry, attr, list(epilogue.scalars), algorithm
        self._added: tuple[Any, ...] = *self._geometry, "add", 1.0, None if attr == "none" else attr, [], None
        self._results: dict[torch.Size, torch.Size | None] = {}

    def is_of(self, weight: Tensor) -> bool:
        """Whether `weight` is what was laid out."""
        return (
            self._of.data_ptr() == weight.data_ptr()
            and self._of.dtype is weight.dtype
            and self._version == _version(weight)
        )

    def takes(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether `run` computes it. Not what is empty, nor what torch refuses; and torch adds in float32 alone."""
        shape = self._result_of(x.shape)
        if shape is None or residual is None:
            return shape is not None
        return residual.shape == shape and residual.dtype is x.dtype is torch.float32

    def _result_of(self, shape: torch.Size) -> torch.Size | None:
        if shape not in self._results:
            if len(self._results) >= _MOST_SHAPES:
                self._results.clear()
            self._results[shape] = _result(shape, self._of.shape, *self._geometry)
        return self._results[shape]

    def run(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """epilogue(conv(x) + bias + residual)."""
        if self._weight is None:
            lay_out = torch.ops.mkldnn._reorder_convolution_weight
            self._weight = lay_out(self._of, *self._geometry, list(x.shape))
        x = x.contiguous(memory_format=_CHANNELS_LAST[x.dim()])  # for oneDNN would do it slower
        operator = torch.ops.mkldnn._convolution_pointwise
        if residual is None:
            return operator.default(x, self._weight, bias, *self._alone)  # type: ignore[no-any-return]
        return operator.binary(x, residual, self._weight, bias, *self._added)  # type: ignore[no-any-return]


def _result(
    x: torch.Size, w: torch.Size, padding: list[int], stride: list[int], dilation: list[int], groups: int
) -> torch.Size | None:
    if len(x) != len(w) or x[1] != w[1] * groups or min(x) < 1:
        return None
    per_axis = zip(x[2:], padding, dilation, w[2:], stride, strict=True)
    space = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, p, d, k, s in per_axis]
    return torch.Size((x[0], w[0], *space)) if min(space) > 0 else None


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
