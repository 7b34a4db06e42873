"""What may follow a convolution before its result is stored: an activation, one name for every kernel.

The same piece exists three times, once in each language that kernels are written in: here in torch's operators, in
`triton_kernels/epilogue.py` and in `csrc/cpu/shared/epilogue.h`. Each has the activation and its derivative by the sum
that it is applied to, which a backward pass computes anew from that sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

IDENTITY, SILU, GELU, RELU = ACTIVATIONS = ("identity", "silu", "gelu", "relu")
_SPELLINGS: dict[str | None, str] = {None: IDENTITY, "swish": SILU, **{name: name for name in ACTIVATIONS}}

# Gradients by the sum z, given that by the result: torch's own operators, differentiable themselves.
_APPLY: dict[str, Callable[[Tensor], Tensor]] = {
    SILU: torch.nn.functional.silu,
    GELU: torch.nn.functional.gelu,
    RELU: torch.relu,
}
_GRADIENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    SILU: lambda grad, z: grad * (s := z.sigmoid()) * (1 + z * (1 - s)),
    GELU: lambda grad, z: torch.ops.aten.gelu_backward(grad, z),
    RELU: lambda grad, z: torch.where(z > 0, grad, 0),
}


def activation_named(name: str | None) -> str:
    """The one of ACTIVATIONS that `name` means.

    Args:
        name: None, "identity", "silu" or its other name "swish", "gelu" (by the error function), "relu".

    Raises:
        ValueError: none of these.
    """
    if not (name is None or isinstance(name, str)) or name not in _SPELLINGS:
        raise ValueError(f"activation must be None, 'silu' ('swish'), 'gelu' or 'relu', but got {name!r}")
    return _SPELLINGS[name]


def apply(activation: str, z: Tensor) -> Tensor:
    """The activation of `z`, element by element; `z` itself for the identity."""
    return z if activation == IDENTITY else _APPLY[activation](z)


def gradient(activation: str, grad: Tensor, z: Tensor) -> Tensor:
    """The gradient by `z`, given `grad`, that by `apply(activation, z)`."""
    return grad if activation == IDENTITY else _GRADIENT[activation](grad, z)
