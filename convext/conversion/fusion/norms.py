"""Batch norm in eval mode is a scale and a shift of each channel, which a convolution beside it can do.

norm(conv(x)):   (w x + b) s + t  =  (s w) x + (s b + t)
conv(norm(x)):   w (s x + t) + b  =  (w s) x + (w t + b)     where nothing is padded: a padded zero is no shift
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from convext.conversion.fusion.epilogues import is_watched

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_PARTS = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


@dataclass(frozen=True)
class Affine:
    """scale * x + shift, in float64, one of each a channel."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Affine:
        scale = (var.detach().double() + eps).rsqrt()
        scale = scale if weight is None else scale * weight.detach().double()
        shift = -mean.detach().double() * scale
        return cls(scale, shift if bias is None else shift + bias.detach().double())

    def after(self, conv: Any) -> None:
        """Makes `conv` compute what this does to its result."""
        axis = 1 if conv.transposed else 0
        bias = 0 if conv.bias is None else conv.bias.detach().double()
        _set(conv, conv.weight.detach().double() * _along(self.scale, conv, axis), bias * self.scale + self.shift)

    def before(self, conv: Any) -> None:
        """Makes `conv`, which pads nothing, compute what it does of this."""
        weight, groups = conv.weight.detach().double(), conv.groups
        scale, shift = (
            t.view(groups, 1, -1).expand(-1, conv.out_channels // groups, -1).flatten(0, 1)
            for t in (self.scale, self.shift)
        )
        wide = (..., *[None] * (weight.dim() - 2))
        bias = 0 if conv.bias is None else conv.bias.detach().double()
        _set(conv, weight * scale[wide], bias + (weight * shift[wide]).flatten(1).sum(1))


def _along(scale: Tensor, conv: Any, axis: int) -> Tensor:
    """`scale`, of each channel of the result, beside the weight: [K, C/G, ...], or transposed [C, K/G, ...]."""
    if axis == 0:
        return scale.view(-1, *[1] * (conv.weight.dim() - 1))
    by_group = scale.view(conv.groups, 1, -1).expand(-1, conv.in_channels // conv.groups, -1).flatten(0, 1)
    return by_group.view(*by_group.shape, *[1] * (conv.weight.dim() - 2))


def _set(conv: Any, weight: Tensor, bias: Tensor) -> None:
    conv.weight = nn.Parameter(torch.empty_like(conv.weight).copy_(weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def of_node(node: fx.Node, module: fx.GraphModule) -> Affine | None:
    """What `node` does, if it is a batch norm by running statistics; None for any other call."""
    if node.op == "call_module":
        norm: Any = module.get_submodule(str(node.target))
        if type(norm) not in _KINDS or norm.running_mean is None or norm.training or is_watched(norm):
            return None
        return Affine.of(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    if node.op != "call_function" or node.target is not F.batch_norm:
        return None
    defaults = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
    parts: dict[str, Any] = {**defaults, **dict(zip(_PARTS, node.args[1:], strict=False)), **node.kwargs}
    tensors = [_constant(parts.get(name), module) for name in _PARTS[:4]]
    if parts["training"] or any(isinstance(t, fx.Node) for t in tensors) or any(t is None for t in tensors[:2]):
        return None
    mean, var, weight, bias = tensors
    return Affine.of(mean, var, weight, bias, parts["eps"])


def _constant(value: Any, module: fx.GraphModule) -> Any:
    """The tensor that a node fetches from the module; what is computed stays a node."""
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return value
    found: Any = module
    for name in str(value.target).split("."):
        found = getattr(found, name)
    return found
