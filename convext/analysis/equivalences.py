"""Layers that compute the same thing in another form, each with the difference that was measured.

Every function returns an `Equivalence`: the other form, in the dtype of the original and sharing nothing with it, and
the largest difference between both outputs on a random input, computed in float64. Where the algebra is exact this is
the rounding of the new weights to the dtype of the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from convext.analysis.geometry import dense_kernel
from convext.layers import CONV, SpatiallySeparableConv2d
from convext.nn import Conv1d, Conv2d, Conv3d

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Equivalence(Generic[M]):
    """A module equal to another one, and max |difference| of their outputs in float64."""

    module: M
    error: float


def pointwise_as_linear(conv: nn.Module) -> Equivalence[nn.Linear]:
    """The linear layer that a 1x1 convolution applies to the channels of every position: [.., C] -> [.., K].

    Raises ValueError where `conv` has more than one tap, a stride, padding, or groups.
    """
    layer: Any = conv
    if layer.weight[0, 0].numel() != 1 or layer.groups != 1 or set(layer.stride) != {1}:
        raise ValueError(f"expected one tap, groups 1 and stride 1, got {layer}")
    if layer.padding != "same" and layer.padding != "valid" and any(layer.padding):
        raise ValueError(f"expected no padding, got padding={layer.padding}")
    linear = nn.Linear(layer.in_channels, layer.out_channels, layer.bias is not None).to(layer.weight)
    _copy(linear, layer.weight.flatten(1), layer.bias)
    rank = layer.weight.dim() - 2
    sample = _random(2, layer.in_channels, *(5, 4, 3)[:rank])
    return _measured(conv, linear, sample, call=_channels_last)


def linear_as_pointwise(linear: nn.Linear, rank: int = 2) -> Equivalence[Conv1d | Conv2d | Conv3d]:
    """The 1x1 convolution that applies `linear` at every position of a map of `rank` axes."""
    conv = _like(linear, rank, linear.in_features, linear.out_features, 1)
    _copy(conv, linear.weight.unflatten(1, (-1, *[1] * rank)), linear.bias)
    sample = _random(2, linear.in_features, *(5, 4, 3)[:rank])
    return _measured(linear, conv, sample, call_original=_channels_last)


def linear_as_convolution(linear: nn.Linear, shape: Sequence[int]) -> Equivalence[Conv1d | Conv2d | Conv3d]:
    """The convolution that does on a map [C, *size] what `linear` does on it flattened: one output, kernel = size.

    On larger maps it slides, and so turns a classifier into one for every position.

    Args:
        linear: C * prod(size) features in, M out.
        shape: (C, *size), with one, two or three axes.

    Raises:
        ValueError: `shape` has another number of elements than `linear` has inputs.
    """
    channels, *size = shape
    if linear.in_features != torch.Size(shape).numel():
        raise ValueError(f"expected {linear.in_features} elements, got {torch.Size(shape).numel()} in {tuple(shape)}")
    conv = _like(linear, len(size), channels, linear.out_features, tuple(size))
    _copy(conv, linear.weight.unflatten(1, tuple(shape)), linear.bias)
    sample = _random(2, *shape)
    return _measured(
        linear, conv, sample, call=lambda m, x: m(x).flatten(1), call_original=lambda m, x: m(x.flatten(1))
    )


def dilated_as_dense(conv: nn.Module) -> Equivalence[nn.Module]:
    """The convolution without dilation whose kernel has zeros between the taps: same output, (k-1)d + 1 taps."""
    layer: Any = conv
    dense = copy.deepcopy(layer)
    dense.weight = nn.Parameter(dense_kernel(layer.weight.detach(), layer.dilation))
    dense.kernel_size, dense.dilation = tuple(dense.weight.shape[2:]), (1,) * len(layer.dilation)
    size = [k + 4 for k in dense.kernel_size]
    return _measured(conv, dense, _random(2, layer.in_channels, *size))


def transposed_as_gradient(transposed: nn.Module) -> Equivalence[nn.Module]:
    """The convolution whose input gradient the transposed layer, less its bias, computes. It is not an inverse.

    The error compares the layer with autograd's gradient of that convolution.
    """
    layer: Any = transposed
    rank = len(layer.kernel_size)
    conv = CONV[rank](
        layer.out_channels, layer.in_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, bias=False,
    ).to(layer.weight)  # fmt: skip
    _copy(conv, layer.weight, None)
    exact, forward = copy.deepcopy(layer).cpu().double(), copy.deepcopy(conv).cpu().double()
    exact.bias = None
    y = _random(2, layer.in_channels, *(5, 4, 3)[:rank])
    x = torch.zeros_like(exact(y)).requires_grad_()
    (gradient,) = torch.autograd.grad(forward(x), x, y)
    return Equivalence(conv, (exact(y) - gradient).abs().max().item())


def separate(conv: nn.Module, components: int = 1) -> Equivalence[SpatiallySeparableConv2d]:
    """The best pair of a (1, kw) and a (kh, 1) convolution with `components` maps in between, by SVD.

    The weight as a matrix [C * kw, K * kh] is cut to its largest `components` singular values (Jaderberg et al.,
    arXiv 1405.3866, scheme 2): nothing of that size is closer. Exact from the rank of this matrix on, at most
    min(C * kw, K * kh).

    Raises ValueError for groups, or padding other than zeros.
    """
    layer: Any = conv
    if layer.groups != 1 or layer.padding_mode != "zeros":
        raise ValueError(f"expected groups 1 and zero padding, got {layer}")
    k, c, kh, kw = layer.weight.shape
    matrix = layer.weight.detach().double().permute(1, 3, 0, 2).reshape(c * kw, k * kh)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    n = min(components, len(s))
    rows = (u[:, :n] * s[:n].sqrt()).T.reshape(n, c, 1, kw)
    columns = (v[:n] * s[:n, None].sqrt()).reshape(n, k, kh, 1).transpose(0, 1)
    pair = SpatiallySeparableConv2d(
        c, k, (kh, kw), layer.stride, layer.padding, layer.dilation, n, layer.bias is not None
    ).to(layer.weight)  # fmt: skip
    _copy(pair[0], rows, None)
    _copy(pair[1], columns, layer.bias)
    size = [d * (n - 1) + 6 for n, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    return _measured(conv, pair, _random(2, c, *size))


def fold_batchnorm(conv: nn.Module, norm: nn.Module) -> Equivalence[nn.Module]:
    """The convolution that does what `conv` followed by the batch norm `norm` does in eval mode.

        w' = w * gamma / sqrt(var + eps);   b' = (b - mean) * gamma / sqrt(var + eps) + beta

    Raises ValueError where the norm keeps no running statistics, or has other channels than `conv` gives.
    """
    folded: Any = copy.deepcopy(conv)
    stats: Any = norm
    if stats.running_mean is None or stats.num_features != folded.out_channels:
        raise ValueError(f"expected running statistics of {folded.out_channels} channels, got {norm}")
    mean, variance = stats.running_mean.double(), stats.running_var.double()
    gamma = stats.weight.detach().double() if stats.affine else torch.ones_like(mean)
    beta = stats.bias.detach().double() if stats.affine else torch.zeros_like(mean)
    scale = gamma / (variance + stats.eps).sqrt()
    bias = torch.zeros_like(mean) if folded.bias is None else folded.bias.detach().double()
    weight = folded.weight.detach()
    folded.weight = nn.Parameter((weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight))
    folded.bias = nn.Parameter(((bias - mean) * scale + beta).to(weight))
    size = [(k - 1) * d + 5 for k, d in zip(folded.kernel_size, folded.dilation, strict=True)]
    return _measured(nn.Sequential(conv, norm), folded, _random(2, folded.in_channels, *size))


# -------------------------------------------------------------------------------------------------- measuring

Call = Callable[[Any, Tensor], Tensor]


def _measured(
    original: nn.Module,
    other: M,
    sample: Tensor,
    call: Call = nn.Module.__call__,
    call_original: Call = nn.Module.__call__,
) -> Equivalence[M]:
    """Compares both modules in float64 and eval mode, on copies: the callers' stay as they are."""
    a, b = (copy.deepcopy(m).cpu().double().eval() for m in (original, other))
    with torch.no_grad():
        difference = call_original(a, sample) - call(b, sample)
    return Equivalence(other, difference.abs().max().item())


def _channels_last(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.movedim(1, -1)).movedim(-1, 1)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _like(linear: nn.Linear, rank: int, *arguments: Any) -> Any:
    conv: Any = CONV[rank]
    return conv(*arguments, bias=linear.bias is not None).to(linear.weight)


def _copy(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
