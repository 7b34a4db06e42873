"""What may follow a convolution before its result is stored: an activation, one name for every kernel.

    y = activation(conv(x, w) + bias) (+ residual)

The same piece exists four times, once for each language that kernels are written in: here in torch's operators, in
`triton_kernels/epilogue.py`, in `csrc/cpu/shared/epilogue.h` and, for CUDA C++, in `csrc/shared/epilogue.cuh`. Each has
the activation, and all but the last have, of the first four, the derivative by the sum that it is applied to, which a
backward pass computes anew from that sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# As csrc/cpu/shared/problem.h counts them. The first four are those of causal convolutions.
NAMES = (
    "identity", "silu", "gelu", "relu",
    "leaky_relu", "clamp", "hardswish", "hardsigmoid", "gelu_tanh", "sigmoid", "tanh",
)  # fmt: skip
IDENTITY, SILU, GELU, RELU = ACTIVATIONS = NAMES[:4]
_SPELLINGS: dict[str | None, str] = {None: IDENTITY, "swish": SILU, **{name: name for name in ACTIVATIONS}}
_SCALARS = {"leaky_relu": 1, "clamp": 2}  # how many numbers belong to an activation


@dataclass(frozen=True)
class Epilogue:
    """An activation.

    Attributes:
        name: one of `NAMES`.
        scalars: the slope of "leaky_relu"; the least and the greatest value of "clamp".

    Raises:
        ValueError: another name, or another number of scalars.
    """

    name: str = IDENTITY
    scalars: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"activation must be one of {', '.join(NAMES)}, but got {self.name!r}")
        if len(self.scalars) != _SCALARS.get(self.name, 0):
            raise ValueError(f"{self.name} takes {_SCALARS.get(self.name, 0)} scalars, but got {list(self.scalars)}")

    def __call__(self, z: Tensor) -> Tensor:
        return _TORCHS[self.name][0](z, *self.scalars)

    def in_place(self, z: Tensor) -> Tensor:
        """The same, written over `z` where torch has an operator for it."""
        return _TORCHS[self.name][1](z, *self.scalars)

    def gradient(self, grad: Tensor, z: Tensor) -> Tensor:
        """The gradient by `z`, given `grad`, that by `self(z)`: in operators that can be differentiated themselves."""
        return _GRADIENTS[self.name](grad, z, *self.scalars)

    @property
    def derives_from_result(self) -> bool:
        """Whether the derivative is a function of the result, so that `gradient` takes that in place of `z` as well.

        Not that of clamp: torch's is 1 at the bounds, and 0 beyond, where the result is the same.
        """
        return self.name in (IDENTITY, RELU) or (self.name == "leaky_relu" and self.scalars[0] > 0)

    def __str__(self) -> str:
        return f"{self.name}{self.scalars or ''}"


def _gelu_tanh(z: Tensor) -> Tensor:
    return F.gelu(z, approximate="tanh")


# By name: torch's function, and the one that works in place.
_TORCHS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    IDENTITY: (lambda z: z, lambda z: z),
    SILU: (F.silu, lambda z: F.silu(z, inplace=True)),
    GELU: (F.gelu, F.gelu),
    RELU: (torch.relu, torch.relu_),
    "leaky_relu": (F.leaky_relu, F.leaky_relu_),
    "clamp": (torch.clamp, torch.clamp_),
    "hardswish": (F.hardswish, lambda z: F.hardswish(z, inplace=True)),
    "hardsigmoid": (F.hardsigmoid, lambda z: F.hardsigmoid(z, inplace=True)),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh),
    "sigmoid": (torch.sigmoid, torch.sigmoid_),
    "tanh": (torch.tanh, torch.tanh_),
}

# Gradients by the sum z, given that by the result: torch's own operators, differentiable themselves.
_GRADIENTS: dict[str, Callable[..., Tensor]] = {
    IDENTITY: lambda grad, z: grad,
    SILU: lambda grad, z: grad * (s := z.sigmoid()) * (1 + z * (1 - s)),
    GELU: lambda grad, z: torch.ops.aten.gelu_backward(grad, z),
    RELU: lambda grad, z: torch.where(z > 0, grad, 0),
    "leaky_relu": lambda grad, z, slope: torch.where(z > 0, grad, grad * slope),
    "clamp": lambda grad, z, low, high: torch.where((z >= low) & (z <= high), grad, 0),
    "hardswish": lambda grad, z: torch.ops.aten.hardswish_backward(grad, z),
    "hardsigmoid": lambda grad, z: torch.where((z > -3) & (z < 3), grad / 6, 0),
    "gelu_tanh": lambda grad, z: torch.ops.aten.gelu_backward(grad, z, approximate="tanh"),
    "sigmoid": lambda grad, z: grad * (s := z.sigmoid()) * (1 - s),
    "tanh": lambda grad, z: grad * (1 - z.tanh().square()),
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
    return _TORCHS[activation][0](z)


def gradient(activation: str, grad: Tensor, z: Tensor) -> Tensor:
    """The gradient by `z`, given `grad`, that by `apply(activation, z)`."""
    return _GRADIENTS[activation](grad, z)
